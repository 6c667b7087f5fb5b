"""Complete configuration at one moment."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from ..resources import Cluster, Endpoints, Listener, RouteConfiguration, ServerListener
from ..resources.access_log import AccessLogConfig
from ..resources.istio_stats import StatsConfig

__all__ = ["Changes", "ClusterView", "ListenerView", "ServerView", "Snapshot"]


class ListenerView(Struct, frozen=True, gc=False):
    """A listener with its routes, or why there is none.

    Attributes:
        problem: Empty where `listener` and `routes` are there.
        does_not_exist: The mesh does not know the target at all, as against knowing it and failing.
        passes_through: The mesh knows it, and decides nothing about its requests.
    """

    listener: Listener | None = None
    routes: RouteConfiguration | None = None
    problem: str = ""
    does_not_exist: bool = False
    passes_through: bool = False


class ServerView(Struct, frozen=True, gc=False):
    """A server's listener with its routes, or why it has none.

    Attributes:
        routes: Those that its chains ask for by name.
        problem: Why there is no listener; empty where there is one.
        does_not_exist: The management server says so; it is not failing.
    """

    listener: ServerListener | None = None
    routes: Mapping[str, RouteConfiguration] = field(default_factory=dict)
    problem: str = ""
    does_not_exist: bool = False


class ClusterView(Struct, frozen=True, gc=False):
    """A cluster with its endpoints, or why there are none. An aggregate cluster has no endpoints of its own."""

    cluster: Cluster | None = None
    endpoints: Endpoints | None = None
    problem: str = ""


class Changes(Struct, frozen=True, gc=False):
    """The names of what a snapshot has otherwise than the one before it, or more, or no longer."""

    listeners: frozenset[str] = frozenset()
    clusters: frozenset[str] = frozenset()
    servers: frozenset[str] = frozenset()

    def __or__(self, other: Changes) -> Changes:
        """What has changed by one and then the other."""
        return Changes(self.listeners | other.listeners, self.clusters | other.clusters, self.servers | other.servers)


class Snapshot(Struct, frozen=True):
    """Everything that requests are decided by. Never changed, only replaced.

    Attributes:
        version: Counts up with each snapshot of a Mesh.
        listeners: By listener name; one that is not here is still being fetched.
        clusters: Every cluster that some listener's routes refer to.
        servers: Listeners of servers, by name; as for `listeners`.
        changes: From the snapshot whose version is one less; None where that is not known.
    """

    version: int = 0
    listeners: Mapping[str, ListenerView] = field(default_factory=dict)
    clusters: Mapping[str, ClusterView] = field(default_factory=dict)
    servers: Mapping[str, ServerView] = field(default_factory=dict)
    changes: Changes | None = None

    @property
    def stats(self) -> list[tuple[StatsConfig, str, bool]]:
        """What listeners change of metrics, their names, and whether each is a server's."""
        views = self.listeners.items()
        found = [(view.listener.stats, name, False) for name, view in views if view.listener is not None]
        for name, server in self.servers.items():
            for chain in server.listener.all_chains if server.listener is not None else ():
                if chain.manager is not None:
                    found.append((chain.manager.listener.stats, name, True))
        return [(config, name, is_server) for config, name, is_server in found if config is not None]

    @property
    def access_logs(self) -> list[tuple[AccessLogConfig, ...]]:
        """Those of each listener that has some, of clients and of servers."""
        found = [view.listener.access_logs for view in self.listeners.values() if view.listener is not None]
        for server in self.servers.values():
            for chain in server.listener.all_chains if server.listener is not None else ():
                if chain.manager is not None:
                    found.append(chain.manager.listener.access_logs)
        return [configs for configs in found if configs]
