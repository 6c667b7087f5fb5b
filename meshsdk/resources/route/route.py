"""Routes as data: what a RouteConfiguration says, typed (envoy.config.route.v3).

How it is parsed is in `route_parsing`, how it is carried out in `meshsdk.routing`.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from ..filters.rate_limit_rules import RateLimitRule
from ..filters.settings import FilterSettings
from ..header_mutations import NO_MUTATIONS, HeaderMutations
from ..matching import FractionalPercent, RewriteTemplate, RouteMatch
from ..tracing import Tracing
from ..values import Metadatum
from .retry import RetryPolicy

__all__ = [
    "Action",
    "CookieHash",
    "DirectResponse",
    "ForwardAction",
    "HashPolicy",
    "HeaderHash",
    "InternalRedirectPolicy",
    "MirrorPolicy",
    "NonForwardingAction",
    "QueryParameterHash",
    "Redirect",
    "RegexRewrite",
    "Route",
    "RouteConfiguration",
    "StreamDuration",
    "VirtualHost",
    "WeightedCluster",
]


class WeightedCluster(Struct, frozen=True, gc=False):
    """One cluster of a split, with its own header changes (envoy.config.route.v3.WeightedCluster.ClusterWeight).

    Attributes:
        name: Empty where `cluster_header` names the request header that holds it.
        metadata_match: The route's and its own: endpoints must carry these values under `envoy.lb`.
    """

    name: str
    weight: int
    cluster_header: str = ""
    metadata_match: tuple[tuple[str, Metadatum], ...] = ()
    request_headers: HeaderMutations = NO_MUTATIONS
    response_headers: HeaderMutations = NO_MUTATIONS
    host_rewrite: str = ""
    filters: FilterSettings = ()


class RegexRewrite(Struct, frozen=True, gc=False):
    """Replace every match of an RE2 pattern; `\\1` in the substitution is a group (RegexMatchAndSubstitute)."""

    pattern: str
    substitution: str


class HeaderHash(Struct, frozen=True, gc=False):
    """Hash the values of a request header, each rewritten first where `rewrite` is set."""

    name: str
    rewrite: RegexRewrite | None = None
    terminal: bool = False


class CookieHash(Struct, frozen=True, gc=False):
    """Hash a cookie; one that is missing is made and set where `ttl_seconds` is not None (0: a session cookie)."""

    name: str
    ttl_seconds: int | None = None
    path: str = ""
    attributes: tuple[tuple[str, str], ...] = ()
    terminal: bool = False


class QueryParameterHash(Struct, frozen=True, gc=False):
    """Hash the first value of a query parameter."""

    name: str
    terminal: bool = False


# Hashes of a connection's source address and of filter state have nothing to hash in a client; they are skipped.
HashPolicy = HeaderHash | CookieHash | QueryParameterHash


ALWAYS = FractionalPercent(100, 100)


class MirrorPolicy(Struct, frozen=True, gc=False):
    """Send a copy of the request elsewhere and forget it (RouteAction.RequestMirrorPolicy).

    Attributes:
        cluster: Empty where `cluster_header` names the request header that holds it.
        host_suffix: Whether `-shadow` is added to the host.
    """

    cluster: str
    cluster_header: str = ""
    fraction: FractionalPercent = ALWAYS
    host_suffix: bool = True
    host_rewrite: str = ""


class StreamDuration(Struct, frozen=True, gc=False):
    """The longest time of a request (RouteAction.MaxStreamDuration).

    Attributes:
        max_seconds: None leaves it to the connection manager; 0 is no limit.
        grpc_timeout_header_max_seconds: Where set, a grpc-timeout header sets the time, up to this (0: as it says).
        grpc_timeout_header_offset_seconds: Taken off the header's time.
    """

    max_seconds: float | None = None
    grpc_timeout_header_max_seconds: float | None = None
    grpc_timeout_header_offset_seconds: float = 0.0


class InternalRedirectPolicy(Struct, frozen=True, gc=False):
    """Follow an upstream's redirect here, by the routes of the same listener (RouteAction.InternalRedirectPolicy).

    Attributes:
        same_scheme_only: As https from http and back (allow_cross_scheme_redirect turned round).
        safe_cross_scheme: Only from https to http or the same is refused: http may become https.
        previous_routes: A route that was taken before may not be taken again.
        response_headers_to_copy: From the redirect to the new request.
    """

    statuses: frozenset[int] = frozenset({302})
    max_redirects: int = 1
    same_scheme_only: bool = True
    safe_cross_scheme: bool = False
    previous_routes: bool = False
    allowed_routes: frozenset[str] | None = None
    response_headers_to_copy: tuple[str, ...] = ()


class ForwardAction(Struct, frozen=True, gc=False):
    """Send the request to a cluster (envoy.config.route.v3.RouteAction).

    Attributes:
        clusters: One, or the split; weights count only where there are several.
        cluster_header: Request header that names the cluster; then `clusters` is empty.
        split_header: Request header whose number chooses of a split in place of chance; empty is chance.
        split_by_hash: The hash policy chooses of a split in place of chance.
        timeout_seconds: From the whole request sent to the whole response received; None is no limit.
        idle_timeout_seconds: Longest time without a byte; None where the route sets none, 0 is no limit.
        max_grpc_timeout_seconds: Where set, a gRPC request's grpc-timeout is its timeout, up to this (0: as it says);
            deprecated in favour of `stream_duration`.
        cluster_not_found_status: What a missing cluster is answered with.
        host_rewrite_regex: Applied to the path without query, as host_rewrite_path_regex says.
        template_rewrite: The new path, from the variables of the match's path template.
        path_format, host_format: The new path and host as format strings.
        high_priority: Count against the HIGH thresholds of circuit breakers.
        metadata_match: Endpoints must carry these values under `envoy.lb`.
        rate_limits: What a server counts its requests by; clients do not.
        includes_virtual_host_limits: And by the virtual host's rules as well.
    """

    clusters: tuple[WeightedCluster, ...] = ()
    cluster_header: str = ""
    split_header: str = ""
    split_by_hash: bool = False
    timeout_seconds: float | None = 15.0
    idle_timeout_seconds: float | None = None
    stream_duration: StreamDuration | None = None
    max_grpc_timeout_seconds: float | None = None
    grpc_timeout_offset_seconds: float = 0.0
    prefix_rewrite: str = ""
    regex_rewrite: RegexRewrite | None = None
    template_rewrite: RewriteTemplate | None = None
    path_format: str = ""
    host_format: str = ""
    host_rewrite: str = ""
    host_rewrite_header: str = ""
    host_rewrite_regex: RegexRewrite | None = None
    auto_host_rewrite: bool = False
    append_x_forwarded_host: bool = False
    retry_policy: RetryPolicy | None = None
    hedge_on_per_try_timeout: bool | None = None
    cluster_not_found_status: int = 503
    hash_policies: tuple[HashPolicy, ...] = ()
    mirrors: tuple[MirrorPolicy, ...] = ()
    internal_redirect: InternalRedirectPolicy | None = None
    high_priority: bool = False
    metadata_match: tuple[tuple[str, Metadatum], ...] = ()
    rate_limits: tuple[RateLimitRule, ...] = ()
    includes_virtual_host_limits: bool = False

    @property
    def cluster_names(self) -> tuple[str, ...]:
        """Every cluster that configuration names; a cluster_header's are known only at the request."""
        return tuple(cluster.name for cluster in self.clusters if cluster.name)


class Redirect(Struct, frozen=True, gc=False):
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


class DirectResponse(Struct, frozen=True, gc=False):
    """Answer at once, without any cluster (envoy.config.route.v3.DirectResponseAction).

    Attributes:
        body_format: The body as a format string, in which %LOCAL_REPLY_BODY% is `body`; empty is `body` as it is.
    """

    status: int
    body: bytes = b""
    body_format: str = ""
    content_type: str = "text/plain"


class NonForwardingAction(Struct, frozen=True, gc=False):
    """A route for servers; a client that matches it has no route (gRFC A36)."""


Action = ForwardAction | Redirect | DirectResponse | NonForwardingAction


class Route(Struct, frozen=True, gc=False):
    """Conditions and what to do when they hold (envoy.config.route.v3.Route).

    Attributes:
        metadata: What it says for filters, by filter (Route.metadata.filter_metadata).
        tracing: What takes the place of the connection manager's shares, and adds tags; None is nothing.
        operation: What spans are called (Route.decorator); empty where it says nothing.
    """

    match: RouteMatch
    action: Action
    name: str = ""
    request_headers: HeaderMutations = NO_MUTATIONS
    response_headers: HeaderMutations = NO_MUTATIONS
    filters: FilterSettings = ()
    metadata: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    tracing: Tracing | None = None
    operation: str = ""


class VirtualHost(Struct, frozen=True, gc=False):
    """Routes for a set of authorities (envoy.config.route.v3.VirtualHost)."""

    name: str
    domains: tuple[str, ...]
    routes: tuple[Route, ...] = ()
    request_headers: HeaderMutations = NO_MUTATIONS
    response_headers: HeaderMutations = NO_MUTATIONS
    retry_policy: RetryPolicy | None = None
    hedge_on_per_try_timeout: bool = False
    include_request_attempt_count: bool = False
    include_attempt_count_in_response: bool = False
    include_is_timeout_retry_header: bool = False
    require_tls: bool = False
    spares_internal: bool = False
    mirrors: tuple[MirrorPolicy, ...] = ()
    rate_limits: tuple[RateLimitRule, ...] = ()
    filters: FilterSettings = ()


class RouteConfiguration(Struct, frozen=True, gc=False):
    """A whole route table (envoy.config.route.v3.RouteConfiguration).

    Attributes:
        internal_only_headers: That a server takes away of requests from outside.
        passes_through: It is of a host whose connections carry bytes, and no requests to decide on.
    """

    name: str
    virtual_hosts: tuple[VirtualHost, ...] = ()
    request_headers: HeaderMutations = NO_MUTATIONS
    response_headers: HeaderMutations = NO_MUTATIONS
    ignore_port_in_host_matching: bool = False
    ignore_path_parameters: bool = False
    vhost_header: str = ""
    most_specific_header_mutations_wins: bool = False
    mirrors: tuple[MirrorPolicy, ...] = ()
    filters: FilterSettings = ()
    internal_only_headers: tuple[str, ...] = ()
    passes_through: bool = False
    notes: tuple[str, ...] = ()

    @property
    def cluster_names(self) -> frozenset[str]:
        """Every cluster that some route names, as its destination or for copies of its requests."""
        names = {mirror.cluster for mirror in self.mirrors}
        for virtual_host in self.virtual_hosts:
            names.update(mirror.cluster for mirror in virtual_host.mirrors)
            for route in virtual_host.routes:
                if isinstance(route.action, ForwardAction):
                    names.update(route.action.cluster_names)
                    names.update(mirror.cluster for mirror in route.action.mirrors)
        return frozenset(names - {""})
