"""Everything that requests are decided by, compiled from one snapshot and replaced as a whole."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from msgspec import Struct, field
from msgspec.structs import replace

from .. import resources
from ..balancing import Cluster
from ..discovery import Changes, ClusterView, ListenerView, Snapshot
from ..errors import ResourceError
from ..resources import AggregateDiscovery
from ..routing import CompiledForward, CompiledRoute, RequestHead, RouteTable, apply_mutations
from ..routing.formatter import FormatContext
from ..routing.timeouts import is_grpc
from .configured_answer import configured_answer
from .exchange import Exchange
from .filters import PASSED, run_filters
from .local_reply import LocalReply, cluster_not_found, no_route, path_refused, redirect_to

__all__ = ["Directory", "Target", "begin"]

RandomFraction = Callable[[], float]

# How long clusters that have left are remembered.
_LEFT_SECONDS = 5.0


class Target(Struct, frozen=True):
    """What is known of one listener: its routes, or why there are none."""

    view: ListenerView
    table: RouteTable | None = None
    problem: str = ""


class Directory(Struct, frozen=True):
    """Routes by listener name and clusters by name.

    Attributes:
        version: The snapshot's.
        targets: A listener that is not here is still being fetched.
        clusters: Living clusters; they keep their identity from one directory to the next.
        aggregates: Which of them are made of others.
        left: Those that have left in the last seconds, and when.
    """

    version: int = 0
    targets: Mapping[str, Target] = field(default_factory=lambda: MappingProxyType({}))
    clusters: Mapping[str, Cluster] = field(default_factory=lambda: MappingProxyType({}))
    views: Mapping[str, ClusterView] = field(default_factory=lambda: MappingProxyType({}))
    aggregates: frozenset[str] = frozenset()
    left: Mapping[str, tuple[Cluster, float]] = field(default_factory=lambda: MappingProxyType({}))

    def find(self, names: Sequence[str]) -> list[Target] | None:
        """What is known of the listeners that may stand for one host, best first, as far as the first that has routes.

        None while one that comes before it is still being fetched.
        """
        found: list[Target] = []
        for name in names:
            target = self.targets.get(name)
            if target is None:
                return None
            found.append(target)
            if target.table is not None or target.view.passes_through:
                break
        return found

    def changes_to(self, snapshot: Snapshot) -> Changes:
        """What a snapshot has otherwise than this directory; all there is, where the one before it was missed."""
        if snapshot.version == self.version + 1 and snapshot.changes is not None:
            return snapshot.changes
        listeners, clusters = self.targets.keys() | snapshot.listeners, self.clusters.keys() | snapshot.clusters
        return Changes(frozenset(listeners), frozenset(clusters), frozenset(snapshot.servers))

    def advance(self, snapshot: Snapshot, now: float) -> Directory:
        """The directory of a newer snapshot. What did not change is taken over, not compiled again."""
        changes = self.changes_to(snapshot)
        targets = self.targets
        if changes.listeners:
            targets = {name: one for name, one in targets.items() if name in snapshot.listeners}
            for name in changes.listeners & snapshot.listeners.keys():
                view, known = snapshot.listeners[name], self.targets.get(name)
                targets[name] = known if known is not None and known.view is view else compile_target(view, known)
        clusters, aggregates = self._advance_clusters(snapshot.clusters, changes.clusters)
        left = {name: one for name, one in self.left.items() if now - one[1] < _LEFT_SECONDS and name not in clusters}
        left.update({name: (self.clusters[name], now) for name in self._gone(changes.clusters, clusters)})
        return Directory(snapshot.version, targets, clusters, snapshot.clusters, aggregates, left)

    def _gone(self, changed: frozenset[str], clusters: Mapping[str, Cluster]) -> list[str]:
        return [name for name in changed if name in self.clusters and name not in clusters]

    def retire_those_that_left(self) -> None:
        """Tell the clusters, once this directory has taken its place. Control thread only."""
        for cluster, _ in self.left.values():
            cluster.retire()

    def _advance_clusters(
        self, views: Mapping[str, ClusterView], changed: frozenset[str]
    ) -> tuple[Mapping[str, Cluster], frozenset[str]]:
        """Clusters, and which of them are aggregates."""
        new: dict[str, Cluster] = {}
        gone: set[str] = set()
        aggregates = set(self.aggregates)
        for name in changed:
            view, known = views.get(name), self.clusters.get(name)
            config = view.cluster if view is not None else None
            aggregates.discard(name)
            if view is None or config is None:
                if known is not None:
                    gone.add(name)
                continue
            cluster = known or Cluster(config)
            if known is None:
                new[name] = cluster
            if isinstance(config.discovery, AggregateDiscovery):
                aggregates.add(name)
            elif known is None or self.views.get(name) is not view:
                cluster.update(config, view.endpoints, view.problem)
        clusters = self.clusters
        if new or gone:
            clusters = {name: one for name, one in self.clusters.items() if name not in gone} | new
        # What an aggregate is made of may be another one, have other endpoints, or be gone.
        configs = ((clusters[name], views[name].cluster) for name in aggregates) if changed else ()
        found = [
            (cluster, config, config.discovery)
            for cluster, config in configs
            if config is not None and isinstance(config.discovery, AggregateDiscovery)
        ]
        for cluster, config, discovery in _children_first(found):
            cluster.update_aggregate(config, [clusters[name] for name in discovery.clusters if name in clusters])
        return clusters, frozenset(aggregates)


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
    if table.prepare is not None:
        head, status = table.prepare(head)
        if status == 400 or (status and is_grpc(head)):
            return path_refused()
        if status:
            return redirect_to(status, head.target, "path_normalization_failed")
    table.identify(head)
    index = table.routes_for(head)
    if index is not None and index.require_tls and head.scheme != "https":
        reply = redirect_to(301, f"https://{head.authority}{head.target}", "direct_response")
        return replace(reply, head=head)
    route = index.find(head, random_fraction) if index is not None else None
    tracing, traced = (table.tracing if route is None else route.tracing), None
    if tracing is not None:
        head, traced = tracing.decide(head, random_fraction)
    if route is None:
        return replace(no_route(head.method, head.authority, head.path), head=head, traced=traced)
    forward = route.forward
    if forward is None:
        begun: Exchange | LocalReply = _answer(table, route, head, random_fraction)
    else:
        begun = _forwarded(table, clusters, head, route, forward, random_fraction)
    if isinstance(begun, LocalReply):
        return replace(begun, head=head, traced=traced, operation=route.route.operation)
    begun.traced = traced
    return begun


def _forwarded(
    table: RouteTable,
    clusters: Mapping[str, Cluster],
    head: RequestHead,
    route: CompiledRoute,
    forward: CompiledForward,
    random_fraction: RandomFraction,
) -> Exchange | LocalReply:
    destination = forward.choose(head, random_fraction)
    filters, verdict = destination.filters, PASSED
    if filters.faults or filters.rate_limits:
        verdict = run_filters(filters, head, destination.cluster, random_fraction)
        if verdict.reply is not None:
            return replace(_placed(verdict.reply, table, route), cluster=destination.cluster).mutated(
                destination.response_levels, _context(head, route, destination.cluster, clusters)
            )
    cluster = clusters.get(destination.cluster)
    if cluster is None:
        if verdict.tally is not None:
            verdict.tally.end()
        reply = cluster_not_found(destination.cluster, forward.action.cluster_not_found_status)
        reply = _placed(reply, table, route)
        if destination.cluster_header:
            reply = replace(reply, missing_cluster=destination.cluster)
        return reply.mutated(destination.response_levels, _context(head, route, destination.cluster, clusters))
    exchange = Exchange(head, route, forward, destination, cluster, random_fraction)
    exchange.delay_seconds, exchange.fault_tally = verdict.delay_seconds, verdict.tally
    exchange.table, exchange.clusters = table, clusters
    return exchange


def _context(head: RequestHead, route: CompiledRoute, name: str, clusters: Mapping[str, Cluster]) -> FormatContext:
    head = _seen_by_filters(head, route)
    cluster = clusters.get(name)
    if cluster is None:
        # Envoy knows no upstream cluster then, not even its name.
        return FormatContext(head, route=route.route.name)
    return FormatContext(head, name, route=route.route.name, cluster_metadata=cluster.config.metadata)


def _seen_by_filters(head: RequestHead, route: CompiledRoute) -> RequestHead:
    """The request as filters leave it, which is what an answer in the upstream's place may refer to."""
    levels = route.filter_request_levels
    if not levels:
        return head
    return head.with_headers(apply_mutations(levels, head.raw_headers, FormatContext(head), of_request=True))


def _placed(reply: LocalReply, table: RouteTable, route: CompiledRoute) -> LocalReply:
    return replace(reply, route=route.route.name, matched=(table.listener.name, route))


def _answer(table: RouteTable, route: CompiledRoute, head: RequestHead, random_fraction: RandomFraction) -> LocalReply:
    """A redirect or a direct response; a route for servers only leads a client nowhere (gRFC A36)."""
    context = FormatContext(_seen_by_filters(head, route), route=route.route.name)
    verdict = run_filters(route.filters, head, "", random_fraction)
    if verdict.reply is not None:
        # Routes that answer by themselves have no say in what filters answer.
        answers = route.redirect is not None or route.direct_response is not None
        levels = route.filter_response_levels if answers else route.response_levels
        return _placed(verdict.reply, table, route).mutated(levels, context)
    reply = configured_answer(route, head, context)
    reply = replace(_placed(reply, table, route), delay_seconds=verdict.delay_seconds, tally=verdict.tally)
    return reply.mutated(route.response_levels, context, is_the_routes=True)
