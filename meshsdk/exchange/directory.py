"""Everything that requests are decided by, compiled from one snapshot and replaced as a whole."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from .. import resources
from ..balancing import Cluster
from ..discovery import ClusterView, ListenerView, Snapshot
from ..errors import ResourceError
from ..resources import AggregateDiscovery
from ..routing import CompiledRoute, RequestHead, RouteTable, apply_mutations
from ..routing.formatter import FormatContext
from .exchange import Exchange
from .local_reply import LocalReply, cluster_not_found, fault_abort, no_route

__all__ = ["Directory", "Target", "begin"]

RandomFraction = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Target:
    """What is known of one listener: its routes, or why there are none."""

    view: ListenerView
    table: RouteTable | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Directory:
    """Routes by listener name and clusters by name.

    Attributes:
        version: The snapshot's.
        targets: A listener that is not here is still being fetched.
        clusters: Living clusters; they keep their identity from one directory to the next.
    """

    version: int = 0
    targets: Mapping[str, Target] = field(default_factory=lambda: MappingProxyType({}))
    clusters: Mapping[str, Cluster] = field(default_factory=lambda: MappingProxyType({}))
    views: Mapping[str, ClusterView] = field(default_factory=lambda: MappingProxyType({}))

    def advance(self, snapshot: Snapshot) -> Directory:
        """The directory of a newer snapshot. What did not change is taken over, not compiled again."""
        clusters = self._advance_clusters(snapshot.clusters)
        targets = {}
        for name, view in snapshot.listeners.items():
            known = self.targets.get(name)
            targets[name] = known if known is not None and known.view is view else compile_target(view, known)
        return Directory(snapshot.version, targets, clusters, snapshot.clusters)

    def _advance_clusters(self, views: Mapping[str, ClusterView]) -> dict[str, Cluster]:
        clusters: dict[str, Cluster] = {}
        aggregates: list[tuple[Cluster, resources.Cluster, AggregateDiscovery]] = []
        for name, view in views.items():
            if view.cluster is None:
                continue
            cluster = self.clusters.get(name) or Cluster(view.cluster)
            clusters[name] = cluster
            if isinstance(view.cluster.discovery, AggregateDiscovery):
                aggregates.append((cluster, view.cluster, view.cluster.discovery))
            elif self.views.get(name) is not view or name not in self.clusters:
                cluster.update(view.cluster, view.endpoints, view.problem)
        for cluster, config, discovery in _children_first(aggregates):
            cluster.update_aggregate(config, [clusters[name] for name in discovery.clusters if name in clusters])
        return clusters


def _children_first(
    aggregates: list[tuple[Cluster, resources.Cluster, AggregateDiscovery]],
) -> list[tuple[Cluster, resources.Cluster, AggregateDiscovery]]:
    """Aggregates ordered so that one comes after those that it is made of."""
    by_name = {cluster.name: (cluster, config, discovery) for cluster, config, discovery in aggregates}
    ordered: dict[str, tuple[Cluster, resources.Cluster, AggregateDiscovery]] = {}

    def visit(name: str, above: frozenset[str]) -> None:
        if name not in by_name or name in ordered or name in above:
            return
        for child in by_name[name][2].clusters:
            visit(child, above | {name})
        ordered[name] = by_name[name]

    for name in by_name:
        visit(name, frozenset())
    return list(ordered.values())


def compile_target(view: ListenerView, known: Target | None) -> Target:
    """A listener's routes, compiled. Routes that do not compile leave the last good ones in use."""
    if view.listener is None or view.routes is None:
        return Target(view, problem=view.problem)
    try:
        return Target(view, RouteTable(view.listener, view.routes))
    except ResourceError as error:
        table = known.table if known is not None else None
        return Target(view, table, problem=f"route configuration {view.routes.name}: {error}")


def begin(
    table: RouteTable,
    clusters: Mapping[str, Cluster],
    head: RequestHead,
    random_fraction: RandomFraction = random.random,
) -> Exchange | LocalReply:
    """Decide where a request goes: an exchange to carry out, or an answer that needs no server.

    Pure but for `random_fraction`.
    """
    route = table.find(head, random_fraction)
    if route is None:
        return no_route(head.method, head.authority, head.path)
    delay_seconds = 0.0
    if route.fault is not None:
        fault = route.fault
        # The fault filter comes before the router, so it also meets redirects and direct responses.
        if fault.delay_seconds and random_fraction() < fault.delay_share.share:
            delay_seconds = fault.delay_seconds
        if fault.abort_status and random_fraction() < fault.abort_share.share:
            return fault_abort(fault.abort_status, delay_seconds)
    forward = route.forward
    if forward is None:
        return _answer(route, head, delay_seconds)
    destination = forward.choose(head, random_fraction)
    cluster = clusters.get(destination.cluster)
    if cluster is None:
        return cluster_not_found(destination.cluster, forward.action.cluster_not_found_status)
    exchange = Exchange(head, route, forward, destination, cluster, random_fraction)
    exchange.delay_seconds = delay_seconds
    return exchange


def _answer(route: CompiledRoute, head: RequestHead, delay_seconds: float) -> LocalReply:
    """A redirect or a direct response; a route for servers only is no route (gRFC A36)."""
    context = FormatContext(head, "")
    if route.location is not None and route.redirect is not None:
        location = route.location(head).encode()
        headers = apply_mutations(route.response_steps, [(b"location", location)], context)
        return LocalReply(
            route.redirect.status, b"", tuple(headers), details="direct_response", delay_seconds=delay_seconds
        )
    if route.direct_response is not None:
        body = route.direct_response.body
        first = [(b"content-type", b"text/plain")] if body else []
        headers = apply_mutations(route.response_steps, first, context)
        return LocalReply(
            route.direct_response.status, body, tuple(headers), details="direct_response", delay_seconds=delay_seconds
        )
    return no_route(head.method, head.authority, head.path)
