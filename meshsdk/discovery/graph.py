"""The dependency graph, and make-before-break.

Theory of operation. Each listener in use is a root. A listener names its routes, routes name clusters, a cluster names
its endpoints; whatever is looked for on the way is wanted, so looking says what to subscribe to, and as answers come in
one gets further.

A root's *view* (listener and routes) is published only when all it leads to is settled: each cluster is there with
its endpoints, or known to be missing. Until then the root's previous view stays published, and what that one needs
stays wanted. So a route that moves to a new cluster takes effect when the new cluster can take traffic, and never as
a burst of 503.

A mesh of thousands of services changes here and there, and a change costs what it changes: each root and each cluster
remembers what it was looked for in, and is looked for again when one of those has changed. A cluster that is no longer
waited for, or is again, has the roots looked at that lead to it. Told that anything may have changed, all is looked for
again, by the same steps; so there is one meaning of a configuration, whatever its history of changes was.

No I/O and no clock here; control thread only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeVar

from msgspec import Struct

from ..resources import Cluster, ResourceType, RouteConfiguration
from ..resources.cluster import stands_for
from ..xds import ANY_LISTENER, DOES_NOT_EXIST_SECONDS, ResourceCache, ResourceKey
from .clusters import Clusters
from .dns import DnsResolver
from .index import Index
from .look import Look
from .outbound import Outbound
from .snapshot import Changes, ClusterView, ListenerView, ServerView, Snapshot

__all__ = ["CLUSTER_ROOT", "SERVER_ROOT", "Graph", "Resolution"]

# A root of this form is a cluster that some request named itself (RouteAction.cluster_header), not a listener.
CLUSTER_ROOT = "cluster_header: "

# A root of this form is a listener of a server of this process.
SERVER_ROOT = "server: "

# What stands for such a root once its cluster is settled; whether it is there is for the clusters to say.
_ON_DEMAND = ListenerView(problem="a cluster, not a listener", does_not_exist=True)

_OF_CLUSTERS = (ResourceType.CLUSTER, ResourceType.ENDPOINTS)


class Resolution(Struct, frozen=True):
    """What was found: what to ask for, which names to look up, and what to publish.

    Attributes:
        wanted: The same object as the last time, where nothing has changed of it.
        ends_at: When to look again though nothing has come: some withdrawn cluster serves no longer. None is never.
    """

    wanted: dict[ResourceType, frozenset[str]]
    dns_clusters: list[Cluster]
    snapshot: Snapshot
    ends_at: float | None = None


class _Root(Struct, eq=False):
    """A root as it was looked for last.

    Attributes:
        keys: What it was looked for in.
        clusters: All that it leads to, and that its published view leads to.
        routes: Those that it has now, and the clusters that they name.
        published_names: Clusters that its published view names, of those that nobody waits for too.
    """

    keys: tuple[ResourceKey, ...] = ()
    clusters: tuple[str, ...] = ()
    routes: RouteConfiguration | None = None
    names: tuple[str, ...] = ()
    published_names: tuple[str, ...] = ()

    def names_of(self, view: ListenerView | None) -> tuple[str, ...]:
        """The clusters that a view's routes name."""
        routes = view.routes if view is not None else None
        if routes is not self.routes:
            self.routes, self.names = routes, tuple(routes.cluster_names) if routes is not None else ()
        return self.names


class _Dirty(Struct):
    """What is looked at in one go.

    Attributes:
        touched: Clusters that may serve as something else.
        left: Clusters that some root leads to no longer.
        listeners, servers: New views by root, and None for those that are gone.
    """

    roots: set[str]
    touched: set[str]
    left: set[str]
    listeners: dict[str, ListenerView | None]
    servers: dict[str, ServerView | None]


class Graph:
    """Looks from listeners to endpoints, and remembers what was last published.

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
        self._clusters = Clusters(cache, dns, withdrawn_seconds)
        self._published = Snapshot()
        self._roots: dict[str, _Root] = {}
        # Whom a change of a resource concerns, and which roots lead to a cluster.
        self._readers: Index[ResourceKey] = Index()
        self._leading: Index[str] = Index()
        self._names: dict[ResourceType, set[str]] = {kind: set() for kind in ResourceType}
        self._wanted: dict[ResourceType, frozenset[str]] = dict.fromkeys(ResourceType, frozenset())
        self._rewanted: set[ResourceType] = set()

    def resolve(
        self, roots: Collection[str] | None, now: float, changed: Iterable[ResourceKey] | None = None
    ) -> Resolution:
        """What comes of what is in the cache; the snapshot is the published one where nothing in it changed.

        Args:
            roots: All of them; None where they are those of the last time.
            now: Monotonic seconds.
            changed: All that has changed in the cache since the last time; None where anything may have.
        """
        dirty = _Dirty(set(), set(), set(), {}, {})
        clusters = self._to_look_for(changed, now, dirty)
        if roots is not None:
            self._set_roots(roots, dirty)
        for name in clusters:
            self._look_for_cluster(name, now, dirty)
        for root in dirty.roots:
            self._look_for_root(root, now, dirty)
        for name in dirty.left:
            if name not in self._leading and name in self._clusters:
                self._set_readers(name, self._clusters.drop(name).keys, ())
        self._publish(dirty)
        if self._rewanted:
            self._wanted = self._wanted | {kind: frozenset(self._names[kind]) for kind in self._rewanted}
            self._rewanted.clear()
        ends_at = min((ends for ends in self._clusters.withdrawn.values() if ends > now), default=None)
        return Resolution(self._wanted, list(self._clusters.looked_up.values()), self._published, ends_at)

    def _to_look_for(self, changed: Iterable[ResourceKey] | None, now: float, dirty: _Dirty) -> set[str]:
        """The clusters that changes concern; roots go among the dirty ones."""
        clusters = set(self._clusters.expired(now))
        clusters |= self._dns.take_changed() & self._clusters.looked_up.keys()
        if changed is None:
            dirty.roots.update(self._roots)
            self._look_for_leftovers(dirty)
            return clusters | set(self._clusters)
        for key in changed:
            if key == ANY_LISTENER and self._outbound is not None:
                # Where requests for a host go is found among all of them.
                dirty.roots.update(name for name in self._roots if not name.startswith((SERVER_ROOT, CLUSTER_ROOT)))
                continue
            readers = self._readers.of(key)
            if key[0] is ResourceType.SECRET:
                # Clusters have them, and servers.
                dirty.roots.update(name for name in readers if name.startswith(SERVER_ROOT))
                clusters.update(name for name in readers if not name.startswith(SERVER_ROOT))
            else:
                (clusters if key[0] in _OF_CLUSTERS else dirty.roots).update(readers)
        return clusters

    def _look_for_leftovers(self, dirty: _Dirty) -> None:
        """What nothing leads to any more goes, also where it was to go in a pass that failed."""
        before = self._published
        dirty.left.update(self._clusters, before.clusters)
        dirty.listeners.update(dict.fromkeys(before.listeners.keys() - self._roots.keys()))
        servers = {f"{SERVER_ROOT}{name}": name for name in before.servers}
        dirty.servers.update(dict.fromkeys(name for root, name in servers.items() if root not in self._roots))

    def _set_roots(self, roots: Collection[str], dirty: _Dirty) -> None:
        present = set(roots)
        for root in self._roots.keys() - present:
            gone = self._roots.pop(root)
            self._set_readers(root, gone.keys, ())
            dirty.left.update(self._leading.replace(root, gone.clusters, ())[1])
            dirty.roots.discard(root)
            if root.startswith(SERVER_ROOT):
                dirty.servers[root.removeprefix(SERVER_ROOT)] = None
            else:
                dirty.listeners[root] = None
        for root in roots:
            if root not in self._roots:
                self._roots[root] = _Root()
                dirty.roots.add(root)

    def _look_for_cluster(self, name: str, now: float, dirty: _Dirty) -> None:
        before = self._clusters.get(name)
        node = self._clusters.look(name, self._published.clusters.get(name), now)
        self._set_readers(name, before.keys if before is not None else (), node.keys)
        dirty.touched.add(name)
        if before is not None and (before.children != node.children or (before.view is None) != (node.view is None)):
            dirty.roots.update(self._leading.of(name))

    def _look_for_root(self, root: str, now: float, dirty: _Dirty) -> None:
        record, look = self._roots[root], Look(self._cache)
        if root.startswith(SERVER_ROOT):
            name = root.removeprefix(SERVER_ROOT)
            server, called = look.server(name)
            reached, _ = self._reach(called, now, dirty)
            if server is not None:
                dirty.servers[name] = _same_server(self._published.servers.get(name), server)
                record.published_names = tuple(called)
            else:
                reached |= self._reach(record.published_names, now, dirty)[0]
        elif root.startswith(CLUSTER_ROOT):
            name = root.removeprefix(CLUSTER_ROOT)
            # A sidecar's stand for whichever host their names say: that is for configuration to say, not for requests.
            is_known = self._outbound is None or stands_for(name) == name
            reached, is_settled = self._reach((name,) if is_known else (), now, dirty)
            if is_settled:
                dirty.listeners[root] = _ON_DEMAND
        else:
            view, told = look.listener(root) if self._outbound is None else look.outbound(root, self._outbound)
            names = record.names_of(view)
            reached, is_settled = self._reach(names, now, dirty)
            # Nobody waits for where requests are told.
            reached |= self._reach(told, now, dirty)[0]
            if view is not None and is_settled:
                dirty.listeners[root] = _same_listener(self._published.listeners.get(root), view)
                record.published_names = (*names, *told)
            else:
                reached |= self._reach(record.published_names, now, dirty)[0]
        keys = tuple(look.keys)
        self._set_readers(root, record.keys, keys)
        dirty.left.update(self._leading.replace(root, record.clusters, reached)[1])
        record.keys, record.clusters = keys, tuple(reached)

    def _reach(self, names: Iterable[str], now: float, dirty: _Dirty) -> tuple[set[str], bool]:
        """See `Clusters.reach`; those that nobody has looked for are looked for."""
        while True:
            reached, is_settled = self._clusters.reach(names)
            new = [name for name in reached if self._clusters.get(name) is None]
            if not new:
                break
            for name in new:
                self._look_for_cluster(name, now, dirty)
        # Whether an aggregate can serve depends on those below it.
        dirty.touched.update(name for name in reached if self._clusters.has_children(name))
        return reached, is_settled

    def _set_readers(self, name: str, before: Iterable[ResourceKey], after: Iterable[ResourceKey]) -> None:
        new, gone = self._readers.replace(name, before, after)
        for kind, wanted in new:
            self._names[kind].add(wanted)
            self._rewanted.add(kind)
        for kind, unwanted in gone:
            self._names[kind].discard(unwanted)
            self._rewanted.add(kind)

    def _publish(self, dirty: _Dirty) -> None:
        before = self._published
        clusters: dict[str, ClusterView | None] = {}
        for name in dirty.touched | dirty.left:
            published = before.clusters.get(name)
            clusters[name] = self._clusters.view(name, published) if name in self._clusters else None
        listeners = _differing(before.listeners, dirty.listeners)
        servers = _differing(before.servers, dirty.servers)
        clusters = _differing(before.clusters, clusters)
        if listeners or servers or clusters:
            self._published = Snapshot(
                before.version + 1,
                _with(before.listeners, listeners),
                _with(before.clusters, clusters),
                _with(before.servers, servers),
                changes=Changes(frozenset(listeners), frozenset(clusters), frozenset(servers)),
            )


T = TypeVar("T")


def _differing(before: Mapping[str, T], after: Mapping[str, T | None]) -> dict[str, T | None]:
    """Those of `after` that are other objects than before; None where there is nothing any more."""
    return {name: value for name, value in after.items() if before.get(name) is not value}


def _with(before: Mapping[str, T], changes: Mapping[str, T | None]) -> Mapping[str, T]:
    if not changes:
        return before
    after = {**before, **{name: value for name, value in changes.items() if value is not None}}
    for name, value in changes.items():
        if value is None:
            after.pop(name, None)
    return after


def _same_listener(old: ListenerView | None, new: ListenerView) -> ListenerView:
    """The old view where the new one holds the very same objects, so that readers can compare by identity."""
    if old is None or old.problem != new.problem:
        return new
    return old if old.listener is new.listener and old.routes is new.routes else new


def _same_server(old: ServerView | None, new: ServerView) -> ServerView:
    """The old view where the new one holds the very same objects."""
    if old is None or old.listener is not new.listener or old.problem != new.problem:
        return new
    is_same = new.routes.keys() == old.routes.keys() and all(old.routes[key] is one for key, one in new.routes.items())
    return old if is_same else new
