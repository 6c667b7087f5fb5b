"""xDS resources as plain Python.

Enters: protobuf messages, from a management server or from a folder of YAML. Leaves: frozen, validated dataclasses.
Protobuf types stop here: nothing to the right of this package sees one. Parsing refuses what Envoy's own validation
rules refuse (`constraints`) and reports what is valid but not acted on (`notes`); past it a value is legal by its type.
"""

from .buffer import Buffer
from .cluster import (
    AggregateDiscovery,
    CircuitBreakers,
    Cluster,
    DiscoveryKind,
    DnsDiscovery,
    EdsDiscovery,
    HttpProtocol,
    StaticDiscovery,
    TcpKeepalive,
    Thresholds,
)
from .codec import RESOURCE_TYPES, ResourceType, Unparsed, decode, name_of, resource_name
from .endpoints import Address, EndpointConfig, Endpoints, HealthStatus, LocalityEndpoints
from .fault import Fault
from .header_mutations import AppendAction, HeaderAddition, HeaderMutations
from .health import HealthCheck, HealthCheckKind, OutlierDetection
from .http_filters import FilterHeaderMutations, FilterSettings, FilterSwitch, HttpFilter
from .lb_policy import LbPolicy, LeastRequest, Random, RoundRobin
from .listener import Listener
from .local_rate_limit import LocalRateLimit
from .matchers import (
    FractionalPercent,
    HeaderMatcher,
    HeaderMatchKind,
    QueryParameterMatcher,
    StringMatcher,
    StringMatchKind,
)
from .notes import Notes
from .path_normalization import EscapedSlashes, PathNormalization
from .route import (
    CookieHash,
    DirectResponse,
    ForwardAction,
    HashPolicy,
    HeaderHash,
    InternalRedirectPolicy,
    MirrorPolicy,
    NonForwardingAction,
    PathMatch,
    PathMatchKind,
    QueryParameterHash,
    Redirect,
    RegexRewrite,
    RetryBackOff,
    RetryPolicy,
    Route,
    RouteConfiguration,
    RouteMatch,
    StreamDuration,
    VirtualHost,
    WeightedCluster,
)
from .server_listener import ServerListener
from .stateful_session import StatefulSession
from .tls import PemSource, SanMatcher, SpiffeDomains, TlsFile, TlsIdentity, TlsProtocol, TlsTrust
from .upstream_tls import UpstreamTls

Resource = Listener | ServerListener | RouteConfiguration | Cluster | Endpoints

__all__ = [
    "RESOURCE_TYPES",
    "Address",
    "AggregateDiscovery",
    "AppendAction",
    "Buffer",
    "CircuitBreakers",
    "Cluster",
    "CookieHash",
    "DirectResponse",
    "DiscoveryKind",
    "DnsDiscovery",
    "EdsDiscovery",
    "EndpointConfig",
    "Endpoints",
    "EscapedSlashes",
    "Fault",
    "FilterHeaderMutations",
    "FilterSettings",
    "FilterSwitch",
    "ForwardAction",
    "FractionalPercent",
    "HashPolicy",
    "HeaderAddition",
    "HeaderHash",
    "HeaderMatchKind",
    "HeaderMatcher",
    "HeaderMutations",
    "HealthCheck",
    "HealthCheckKind",
    "HealthStatus",
    "HttpFilter",
    "HttpProtocol",
    "InternalRedirectPolicy",
    "LbPolicy",
    "LeastRequest",
    "Listener",
    "LocalRateLimit",
    "LocalityEndpoints",
    "MirrorPolicy",
    "NonForwardingAction",
    "Notes",
    "OutlierDetection",
    "PathMatch",
    "PathMatchKind",
    "PathNormalization",
    "PemSource",
    "QueryParameterHash",
    "QueryParameterMatcher",
    "Random",
    "Redirect",
    "RegexRewrite",
    "Resource",
    "ResourceType",
    "RetryBackOff",
    "RetryPolicy",
    "RoundRobin",
    "Route",
    "RouteConfiguration",
    "RouteMatch",
    "SanMatcher",
    "ServerListener",
    "SpiffeDomains",
    "StatefulSession",
    "StaticDiscovery",
    "StreamDuration",
    "StringMatchKind",
    "StringMatcher",
    "TcpKeepalive",
    "Thresholds",
    "TlsFile",
    "TlsIdentity",
    "TlsProtocol",
    "TlsTrust",
    "Unparsed",
    "UpstreamTls",
    "VirtualHost",
    "WeightedCluster",
    "decode",
    "name_of",
    "resource_name",
]
