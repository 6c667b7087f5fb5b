"""Which way the calls of one method go: straight to grpc-core, or through meshsdk's own decision.

A plan is made once for each method of a channel and each Directory. A method goes straight where every route that it
may take, up to the first that it surely takes, is one that grpc-core carries out whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msgspec import Struct

from ...errors import NoRouteError
from ...exchange import Directory, LocalReply
from ...http.dispatcher import HOW_TO_KNOW
from ...routing import RouteTable
from ...routing.compiled_forward import CompiledForward
from ...routing.compiled_route import CompiledRoute
from ..engine import NotNative, call_head, native_match, routes_of

__all__ = ["CallPlan", "make_plan", "shorter", "why_not_native"]


class CallPlan(Struct, frozen=True):
    """How to carry out calls of one method.

    Attributes:
        directory: What it was made from; another one asks for another plan.
        is_settled: The target's configuration is here, or known not to come. Otherwise nothing else holds.
        is_native: grpc-core carries the calls out whole.
        table: The target's routes, where there are any.
        reply: The answer to every call, in place of sending it.
        timeout_seconds: That a native call has whose request is one message: RouteAction.timeout, or
            max_stream_duration; None is no limit.
        stream_seconds: That a native call has whose request is a stream: max_stream_duration.
        counts_attempts: A native call says in x-envoy-attempt-count that it is the first try.
        clusters: What a native call may reach.
        why: Why it is not native, for people.
    """

    directory: Directory
    is_settled: bool = True
    is_native: bool = False
    table: RouteTable | None = None
    reply: LocalReply | None = None
    timeout_seconds: float | None = None
    stream_seconds: float | None = None
    counts_attempts: bool = False
    clusters: tuple[str, ...] = ()
    why: str = ""

    @property
    def watches_outcomes(self) -> bool:
        """Whether outlier detection wants to hear how native calls end."""
        clusters = self.directory.clusters
        return any((cluster := clusters.get(name)) is not None and cluster.outliers for name in self.clusters)


def make_plan(
    directory: Directory,
    names: tuple[str, ...],
    authority: str,
    method: str,
    unknown_hosts: str,
    hint: Callable[[], str] = str,
) -> CallPlan:
    """The plan of a method.

    Args:
        directory: The present one.
        names: Listeners that may stand for the target, best first.
        authority: Of the channel.
        method: `/package.Service/Method`.
        unknown_hosts: `allow` or `deny`.
        hint: What the mesh has that is like a host that it does not know, for people.
    """
    targets = directory.find(names)
    if targets is None:
        return CallPlan(directory, is_settled=False)
    table = targets[-1].table
    if table is not None:
        try:
            return _native_plan(directory, table, authority, method)
        except NotNative as reason:
            return CallPlan(directory, table=table, why=str(reason))
    if targets[-1].view.passes_through:
        return CallPlan(directory, is_native=True)
    broken = [target.problem for target in targets if not target.view.does_not_exist]
    if broken:
        return CallPlan(directory, reply=_refusal(f"{authority}: {'; '.join(broken)}"))
    if unknown_hosts == "deny":
        problem = (
            f"the mesh does not know {authority!r} (asked for {', '.join(names)}), and unknown hosts are denied;"
            f" {hint() or HOW_TO_KNOW}"
        )
        return CallPlan(directory, reply=_refusal(problem))
    return CallPlan(directory, is_native=True)


def _refusal(problem: str) -> LocalReply:
    error = NoRouteError(problem, status=503, flag="NC")
    return LocalReply(503, problem.encode(), flag="NC", details="cluster_not_found", error=error)


def _native_plan(directory: Directory, table: RouteTable, authority: str, method: str) -> CallPlan:
    """The plan of a method whose routes are all native.

    Raises:
        NotNative: One of them is not, or none may match.
    """
    head = call_head(authority, method)
    if table.prepare is not None:
        head, status = table.prepare(head)
        if status or head.path != method:
            raise NotNative("path normalization changes or refuses the method's path")
    index = routes_of(table, authority)
    if index is None:
        raise NotNative("no virtual host, or one that depends on a header")
    if index.require_tls:
        raise NotNative("the virtual host wants https")
    clusters: dict[str, None] = {}
    timeouts: set[tuple[float | None, float | None]] = set()
    for route, is_certain in _candidates(index.routes, authority, method):
        reason = why_not_native(route)
        if reason or route.forward is None:
            raise NotNative(reason)
        names = [choice.name for choice in route.forward.action.clusters]
        missing = [name for name in names if name not in directory.clusters]
        if missing:
            raise NotNative(f"cluster {missing[0]} does not exist")
        clusters.update(dict.fromkeys(names))
        timeouts.add((_longest(route.forward), route.forward.timeouts.stream))
        if is_certain:
            if len(timeouts) > 1:
                raise NotNative("the routes that may match have different timeouts")
            whole, stream = timeouts.pop()
            return CallPlan(
                directory,
                is_native=True,
                table=table,
                counts_attempts=route.forward.include_request_attempt_count,
                timeout_seconds=shorter(whole, stream),
                stream_seconds=stream,
                clusters=_with_children(clusters, directory),
            )
    raise NotNative("perhaps no route matches")


def _candidates(routes: tuple[CompiledRoute, ...], authority: str, method: str) -> Iterator[tuple[CompiledRoute, bool]]:
    """The routes that a method may take, in order, and whether it surely takes the route if it comes so far.

    Raises:
        NotNative: A condition looks at what grpc-core does not see.
    """
    for route in routes:
        if not route.path.test(method):
            continue
        match = native_match(route.route.match, authority)
        if match is not None:
            yield route, not match.headers and not match.HasField("runtime_fraction")


def why_not_native(route: CompiledRoute) -> str:
    """What of a route grpc-core cannot carry out and meshsdk does; empty where there is nothing."""
    if route.redirect is not None:
        return "a redirect"
    if route.direct_response is not None:
        return "a direct response"
    forward = route.forward
    if forward is None:
        return "a route for servers only"
    action = forward.action
    if action.cluster_header or action.split_header or action.split_by_hash:
        return "the call chooses its cluster"
    if forward.path_rewrite is not None or forward.host_rewrite is not None:
        return "a rewrite"
    if forward.mirrors:
        return "a mirror"
    duration = action.stream_duration
    if duration is not None and duration.grpc_timeout_header_max_seconds is not None:
        return "a limit on the caller's own deadline"
    if action.max_grpc_timeout_seconds is not None and action.grpc_timeout_offset_seconds:
        return "a deadline that is shortened"
    if forward.include_attempt_count_in_response:
        return "x-envoy-attempt-count in responses"
    for destination in forward.destinations:
        filters = destination.filters
        if destination.request_levels or destination.response_levels:
            return "header changes"
        if destination.cluster_header or destination.host_rewrite:
            return "the call chooses its cluster or host"
        if filters.faults or filters.rate_limits:
            return "a fault or a rate limit"
        if filters.max_request_bytes is not None:
            return "the buffer filter"
        if filters.session != forward.destinations[0].filters.session:
            return "sessions that differ within a split"
    return ""


def _longest(forward: CompiledForward) -> float | None:
    """RouteAction.timeout, or max_grpc_timeout in its place, which is 0 where the caller's deadline is the only one.

    Callers' deadlines hold in any case (source/common/router/router.cc, FilterUtility::finalTimeout).
    """
    action = forward.action
    if action.max_grpc_timeout_seconds is None or action.stream_duration is not None:
        return forward.timeouts.route
    return action.max_grpc_timeout_seconds or None


def shorter(one: float | None, other: float | None) -> float | None:
    """The shorter of two timeouts; None is no limit."""
    if one is None or other is None:
        return one if other is None else other
    return min(one, other)


def _with_children(names: dict[str, None], directory: Directory) -> tuple[str, ...]:
    """Clusters and those that aggregates are made of."""
    found = dict(names)
    waiting = list(names)
    while waiting:
        cluster = directory.clusters.get(waiting.pop())
        for child in cluster.children if cluster is not None else ():
            if child.name not in found:
                found[child.name] = None
                waiting.append(child.name)
    return tuple(found)
