"""A route's RouteAction with everything worked out that can be before a request comes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

from msgspec import Struct
from msgspec.structs import replace

from ..resources import (
    FilterSettings,
    ForwardAction,
    HeaderMutations,
    InternalRedirectPolicy,
    Listener,
    MirrorPolicy,
    RetryPolicy,
    Route,
    RouteConfiguration,
    VirtualHost,
    WeightedCluster,
)
from ..resources.route import RetryOn
from ..resources.values import Metadatum
from .compiled_filters import NO_FILTERS, Buckets, CompiledFilters, compile_filters
from .conditions import RandomFraction
from .hash_key import HashKey, compile_hash_policies, new_cookie_value
from .header_mutation import MutationLevel, compile_mutations
from .request_head import RequestHead
from .rewrite import Rewrite, compile_forward_path, compile_host_rewrite
from .timeouts import RouteTimeouts, compile_timeouts

__all__ = ["CompiledForward", "Destination", "compile_forward", "mutation_levels"]


class Destination(Struct, frozen=True):
    """One cluster that a route may choose, with what choosing it brings.

    Attributes:
        cluster_header: Request header that names the cluster; then `cluster` is empty.
        metadata_match: Endpoints must carry these values under `envoy.lb`.
        is_plain: The request goes out as it came: no rewrite, no header change (but for the attempt count).
    """

    cluster: str
    cluster_header: str = ""
    request_levels: tuple[MutationLevel, ...] = ()
    response_levels: tuple[MutationLevel, ...] = ()
    host_rewrite: str = ""
    metadata_match: tuple[tuple[str, Metadatum], ...] = ()
    filters: CompiledFilters = NO_FILTERS
    is_plain: bool = True


class CompiledForward(Struct, frozen=True):
    """How a request is forwarded.

    Attributes:
        destinations: One, or the choices of a split.
        cumulative_weights: Upper bounds of the destinations' shares; empty where there is one.
        timeouts: Where `timeouts_for` is None; otherwise that works them out for each request.
        hash_key: From a request to its hash; None where the route hashes nothing.
        retriable_statuses: Statuses below 400 that the retry policy names; others are not looked at twice.
        retriable_headers: Names of response headers that could make a response of any status retriable.
        mirrors: Where copies go.
    """

    action: ForwardAction
    destinations: tuple[Destination, ...]
    cumulative_weights: tuple[int, ...]
    path_rewrite: Rewrite | None
    host_rewrite: Rewrite | None
    retry_policy: RetryPolicy | None
    timeouts: RouteTimeouts
    timeouts_for: Callable[[RequestHead], RouteTimeouts] | None
    hash_key: Callable[[RequestHead], HashKey | None] | None
    include_request_attempt_count: bool
    include_attempt_count_in_response: bool
    include_is_timeout_retry_header: bool
    hedge_on_per_try_timeout: bool
    mirrors: tuple[MirrorPolicy, ...]
    internal_redirect: InternalRedirectPolicy | None
    retriable_statuses: frozenset[int]
    retriable_headers: frozenset[bytes]

    @property
    def copies_requests(self) -> bool:
        """Whether the body of a request may be needed more than once, retries apart."""
        return bool(self.mirrors) or self.internal_redirect is not None

    def choose(self, head: RequestHead, random_fraction: RandomFraction) -> Destination:
        """The destination of one request (Envoy docs, http_conn_man/traffic_splitting)."""
        chosen = (
            self.destinations[self.choose_place(head, random_fraction)]
            if self.cumulative_weights
            else self.destinations[0]
        )
        if chosen.cluster_header:
            return replace(chosen, cluster=head.first_header(chosen.cluster_header) or "")
        return chosen

    def choose_place(self, head: RequestHead, random_fraction: RandomFraction) -> int:
        """Which of the destinations of a split is a request's."""
        point = self._point(head, random_fraction) % self.cumulative_weights[-1]
        return bisect_right(self.cumulative_weights, point)

    def _point(self, head: RequestHead, random_fraction: RandomFraction) -> int:
        """The number that chooses: of a header or of the hash where configured, by chance otherwise."""
        if self.action.split_header:
            values = head.values(self.action.split_header)
            # WeightedCluster.header_name: several values, or one that is no number, are as good as none.
            if len(values) == 1 and values[0].strip().isdecimal() and values[0].strip().isascii():
                number = int(values[0].strip()[:21])
                if number < 1 << 64:
                    return number
        elif self.action.split_by_hash and self.hash_key is not None:
            key = self.hash_key(head)
            if key is not None:
                return key.value
        return int(random_fraction() * self.cumulative_weights[-1])


def mutation_levels(
    configuration: RouteConfiguration,
    virtual_host: VirtualHost,
    route: Route,
    cluster: WeightedCluster | None,
    *,
    response: bool,
) -> list[HeaderMutations]:
    """The levels of header changes in the order in which Envoy carries them out.

    A cluster of a split always comes first; most_specific_header_mutations_wins turns only the others round.
    """
    owners: list[RouteConfiguration | VirtualHost | Route | WeightedCluster] = [route, virtual_host, configuration]
    if configuration.most_specific_header_mutations_wins:
        owners.reverse()
    if cluster is not None:
        owners.insert(0, cluster)
    return [owner.response_headers if response else owner.request_headers for owner in owners]


def _compile_destination(
    cluster: WeightedCluster,
    filters: CompiledFilters,
    request: Sequence[HeaderMutations],
    response: Sequence[HeaderMutations],
    where: str,
    *,
    rewrites: bool,
) -> Destination:
    request_levels = compile_mutations([*filters.request_mutations, *request], where)
    return Destination(
        cluster=cluster.name,
        cluster_header=cluster.cluster_header,
        request_levels=request_levels,
        response_levels=(
            *compile_mutations(response, where),
            *compile_mutations(filters.response_mutations, where, of_filters=True),
        ),
        host_rewrite=cluster.host_rewrite,
        metadata_match=cluster.metadata_match,
        filters=filters,
        is_plain=not (rewrites or request_levels or cluster.host_rewrite),
    )


def compile_forward(
    action: ForwardAction,
    route: Route,
    virtual_host: VirtualHost,
    configuration: RouteConfiguration,
    listener: Listener,
    buckets: Buckets,
) -> CompiledForward:
    """A RouteAction, compiled.

    Raises:
        ResourceError: A format string is wrong.
    """
    where = f"{configuration.name}: virtual host {virtual_host.name}"
    retry_policy = action.retry_policy or virtual_host.retry_policy
    path_rewrite = compile_forward_path(route.match.path, action, where)
    host_rewrite = compile_host_rewrite(action, where)
    rewrites = path_rewrite is not None or host_rewrite is not None or action.auto_host_rewrite

    def destination(cluster: WeightedCluster) -> Destination:
        levels = filter_levels(configuration, virtual_host, route, cluster.filters)
        request, response = (
            mutation_levels(configuration, virtual_host, route, cluster, response=one) for one in (False, True)
        )
        filters = compile_filters(listener, levels, buckets)
        return _compile_destination(cluster, filters, request, response, where, rewrites=rewrites)

    choices = action.clusters or (
        WeightedCluster("", 1, cluster_header=action.cluster_header, metadata_match=action.metadata_match),
    )
    timeouts, timeouts_for = compile_timeouts(action, retry_policy, listener)
    hedge = action.hedge_on_per_try_timeout
    return CompiledForward(
        action=action,
        destinations=tuple(destination(cluster) for cluster in choices),
        cumulative_weights=tuple(accumulate(cluster.weight for cluster in choices)) if len(choices) > 1 else (),
        path_rewrite=path_rewrite,
        host_rewrite=host_rewrite,
        retry_policy=retry_policy,
        timeouts=timeouts,
        timeouts_for=timeouts_for,
        hash_key=compile_hash_policies(action.hash_policies, new_cookie_value),
        include_request_attempt_count=virtual_host.include_request_attempt_count,
        include_attempt_count_in_response=virtual_host.include_attempt_count_in_response,
        include_is_timeout_retry_header=virtual_host.include_is_timeout_retry_header,
        hedge_on_per_try_timeout=virtual_host.hedge_on_per_try_timeout if hedge is None else hedge,
        # The most specific level that has mirrors has all of them.
        mirrors=action.mirrors or virtual_host.mirrors or configuration.mirrors,
        internal_redirect=action.internal_redirect,
        retriable_statuses=(retry_policy is not None and retry_policy.retriable_status_codes) or _NO_STATUSES,
        retriable_headers=retriable_headers(retry_policy),
    )


def filter_levels(
    configuration: RouteConfiguration, virtual_host: VirtualHost, route: Route, cluster: FilterSettings = ()
) -> tuple[FilterSettings, ...]:
    """What is said about filters, the most specific first."""
    return (cluster, route.filters, virtual_host.filters, configuration.filters)


_GRPC_CONDITIONS = (
    RetryOn.GRPC_CANCELLED
    | RetryOn.GRPC_DEADLINE_EXCEEDED
    | RetryOn.GRPC_INTERNAL
    | RetryOn.GRPC_RESOURCE_EXHAUSTED
    | RetryOn.GRPC_UNAVAILABLE
)


# Nearly every route has none of these, and an empty set is as large as one of four.
_NO_STATUSES: frozenset[int] = frozenset()
_NO_HEADERS: frozenset[bytes] = frozenset()


def retriable_headers(policy: RetryPolicy | None) -> frozenset[bytes]:
    """Response headers by which a policy may retry a response whose status says that nothing is wrong."""
    names: set[str] = set()
    if policy is not None:
        if policy.conditions & RetryOn.RETRIABLE_HEADERS:
            names.update(matcher.name for matcher in policy.retriable_headers)
        if policy.conditions & RetryOn.ENVOY_RATELIMITED:
            names.add("x-envoy-ratelimited")
        if policy.conditions & _GRPC_CONDITIONS:
            names.add("grpc-status")
    return frozenset(name.encode("latin-1") for name in names) or _NO_HEADERS
