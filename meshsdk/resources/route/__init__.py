"""Route configurations, as data and from protobuf."""

from .action_parsing import parse_hash_policies
from .packed import PackedRoutes, VirtualHostBytes, parse_packed_routes
from .retry import RETRY_CONDITIONS, RetryBackOff, RetryOn, RetryPolicy, parse_retry_on
from .route import (
    CookieHash,
    DirectResponse,
    ForwardAction,
    HashPolicy,
    HeaderHash,
    InternalRedirectPolicy,
    MirrorPolicy,
    NonForwardingAction,
    QueryParameterHash,
    Redirect,
    RegexRewrite,
    Route,
    RouteConfiguration,
    StreamDuration,
    VirtualHost,
    WeightedCluster,
)
from .route_parsing import parse_route_configuration

__all__ = [
    "RETRY_CONDITIONS",
    "CookieHash",
    "DirectResponse",
    "ForwardAction",
    "HashPolicy",
    "HeaderHash",
    "InternalRedirectPolicy",
    "MirrorPolicy",
    "NonForwardingAction",
    "PackedRoutes",
    "QueryParameterHash",
    "Redirect",
    "RegexRewrite",
    "RetryBackOff",
    "RetryOn",
    "RetryPolicy",
    "Route",
    "RouteConfiguration",
    "StreamDuration",
    "VirtualHost",
    "VirtualHostBytes",
    "WeightedCluster",
    "parse_hash_policies",
    "parse_packed_routes",
    "parse_retry_on",
    "parse_route_configuration",
]
