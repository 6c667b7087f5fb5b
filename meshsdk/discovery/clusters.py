"""The clusters that something leads to: what each is made of, and whether it can be used.

A cluster that the source has withdrawn, while published routes still lead there, serves on until they do not. Servers
send clusters before routes, so that what comes first is often the cluster that is gone: istiod when a subset is
renamed, go-control-plane with each snapshot. It is bounded, since routes may never follow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct
from msgspec.structs import replace

from ..resources import (
    AggregateDiscovery,
    Cluster,
    DnsDiscovery,
    EdsDiscovery,
    Endpoints,
    OriginalDiscovery,
    ResourceType,
    StaticDiscovery,
)
from ..xds import CachedResource, ResourceCache, ResourceKey
from .dns import DnsResolver
from .look import Look
from .snapshot import ClusterView

__all__ = ["ClusterNode", "Clusters"]

# gRFC A37: an aggregate cluster may nest this deep.
_MAX_AGGREGATE_DEPTH = 16


class ClusterNode(Struct, eq=False):
    """A cluster as it was found last.

    Attributes:
        view: None while something of it is waited for.
        children: Of an aggregate.
        keys: What it was looked for in.
    """

    view: ClusterView | None = None
    children: tuple[str, ...] = ()
    keys: tuple[ResourceKey, ...] = ()


class Clusters:
    """Clusters by name, each looked for once, and again when it is told to be.

    Args:
        cache: Resources by name.
        dns: Endpoints of DNS clusters.
        withdrawn_seconds: How long a withdrawn cluster serves on at the most.

    Attributes:
        looked_up: Those whose endpoints DNS has.
        withdrawn: Those that the source withdrew though routes lead there, and until when each may serve.
    """

    def __init__(self, cache: ResourceCache, dns: DnsResolver, withdrawn_seconds: float) -> None:
        self._cache = cache
        self._dns = dns
        self._withdrawn_seconds = withdrawn_seconds
        self._nodes: dict[str, ClusterNode] = {}
        self.looked_up: dict[str, Cluster] = {}
        self.withdrawn: dict[str, float] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes)

    def __contains__(self, name: str) -> bool:
        return name in self._nodes

    def get(self, name: str) -> ClusterNode | None:
        """A cluster, where it has been looked for."""
        return self._nodes.get(name)

    def has_children(self, name: str) -> bool:
        """Whether it is an aggregate of others."""
        return bool(self._nodes[name].children)

    def drop(self, name: str) -> ClusterNode:
        """Nothing leads to a cluster any more."""
        self.looked_up.pop(name, None)
        self.withdrawn.pop(name, None)
        return self._nodes.pop(name)

    def expired(self, now: float) -> list[str]:
        """Withdrawn clusters that may serve no longer."""
        return [name for name, ends_at in self.withdrawn.items() if ends_at <= now]

    def look(self, name: str, published: ClusterView | None, now: float) -> ClusterNode:
        """Look for a cluster, anew where that has been done.

        Args:
            name: Of the cluster.
            published: As it serves now.
            now: Monotonic seconds.
        """
        look = Look(self._cache)
        self.looked_up.pop(name, None)
        ends_at = self.withdrawn.pop(name, None)
        view = self._find(look, name, published, ends_at, now)
        if view is None and published is not None and published.cluster is not None:
            # The cluster was redefined and its new endpoints are not here yet: the old ones serve on, and are wanted.
            look.secrets_settled(published.cluster.secret_names)
            if isinstance(published.cluster.discovery, EdsDiscovery):
                look.want(ResourceType.ENDPOINTS, published.cluster.discovery.service_name)
        elif view is not None:
            view = _same_or(published, view)
        node = ClusterNode(view, _children(view), tuple(look.keys))
        self._nodes[name] = node
        return node

    def reach(self, names: Iterable[str]) -> tuple[set[str], bool]:
        """All clusters below some names, which are included, as far as they are known; and whether all are settled.

        Those that have not been looked for are among them.
        """
        reached: set[str] = set()
        is_settled = True
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name in reached:
                continue
            reached.add(name)
            node = self._nodes.get(name)
            if node is None or node.view is None:
                is_settled = False
            else:
                waiting += node.children
        return reached, is_settled

    def view(self, name: str, published: ClusterView | None) -> ClusterView | None:
        """What is to serve: what was found, or what has served before while something is waited for."""
        node = self._nodes[name]
        if node.view is None:
            return published
        if not node.children:
            return node.view
        if not self.reach((name,))[1]:
            return published
        if self._is_too_deep(name):
            problem = f"cluster {name}: aggregates nest more than {_MAX_AGGREGATE_DEPTH} deep, or in a circle"
            return _same_or(published, ClusterView(node.view.cluster, problem=problem))
        return _same_or(published, node.view)

    def _is_too_deep(self, name: str) -> bool:
        level = {name}
        for _ in range(_MAX_AGGREGATE_DEPTH):
            level = {child for parent in level for child in self._nodes[parent].children}
            if not level:
                return False
        return True

    def _find(
        self, look: Look, name: str, published: ClusterView | None, ends_at: float | None, now: float
    ) -> ClusterView | None:
        entry = look.want(ResourceType.CLUSTER, name)
        if entry is None or not entry.is_settled:
            return None
        cluster = entry.resource
        if not isinstance(cluster, Cluster):
            if not self._is_withdrawn(name, entry, published, ends_at, now):
                return ClusterView(problem=f"cluster {name}: {entry.error}")
            if published is None or published.cluster is None:
                # It has gone before it could serve: whatever leads here waits, and what was before serves on.
                return None
            cluster = published.cluster
        view = self._with_endpoints(look, cluster, published)
        return view if look.secrets_settled(cluster.secret_names) else None

    def _is_withdrawn(
        self, name: str, entry: CachedResource, published: ClusterView | None, ends_at: float | None, now: float
    ) -> bool:
        """Whether a cluster that is not there was there, so recently that routes may still be about to leave it."""
        if entry.is_dropped:
            return False
        if ends_at is None:
            has_served = published is not None and published.cluster is not None
            if not has_served and not entry.was_there:
                return False
            ends_at = now + self._withdrawn_seconds
        self.withdrawn[name] = ends_at
        return now < ends_at

    def _with_endpoints(self, look: Look, cluster: Cluster, published: ClusterView | None) -> ClusterView | None:
        match cluster.discovery:
            case AggregateDiscovery():
                return ClusterView(cluster)
            case OriginalDiscovery():
                return ClusterView(cluster, problem=f"cluster {cluster.name}: nobody knows where a request was to go")
            case StaticDiscovery(endpoints=endpoints):
                return ClusterView(cluster, endpoints)
            case DnsDiscovery():
                return self._looked_up(cluster, cluster)
            case EdsDiscovery(service_name=service_name):
                entry = look.want(ResourceType.ENDPOINTS, service_name)
                if cluster.name in self.withdrawn and published is not None and not _has_endpoints(entry):
                    # Who withdraws a cluster withdraws its endpoints too.
                    return published
                if entry is None or not entry.is_settled:
                    return None
                if isinstance(entry.resource, Endpoints):
                    if cluster.fallback is not None and not _has_endpoints(entry):
                        return self._looked_up(cluster, replace(cluster, discovery=cluster.fallback))
                    return ClusterView(cluster, entry.resource)
                return ClusterView(cluster, problem=f"endpoints {service_name}: {entry.error}")

    def _looked_up(self, cluster: Cluster, by_name: Cluster) -> ClusterView | None:
        """A cluster with the endpoints that DNS has for it; None while it is asked."""
        self.looked_up[cluster.name] = by_name
        found = self._dns.endpoints(cluster.name)
        if found is not None:
            return ClusterView(cluster, found)
        problem = self._dns.problem(cluster.name)
        return ClusterView(cluster, problem=f"cluster {cluster.name}: {problem}") if problem else None


def _children(view: ClusterView | None) -> tuple[str, ...]:
    discovery = view.cluster.discovery if view is not None and view.cluster is not None else None
    return discovery.clusters if isinstance(discovery, AggregateDiscovery) else ()


def _has_endpoints(entry: CachedResource | None) -> bool:
    found = entry.resource if entry is not None else None
    return isinstance(found, Endpoints) and any(locality.endpoints for locality in found.localities)


def _same_or(old: ClusterView | None, new: ClusterView) -> ClusterView:
    """The old view where the new one holds the very same objects, so that readers can compare by identity."""
    if old is None or old.problem != new.problem:
        return new
    return old if old.cluster is new.cluster and old.endpoints is new.endpoints else new
