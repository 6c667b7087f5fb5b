"""Routes as data: what a RouteConfiguration says, typed (envoy.config.route.v3).

How it is parsed is in `route_parsing`, how it is carried out in `meshsdk.routing`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntFlag

from .fault import Fault
from .matchers import FractionalPercent, HeaderMatcher, QueryParameterMatcher

__all__ = [
    "Action",
    "AppendAction",
    "DirectResponse",
    "ForwardAction",
    "HeaderAddition",
    "HeaderMutations",
    "NonForwardingAction",
    "PathMatch",
    "PathMatchKind",
    "Redirect",
    "RegexRewrite",
    "RetryBackOff",
    "RetryOn",
    "RetryPolicy",
    "Route",
    "RouteConfiguration",
    "RouteMatch",
    "VirtualHost",
    "WeightedCluster",
]


class AppendAction(Enum):
    """What adding a header does with one that is there already (HeaderValueOption.HeaderAppendAction)."""

    APPEND_IF_EXISTS_OR_ADD = 0
    ADD_IF_ABSENT = 1
    OVERWRITE_IF_EXISTS_OR_ADD = 2
    OVERWRITE_IF_EXISTS = 3


@dataclass(frozen=True, slots=True)
class HeaderAddition:
    """One header to add: its value is a format string (Envoy docs, http_conn_man/headers, custom headers)."""

    name: str
    value: str
    action: AppendAction = AppendAction.APPEND_IF_EXISTS_OR_ADD
    keep_empty_value: bool = False


@dataclass(frozen=True, slots=True)
class HeaderMutations:
    """Headers that one level (route, virtual host, …) removes and adds; Envoy removes first, then adds."""

    add: tuple[HeaderAddition, ...] = ()
    remove: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.add or self.remove)


NO_MUTATIONS = HeaderMutations()


class PathMatchKind(Enum):
    """The alternatives of RouteMatch.path_specifier that meshsdk carries out."""

    PREFIX = "prefix"
    EXACT = "path"
    REGEX = "safe_regex"
    SEPARATED_PREFIX = "path_separated_prefix"


@dataclass(frozen=True, slots=True)
class PathMatch:
    """A condition on the path without its query string."""

    kind: PathMatchKind
    value: str
    case_sensitive: bool = True


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """All conditions of a route; every one must hold (envoy.config.route.v3.RouteMatch)."""

    path: PathMatch
    headers: tuple[HeaderMatcher, ...] = ()
    query_parameters: tuple[QueryParameterMatcher, ...] = ()
    runtime_fraction: FractionalPercent | None = None
    grpc: bool = False


class RetryOn(IntFlag):
    """Conditions under which a request is tried again (Envoy docs, http_filters/router_filter, x-envoy-retry-on)."""

    NONE = 0
    SERVER_ERROR = 1 << 0  # 5xx
    GATEWAY_ERROR = 1 << 1
    RESET = 1 << 2
    RESET_BEFORE_REQUEST = 1 << 3
    CONNECT_FAILURE = 1 << 4
    ENVOY_RATELIMITED = 1 << 5
    RETRIABLE_4XX = 1 << 6
    REFUSED_STREAM = 1 << 7
    RETRIABLE_STATUS_CODES = 1 << 8
    RETRIABLE_HEADERS = 1 << 9
    HTTP3_POST_CONNECT_FAILURE = 1 << 10
    GRPC_CANCELLED = 1 << 11
    GRPC_DEADLINE_EXCEEDED = 1 << 12
    GRPC_INTERNAL = 1 << 13
    GRPC_RESOURCE_EXHAUSTED = 1 << 14
    GRPC_UNAVAILABLE = 1 << 15


@dataclass(frozen=True, slots=True)
class RetryBackOff:
    """Jittered exponential back-off between tries; Envoy's defaults are 25 ms and ten times the base."""

    base_seconds: float = 0.025
    max_seconds: float = 0.25


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When and how often a request is tried again (envoy.config.route.v3.RetryPolicy)."""

    conditions: RetryOn = RetryOn.NONE
    num_retries: int = 1
    per_try_timeout_seconds: float | None = None
    retriable_status_codes: frozenset[int] = frozenset()
    retriable_headers: tuple[HeaderMatcher, ...] = ()
    retriable_request_headers: tuple[HeaderMatcher, ...] = ()
    back_off: RetryBackOff = RetryBackOff()
    avoid_previous_hosts: bool = False
    host_selection_attempts: int = 1


@dataclass(frozen=True, slots=True)
class WeightedCluster:
    """One cluster of a split, with its own header changes (envoy.config.route.v3.WeightedCluster.ClusterWeight)."""

    name: str
    weight: int
    request_headers: HeaderMutations = NO_MUTATIONS
    response_headers: HeaderMutations = NO_MUTATIONS
    host_rewrite: str = ""


@dataclass(frozen=True, slots=True)
class RegexRewrite:
    """Replace every match of an RE2 pattern; `\\1` in the substitution is a group (RegexMatchAndSubstitute)."""

    pattern: str
    substitution: str


@dataclass(frozen=True, slots=True)
class ForwardAction:
    """Send the request to a cluster (envoy.config.route.v3.RouteAction).

    Attributes:
        clusters: One, or the split; weights count only where there are several.
        cluster_header: Request header that names the cluster; then `clusters` is empty.
        timeout_seconds: From the whole request sent to the whole response received; None is no limit.
        cluster_not_found_status: What a missing cluster is answered with.
        host_rewrite_regex: Applied to the path without query, as host_rewrite_path_regex says.
    """

    clusters: tuple[WeightedCluster, ...] = ()
    cluster_header: str = ""
    timeout_seconds: float | None = 15.0
    prefix_rewrite: str = ""
    regex_rewrite: RegexRewrite | None = None
    host_rewrite: str = ""
    host_rewrite_header: str = ""
    host_rewrite_regex: RegexRewrite | None = None
    auto_host_rewrite: bool = False
    append_x_forwarded_host: bool = False
    retry_policy: RetryPolicy | None = None
    cluster_not_found_status: int = 503

    @property
    def cluster_names(self) -> tuple[str, ...]:
        """Every cluster that configuration names; a cluster_header's are known only at the request."""
        return tuple(cluster.name for cluster in self.clusters)


@dataclass(frozen=True, slots=True)
class Redirect:
    """Answer with a Location (envoy.config.route.v3.RedirectAction)."""

    status: int = 301
    https: bool = False
    scheme: str = ""
    host: str = ""
    port: int = 0
    path: str = ""
    prefix_rewrite: str = ""
    regex_rewrite: RegexRewrite | None = None
    strip_query: bool = False


@dataclass(frozen=True, slots=True)
class DirectResponse:
    """Answer at once, without any cluster (envoy.config.route.v3.DirectResponseAction)."""

    status: int
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class NonForwardingAction:
    """A route for servers; a client that matches it has no route (gRFC A36)."""


Action = ForwardAction | Redirect | DirectResponse | NonForwardingAction


@dataclass(frozen=True, slots=True)
class Route:
    """Conditions and what to do when they hold (envoy.config.route.v3.Route)."""

    match: RouteMatch
    action: Action
    name: str = ""
    request_headers: HeaderMutations = NO_MUTATIONS
    response_headers: HeaderMutations = NO_MUTATIONS
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class VirtualHost:
    """Routes for a set of authorities (envoy.config.route.v3.VirtualHost)."""

    name: str
    domains: tuple[str, ...]
    routes: tuple[Route, ...] = ()
    request_headers: HeaderMutations = NO_MUTATIONS
    response_headers: HeaderMutations = NO_MUTATIONS
    retry_policy: RetryPolicy | None = None
    include_request_attempt_count: bool = False
    include_attempt_count_in_response: bool = False
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class RouteConfiguration:
    """A whole route table (envoy.config.route.v3.RouteConfiguration)."""

    name: str
    virtual_hosts: tuple[VirtualHost, ...] = ()
    request_headers: HeaderMutations = NO_MUTATIONS
    response_headers: HeaderMutations = NO_MUTATIONS
    ignore_port_in_host_matching: bool = False
    most_specific_header_mutations_wins: bool = False
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def cluster_names(self) -> frozenset[str]:
        """Every cluster that some route names."""
        return frozenset(
            name
            for virtual_host in self.virtual_hosts
            for route in virtual_host.routes
            if isinstance(route.action, ForwardAction)
            for name in route.action.cluster_names
        )
