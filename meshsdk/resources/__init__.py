"""xDS resources as plain Python.

Enters: protobuf messages, from a management server or from a folder of YAML. Leaves: frozen, validated dataclasses.
Protobuf types stop here: nothing to the right of this package sees one. Parsing refuses what Envoy's own validation
rules refuse (`constraints`) and reports what is valid but not acted on (`notes`); past it a value is legal by its type.
"""

from .cluster import (
    AggregateDiscovery,
    CircuitBreakers,
    Cluster,
    DiscoveryKind,
    DnsDiscovery,
    EdsDiscovery,
    HttpProtocol,
    LbPolicy,
    LeastRequest,
    Random,
    RoundRobin,
    StaticDiscovery,
    Thresholds,
)
from .codec import RESOURCE_TYPES, ResourceType, Unparsed, decode, resource_name
from .endpoints import Address, EndpointConfig, Endpoints, HealthStatus, LocalityEndpoints
from .listener import Listener
from .matchers import (
    FractionalPercent,
    HeaderMatcher,
    HeaderMatchKind,
    QueryParameterMatcher,
    StringMatcher,
    StringMatchKind,
)
from .notes import Notes
from .route import (
    AppendAction,
    DirectResponse,
    ForwardAction,
    HeaderAddition,
    HeaderMutations,
    NonForwardingAction,
    PathMatch,
    PathMatchKind,
    Redirect,
    RegexRewrite,
    RetryBackOff,
    RetryPolicy,
    Route,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
    WeightedCluster,
)
from .tls import SanMatcher, TlsFile, UpstreamTls

Resource = Listener | RouteConfiguration | Cluster | Endpoints

__all__ = [
    "RESOURCE_TYPES",
    "Address",
    "AggregateDiscovery",
    "AppendAction",
    "CircuitBreakers",
    "Cluster",
    "DirectResponse",
    "DiscoveryKind",
    "DnsDiscovery",
    "EdsDiscovery",
    "EndpointConfig",
    "Endpoints",
    "ForwardAction",
    "FractionalPercent",
    "HeaderAddition",
    "HeaderMatchKind",
    "HeaderMatcher",
    "HeaderMutations",
    "HealthStatus",
    "HttpProtocol",
    "LbPolicy",
    "LeastRequest",
    "Listener",
    "LocalityEndpoints",
    "NonForwardingAction",
    "Notes",
    "PathMatch",
    "PathMatchKind",
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
    "StaticDiscovery",
    "StringMatchKind",
    "StringMatcher",
    "Thresholds",
    "TlsFile",
    "Unparsed",
    "UpstreamTls",
    "VirtualHost",
    "WeightedCluster",
    "decode",
    "resource_name",
]
