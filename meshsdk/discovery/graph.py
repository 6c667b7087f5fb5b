"""The dependency graph, and make-before-break.

Theory of operation. Each listener in use is a root. `resolve` walks from the roots through the cache: a listener
names its routes, routes name clusters, a cluster names its endpoints. Each name met on the way is wanted, so the walk
itself says what to subscribe to; as answers come in, the next walk gets further.

A root's *view* (listener and routes) is published only when all it leads to is settled: each cluster is there with
its endpoints, or known to be missing. Until then the root's previous view stays published, and what that one needs
stays wanted. So a route that moves to a new cluster takes effect when the new cluster can take traffic, and never as
a burst of 503.

A cluster that the source has withdrawn, while published routes still lead there, serves on until they do not
(`_Walk.withdrawn`). Servers send clusters before routes, so that what comes first is often the cluster that is gone:
istiod when a subset is renamed, go-control-plane with each snapshot. It is bounded, since routes may never follow.

A mesh of thousands of services changes by an endpoint here and there, so that is not walked for: `follow` puts such
endpoints into the views that have them, where the last walk has found all that it looked for. Whatever else has changed
is walked for.

No I/O and no clock here; control thread only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from ..resources import (
    AggregateDiscovery,
    Cluster,
    DnsDiscovery,
    EdsDiscovery,
    Endpoints,
    Listener,
    OriginalDiscovery,
    ResourceType,
    RouteConfiguration,
    ServerListener,
    StaticDiscovery,
)
from ..xds import DOES_NOT_EXIST_SECONDS, CachedResource, ResourceCache, ResourceKey, Status
from .dns import DnsResolver
from .outbound import Outbound
from .snapshot import ClusterView, ListenerView, ServerView, Snapshot

__all__ = ["CLUSTER_ROOT", "SERVER_ROOT", "Graph", "Resolution"]

# A root of this form is a cluster that some request named itself (RouteAction.cluster_header), not a listener.
CLUSTER_ROOT = "cluster_header: "

# A root of this form is a listener of a server of this process.
SERVER_ROOT = "server: "

# What stands for such a root once its cluster is settled; whether it is there is for the clusters to say.
_ON_DEMAND = ListenerView(problem="a cluster, not a listener", does_not_exist=True)

# gRFC A37: an aggregate cluster may nest this deep.
_MAX_AGGREGATE_DEPTH = 16


class Resolution(Struct, frozen=True):
    """What one walk found: what to ask for, which names to look up, and what to publish.

    Attributes:
        ends_at: When to walk again though nothing has come: some withdrawn cluster serves no longer. None is never.
    """

    wanted: dict[ResourceType, frozenset[str]]
    dns_clusters: list[Cluster]
    snapshot: Snapshot
    ends_at: float | None = None


class Graph:
    """Walks from listeners to endpoints, and remembers what was last published.

    Args:
        cache: Resources by name.
        dns: Endpoints of DNS clusters.
        withdrawn_seconds: How long a withdrawn cluster serves on at the most.
        complete: A short name of Kubernetes in full. Where the cache has all listeners, roots are hosts and ports.
    """

    def __init__(
        self,
        cache: ResourceCache,
        dns: DnsResolver,
        *,
        withdrawn_seconds: float = DOES_NOT_EXIST_SECONDS,
        complete: Callable[[str], str | None] = lambda host: None,
    ) -> None:
        self._cache = cache
        self._dns = dns
        self._outbound = Outbound(cache, complete) if ResourceType.LISTENER in cache.packed else None
        self._withdrawn_seconds = withdrawn_seconds
        self._withdrawn: dict[str, float] = {}
        self._published = Snapshot()
        self._cluster_names: dict[int, tuple[RouteConfiguration, frozenset[str]]] = {}
        self._is_whole = False
        self._last: Resolution | None = None
        # Clusters by the endpoints that they have; worked out when it is first asked for after a walk.
        self._users: dict[str, list[str]] | None = None

    def follow(self, changed: Collection[ResourceKey]) -> Resolution | None:
        """What comes of changes that need no walk; None where one must be made.

        Args:
            changed: What has changed in the cache since the last walk, or since this was last asked.
        """
        last = self._last
        if last is None or not self._is_whole:
            return None
        # Until it is done: what fails here, and what is not for here, is walked for.
        self._is_whole = False
        if self._users is None:
            self._users = _users_of_endpoints(self._published)
            if self._users is None:
                return None
        views: dict[str, ClusterView] = {}
        for kind, name in changed:
            entry = self._cache.get(kind, name)
            if kind is not ResourceType.ENDPOINTS or entry is None or not isinstance(entry.resource, Endpoints):
                return None
            for user in self._users.get(name, ()):
                known = self._published.clusters[user]
                if known.endpoints is not entry.resource:
                    views[user] = ClusterView(known.cluster, entry.resource)
        if views:
            before = self._published
            clusters = {**before.clusters, **views}
            self._published = Snapshot(
                before.version + 1, before.listeners, clusters, before.servers, changed=frozenset(views)
            )
            self._last = replace(last, snapshot=self._published)
        self._is_whole = True
        return self._last

    def resolve(self, roots: Iterable[str], now: float) -> Resolution:
        """Walk from `roots` at a time; the snapshot is the published one where nothing in it changed."""
        self._is_whole = False
        walk = _Walk(self._cache, self._dns, self._published.clusters, now, self._withdrawn_seconds, self._withdrawn)
        names_seen: dict[int, tuple[RouteConfiguration, frozenset[str]]] = {}
        views: dict[str, ListenerView] = {}
        servers: dict[str, ServerView] = {}
        for root in roots:
            if root.startswith(SERVER_ROOT):
                name = root.removeprefix(SERVER_ROOT)
                server = walk.server(name)
                known = self._published.servers.get(name)
                if server is not None:
                    servers[name] = _same_server(known, server)
                elif known is not None:
                    servers[name] = known
                continue
            if root.startswith(CLUSTER_ROOT):
                settled = walk.clusters_settled(frozenset([root.removeprefix(CLUSTER_ROOT)]))
                if settled or root in self._published.listeners:
                    views[root] = _ON_DEMAND
                continue
            view = walk.listener(root) if self._outbound is None else walk.outbound(root, self._outbound)
            previous = self._published.listeners.get(root)
            complete = view is not None and walk.clusters_settled(self._names_of(view, names_seen))
            if view is not None and complete:
                views[root] = _same_or(previous, view)
            elif previous is not None:
                walk.clusters_settled(self._names_of(previous, names_seen))
                views[root] = previous
        self._cluster_names = names_seen
        self._withdrawn = walk.withdrawn
        clusters = self._cluster_views(walk)
        before = self._published
        pairs = ((views, before.listeners), (clusters, before.clusters), (servers, before.servers))
        if not all(_same_items(new, old) for new, old in pairs):
            self._published = Snapshot(before.version + 1, views, clusters, servers)
        wanted = {kind: frozenset(names) for kind, names in walk.wanted.items()}
        ends_at = min((ends for ends in walk.withdrawn.values() if ends > now), default=None)
        self._is_whole = not walk.unsettled and not walk.withdrawn
        self._users = None
        self._last = Resolution(wanted, list(walk.dns_clusters.values()), self._published, ends_at)
        return self._last

    def _cluster_views(self, walk: _Walk) -> dict[str, ClusterView]:
        published = self._published.clusters
        views = {name: _same_or(published.get(name), view) for name, view in walk.clusters.items()}
        for name in walk.unsettled & published.keys():
            # The cluster was redefined and its new endpoints are not here yet: the old ones serve on, and stay current.
            views[name] = published[name]
            walk.keep_current(published[name])
        return views

    def _names_of(
        self, view: ListenerView, seen: dict[int, tuple[RouteConfiguration, frozenset[str]]]
    ) -> frozenset[str]:
        """The clusters that a view's routes name; worked out once for each route configuration."""
        if view.routes is None:
            return frozenset()
        key = id(view.routes)
        entry = self._cluster_names.get(key) or (view.routes, view.routes.cluster_names)
        seen[key] = entry
        return entry[1]


V = TypeVar("V", ListenerView, ClusterView)


def _same_or(old: V | None, new: V) -> V:
    """The old view where the new one holds the very same objects, so that readers can compare by identity."""
    if old is None or old.problem != new.problem:
        return new
    if isinstance(old, ListenerView) and isinstance(new, ListenerView):
        return old if old.listener is new.listener and old.routes is new.routes else new
    if isinstance(old, ClusterView) and isinstance(new, ClusterView):
        return old if old.cluster is new.cluster and old.endpoints is new.endpoints else new
    return new


def _same_server(old: ServerView | None, new: ServerView) -> ServerView:
    """The old view where the new one holds the very same objects."""
    if old is None or old.listener is not new.listener or old.problem != new.problem:
        return new
    return old if _same_items(new.routes, old.routes) else new


def _users_of_endpoints(snapshot: Snapshot) -> dict[str, list[str]] | None:
    """Clusters by the names of their endpoints; None where more depends on endpoints than the cluster that has them."""
    users: dict[str, list[str]] = {}
    for name, view in snapshot.clusters.items():
        if view.cluster is None:
            continue
        if view.cluster.fallback is not None or isinstance(view.cluster.discovery, AggregateDiscovery):
            return None
        if isinstance(view.cluster.discovery, EdsDiscovery):
            users.setdefault(view.cluster.discovery.service_name, []).append(name)
    return users


def _has_endpoints(entry: CachedResource | None) -> bool:
    found = entry.resource if entry is not None else None
    return isinstance(found, Endpoints) and any(locality.endpoints for locality in found.localities)


def _same_items(new: Mapping[str, object], old: Mapping[str, object]) -> bool:
    return new.keys() == old.keys() and all(old[key] is value for key, value in new.items())


class _Walk(Struct):
    """One walk: what it met so far.

    Attributes:
        published: Clusters as they were published last.
        withdrawn_before: Clusters that the source withdrew though routes lead there, and until when each may serve.
        withdrawn: The same after this walk.
    """

    cache: ResourceCache
    dns: DnsResolver
    published: Mapping[str, ClusterView]
    now: float
    withdrawn_seconds: float
    withdrawn_before: Mapping[str, float]
    withdrawn: dict[str, float] = field(default_factory=dict)
    wanted: dict[ResourceType, set[str]] = field(default_factory=lambda: {kind: set() for kind in ResourceType})
    clusters: dict[str, ClusterView] = field(default_factory=dict)
    dns_clusters: dict[str, Cluster] = field(default_factory=dict)
    unsettled: set[str] = field(default_factory=set)

    def listener(self, name: str) -> ListenerView | None:
        """The listener with its routes; None while one of them is not settled."""
        entry = self._want(ResourceType.LISTENER, name)
        if entry is None or not entry.is_settled:
            return None
        listener = entry.resource
        if not isinstance(listener, Listener):
            missing = entry.status in (Status.DOES_NOT_EXIST, Status.TIMEOUT)
            why = "it is a listener for servers" if isinstance(listener, ServerListener) else entry.error
            return ListenerView(problem=f"listener {name}: {why}", does_not_exist=missing)
        # Nobody waits for where requests are told.
        self.clusters_settled(listener.log_clusters)
        if listener.route_configuration is not None:
            return ListenerView(listener, listener.route_configuration)
        routes = self._want(ResourceType.ROUTE_CONFIGURATION, listener.route_name)
        if routes is None or not routes.is_settled:
            return None
        if not isinstance(routes.resource, RouteConfiguration):
            return ListenerView(listener, problem=f"route configuration {listener.route_name}: {routes.error}")
        if routes.resource.passes_through:
            problem = f"route configuration {listener.route_name}: has no virtual hosts"
            return ListenerView(listener, problem=problem, passes_through=True)
        return ListenerView(listener, routes.resource)

    def outbound(self, root: str, found_by: Outbound) -> ListenerView | None:
        """The same of a host and port of a sidecar's."""
        view = found_by.view(root, self._want)
        if view is not None and view.listener is not None:
            self.clusters_settled(view.listener.log_clusters)
        return view

    def server(self, name: str) -> ServerView | None:
        """A server's listener with its routes; None while one of them is not settled."""
        entry = self._want(ResourceType.LISTENER, name)
        if entry is None or not entry.is_settled:
            return None
        listener = entry.resource
        if not isinstance(listener, ServerListener):
            missing = entry.status in (Status.DOES_NOT_EXIST, Status.TIMEOUT)
            why = "it is a listener for clients" if isinstance(listener, Listener) else entry.error
            return ServerView(problem=f"listener {name}: {why}", does_not_exist=missing)
        routes: dict[str, RouteConfiguration] = {}
        for route_name in listener.route_names:
            found = self._want(ResourceType.ROUTE_CONFIGURATION, route_name)
            if found is None or not found.is_settled:
                return None
            if not isinstance(found.resource, RouteConfiguration):
                return ServerView(problem=f"route configuration {route_name}: {found.error}")
            routes[route_name] = found.resource
        self.clusters_settled(listener.cluster_names)
        return ServerView(listener, routes)

    def clusters_settled(self, names: frozenset[str]) -> bool:
        """Whether nothing more is to be waited for below any of these clusters."""
        # No short cut: each cluster must be walked, since walking is what makes its resources wanted.
        settled = [self._cluster_settled(name, depth=0) for name in names]
        return all(settled)

    def _cluster_settled(self, name: str, depth: int) -> bool:
        if name in self.unsettled:
            return False
        if name in self.clusters:
            return True
        entry = self._want(ResourceType.CLUSTER, name)
        if entry is None or not entry.is_settled:
            self.unsettled.add(name)
            return False
        cluster = entry.resource
        if not isinstance(cluster, Cluster):
            if not self._is_withdrawn(name, entry):
                self.clusters[name] = ClusterView(problem=f"cluster {name}: {entry.error}")
                return True
            last = self.published.get(name)
            if last is None or last.cluster is None:
                # It has gone before it could serve: whatever leads here waits, and what was before serves on.
                self.unsettled.add(name)
                return False
            cluster = last.cluster
        if isinstance(cluster.discovery, AggregateDiscovery):
            return self._aggregate_settled(cluster, cluster.discovery, depth)
        view = self._endpoints(cluster)
        if view is None:
            self.unsettled.add(name)
            return False
        self.clusters[name] = view
        return True

    def _is_withdrawn(self, name: str, entry: CachedResource) -> bool:
        """Whether a cluster that is not there was there, so recently that routes may still be about to leave it."""
        known = self.published.get(name)
        has_served = known is not None and known.cluster is not None
        ends_at = self.withdrawn_before.get(name)
        if ends_at is None:
            if not has_served and not entry.was_there:
                return False
            ends_at = self.now + self.withdrawn_seconds
        self.withdrawn[name] = ends_at
        return self.now < ends_at

    def _aggregate_settled(self, cluster: Cluster, aggregate: AggregateDiscovery, depth: int) -> bool:
        if depth >= _MAX_AGGREGATE_DEPTH:
            problem = f"cluster {cluster.name}: aggregates nest more than {_MAX_AGGREGATE_DEPTH} deep, or in a circle"
            self.clusters[cluster.name] = ClusterView(cluster, problem=problem)
            return True
        settled = [self._cluster_settled(child, depth + 1) for child in aggregate.clusters]
        if not all(settled):
            self.clusters.pop(cluster.name, None)
            self.unsettled.add(cluster.name)
            return False
        self.clusters.setdefault(cluster.name, ClusterView(cluster))
        return True

    def _endpoints(self, cluster: Cluster) -> ClusterView | None:
        match cluster.discovery:
            case StaticDiscovery(endpoints=endpoints):
                return ClusterView(cluster, endpoints)
            case DnsDiscovery():
                return self._looked_up(cluster, cluster)
            case EdsDiscovery(service_name=service_name):
                entry = self._want(ResourceType.ENDPOINTS, service_name)
                last = self.published.get(cluster.name) if cluster.name in self.withdrawn else None
                if last is not None and not _has_endpoints(entry):
                    # Who withdraws a cluster withdraws its endpoints too.
                    return last
                if entry is None or not entry.is_settled:
                    return None
                if isinstance(entry.resource, Endpoints):
                    if cluster.fallback is not None and not _has_endpoints(entry):
                        return self._looked_up(cluster, replace(cluster, discovery=cluster.fallback))
                    return ClusterView(cluster, entry.resource)
                return ClusterView(cluster, problem=f"endpoints {service_name}: {entry.error}")
            case AggregateDiscovery():
                return ClusterView(cluster)
            case OriginalDiscovery():
                return ClusterView(cluster, problem=f"cluster {cluster.name}: nobody knows where a request was to go")

    def _looked_up(self, cluster: Cluster, by_name: Cluster) -> ClusterView | None:
        """A cluster with the endpoints that DNS has for it; None while it is asked."""
        self.dns_clusters[cluster.name] = by_name
        found = self.dns.endpoints(cluster.name)
        if found is not None:
            return ClusterView(cluster, found)
        problem = self.dns.problem(cluster.name)
        return ClusterView(cluster, problem=f"cluster {cluster.name}: {problem}") if problem else None

    def keep_current(self, view: ClusterView) -> None:
        """Keep wanting what an already published cluster needs."""
        if view.cluster is not None and isinstance(view.cluster.discovery, EdsDiscovery):
            self._want(ResourceType.ENDPOINTS, view.cluster.discovery.service_name)

    def _want(self, kind: ResourceType, name: str) -> CachedResource | None:
        self.wanted[kind].add(name)
        return self.cache.get(kind, name)
