"""A route with everything worked out that can be before a request comes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate

from ..resources import (
    DirectResponse,
    ForwardAction,
    HeaderMutations,
    Listener,
    Redirect,
    RetryPolicy,
    Route,
    RouteConfiguration,
    VirtualHost,
    WeightedCluster,
)
from ..resources.fault import Fault
from ..resources.route import RetryOn
from .conditions import Condition, PathCondition, RandomFraction, compile_conditions, compile_path
from .header_mutation import MutationStep, compile_mutations
from .request_head import RequestHead
from .rewrite import Rewrite, compile_host_rewrite, compile_location, compile_path_rewrite

__all__ = ["CompiledForward", "CompiledRoute", "Destination", "compile_route"]


@dataclass(frozen=True, slots=True)
class Destination:
    """One cluster that a route may choose, with the header changes that choosing it brings."""

    cluster: str
    request_steps: tuple[MutationStep, ...] = ()
    response_steps: tuple[MutationStep, ...] = ()
    host_rewrite: str = ""


@dataclass(frozen=True, slots=True)
class CompiledForward:
    """How a request is forwarded.

    Attributes:
        destinations: One, or the choices of a split; empty for a cluster_header.
        cumulative_weights: Upper bounds of the destinations' shares; empty where there is one.
        retriable_statuses: Statuses below 400 that the retry policy names; others are not looked at twice.
        retriable_headers: Names of response headers that could make a response of any status retriable.
        is_plain: The request goes out as it came: no rewrite, no header change (but for the attempt count).
    """

    action: ForwardAction
    destinations: tuple[Destination, ...]
    cumulative_weights: tuple[int, ...]
    fallback: Destination
    path_rewrite: Rewrite | None
    host_rewrite: Rewrite | None
    retry_policy: RetryPolicy | None
    timeout_seconds: float | None
    include_request_attempt_count: bool
    include_attempt_count_in_response: bool
    retriable_statuses: frozenset[int]
    retriable_headers: frozenset[bytes]
    is_plain: bool

    def choose(self, head: RequestHead, random_fraction: RandomFraction) -> Destination:
        """The destination of one request (Envoy docs, http_conn_man/traffic_splitting)."""
        if not self.cumulative_weights:
            return self.destinations[0] if self.destinations else self._by_header(head)
        point = random_fraction() * self.cumulative_weights[-1]
        return self.destinations[bisect_right(self.cumulative_weights, point)]

    def _by_header(self, head: RequestHead) -> Destination:
        name = (head.header(self.action.cluster_header) or "").partition(",")[0]
        return replace(self.fallback, cluster=name)


@dataclass(frozen=True, slots=True)
class CompiledRoute:
    """One route, ready to decide. Exactly one of `forward`, `location` and `direct_response` is set, or none."""

    route: Route
    virtual_host: VirtualHost
    path: PathCondition
    conditions: tuple[Condition, ...]
    forward: CompiledForward | None = None
    location: Callable[[RequestHead], str] | None = None
    redirect: Redirect | None = None
    direct_response: DirectResponse | None = None
    response_steps: tuple[MutationStep, ...] = ()
    fault: Fault | None = None

    @property
    def name(self) -> str:
        """The route's name, or what stands for it in messages."""
        return self.route.name or f"{self.path.match.kind.value} {self.path.match.value}"


def compile_route(
    route: Route, virtual_host: VirtualHost, configuration: RouteConfiguration, listener: Listener
) -> CompiledRoute:
    """A route of a virtual host, compiled.

    Raises:
        ResourceError: A header value's format is wrong.
    """
    where = f"{configuration.name}: virtual host {virtual_host.name}"
    path = compile_path(route.match.path)
    response_steps = compile_mutations(_levels(configuration, virtual_host, route, None, response=True), where)
    compiled = CompiledRoute(
        route=route,
        virtual_host=virtual_host,
        path=path,
        conditions=compile_conditions(route.match),
        response_steps=response_steps,
        fault=_fault_of(route, virtual_host, listener),
    )
    match route.action:
        case ForwardAction() as action:
            return replace(compiled, forward=_compile_forward(action, route, virtual_host, configuration, listener))
        case Redirect() as redirect:
            return replace(compiled, location=compile_location(route.match.path, redirect), redirect=redirect)
        case DirectResponse() as direct_response:
            return replace(compiled, direct_response=direct_response)
        case _:
            return compiled


def _fault_of(route: Route, virtual_host: VirtualHost, listener: Listener) -> Fault | None:
    """The most specific settings of the fault filter; None where they do nothing, or there is no filter."""
    fault = route.fault or virtual_host.fault or listener.fault
    if fault is None or not listener.has_fault_filter:
        return None
    return fault if fault.delay_seconds or fault.abort_status else None


def _levels(
    configuration: RouteConfiguration,
    virtual_host: VirtualHost,
    route: Route,
    cluster: WeightedCluster | None,
    *,
    response: bool,
) -> list[HeaderMutations]:
    owners: list[RouteConfiguration | VirtualHost | Route | WeightedCluster] = [route, virtual_host, configuration]
    if cluster is not None:
        owners.insert(0, cluster)
    if configuration.most_specific_header_mutations_wins:
        owners.reverse()
    return [owner.response_headers if response else owner.request_headers for owner in owners]


def _compile_forward(
    action: ForwardAction,
    route: Route,
    virtual_host: VirtualHost,
    configuration: RouteConfiguration,
    listener: Listener,
) -> CompiledForward:
    where = f"{configuration.name}: virtual host {virtual_host.name}"

    def destination(cluster: WeightedCluster) -> Destination:
        return Destination(
            cluster=cluster.name,
            request_steps=compile_mutations(
                _levels(configuration, virtual_host, route, cluster, response=False), where
            ),
            response_steps=compile_mutations(
                _levels(configuration, virtual_host, route, cluster, response=True), where
            ),
            host_rewrite=cluster.host_rewrite,
        )

    destinations = tuple(destination(cluster) for cluster in action.clusters)
    fallback = destination(WeightedCluster("", 0))
    split = len(destinations) > 1
    retry_policy = action.retry_policy or virtual_host.retry_policy
    path_rewrite = compile_path_rewrite(route.match.path, action.prefix_rewrite, action.regex_rewrite)
    host_rewrite = compile_host_rewrite(action)
    changes_headers = any(one.request_steps or one.host_rewrite for one in (*destinations, fallback))
    return CompiledForward(
        action=action,
        destinations=destinations,
        cumulative_weights=tuple(accumulate(cluster.weight for cluster in action.clusters)) if split else (),
        fallback=fallback,
        path_rewrite=path_rewrite,
        host_rewrite=host_rewrite,
        retry_policy=retry_policy,
        timeout_seconds=_shorter(action.timeout_seconds, listener.max_stream_duration_seconds),
        include_request_attempt_count=virtual_host.include_request_attempt_count,
        include_attempt_count_in_response=virtual_host.include_attempt_count_in_response,
        retriable_statuses=retry_policy.retriable_status_codes if retry_policy is not None else frozenset(),
        retriable_headers=_retriable_headers(retry_policy),
        is_plain=not (path_rewrite or host_rewrite or changes_headers or action.auto_host_rewrite),
    )


_GRPC_CONDITIONS = (
    RetryOn.GRPC_CANCELLED
    | RetryOn.GRPC_DEADLINE_EXCEEDED
    | RetryOn.GRPC_INTERNAL
    | RetryOn.GRPC_RESOURCE_EXHAUSTED
    | RetryOn.GRPC_UNAVAILABLE
)


def _retriable_headers(policy: RetryPolicy | None) -> frozenset[bytes]:
    """Response headers by which a policy may retry a response whose status says that nothing is wrong."""
    names: set[str] = set()
    if policy is not None:
        if policy.conditions & RetryOn.RETRIABLE_HEADERS:
            names.update(matcher.name for matcher in policy.retriable_headers)
        if policy.conditions & RetryOn.ENVOY_RATELIMITED:
            names.add("x-envoy-ratelimited")
        if policy.conditions & _GRPC_CONDITIONS:
            names.add("grpc-status")
    return frozenset(name.encode("latin-1") for name in names)


def _shorter(one: float | None, other: float | None) -> float | None:
    limits = [limit for limit in (one, other) if limit is not None]
    return min(limits) if limits else None
