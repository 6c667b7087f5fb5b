"""What stands in the cache for one listener, with all that it names, and what was looked for on the way."""

from __future__ import annotations

from msgspec import Struct, field

from ..resources import Listener, ResourceType, RouteConfiguration, ServerListener
from ..xds import CachedResource, ResourceCache, ResourceKey
from .outbound import Outbound
from .snapshot import ListenerView, ServerView

__all__ = ["Look"]

_NONE: frozenset[str] = frozenset()


class Look(Struct):
    """One look into the cache.

    Attributes:
        keys: All that was looked for, whether it is there or not: a change of that calls for another look.
    """

    cache: ResourceCache
    keys: set[ResourceKey] = field(default_factory=set)

    def want(self, kind: ResourceType, name: str) -> CachedResource | None:
        """What is known of a resource, which is wanted from now on."""
        self.keys.add((kind, name))
        return self.cache.get(kind, name)

    def secrets_settled(self, names: frozenset[str]) -> bool:
        """Whether no secret is to be waited for; a handshake that lacks one fails by itself."""
        return None not in [self._settled(ResourceType.SECRET, name) for name in names]

    def listener(self, name: str) -> tuple[ListenerView | None, frozenset[str]]:
        """The listener with its routes; None while one of them is not settled. And clusters that nobody waits for."""
        entry = self._settled(ResourceType.LISTENER, name)
        if entry is None:
            return None, _NONE
        listener = entry.resource
        if not isinstance(listener, Listener):
            return ListenerView(problem=_why_not(name, entry), does_not_exist=entry.is_missing), _NONE
        return self._with_routes(listener), listener.log_clusters

    def _settled(self, kind: ResourceType, name: str) -> CachedResource | None:
        entry = self.want(kind, name)
        return entry if entry is not None and entry.is_settled else None

    def outbound(self, root: str, found_by: Outbound) -> tuple[ListenerView | None, frozenset[str]]:
        """The same of a host and port of a sidecar's."""
        view = found_by.view(root, self.want)
        return view, view.listener.log_clusters if view is not None and view.listener is not None else _NONE

    def _with_routes(self, listener: Listener) -> ListenerView | None:
        if listener.route_configuration is not None:
            return ListenerView(listener, listener.route_configuration)
        routes = self._settled(ResourceType.ROUTE_CONFIGURATION, listener.route_name)
        if routes is None:
            return None
        if not isinstance(routes.resource, RouteConfiguration):
            return ListenerView(listener, problem=f"route configuration {listener.route_name}: {routes.error}")
        if routes.resource.passes_through:
            problem = f"route configuration {listener.route_name}: has no virtual hosts"
            return ListenerView(listener, problem=problem, passes_through=True)
        return ListenerView(listener, routes.resource)

    def server(self, name: str) -> tuple[ServerView | None, frozenset[str]]:
        """A server's listener with its routes; None while one of them is not settled. And the clusters it names."""
        entry = self._settled(ResourceType.LISTENER, name)
        if entry is None:
            return None, _NONE
        listener = entry.resource
        if not isinstance(listener, ServerListener):
            return ServerView(problem=_why_not(name, entry), does_not_exist=entry.is_missing), _NONE
        if not self.secrets_settled(listener.secret_names):
            return None, _NONE
        routes: dict[str, RouteConfiguration] = {}
        for route_name in listener.route_names:
            found = self._settled(ResourceType.ROUTE_CONFIGURATION, route_name)
            if found is None:
                return None, _NONE
            if not isinstance(found.resource, RouteConfiguration):
                return ServerView(problem=f"route configuration {route_name}: {found.error}"), _NONE
            routes[route_name] = found.resource
        return ServerView(listener, routes), listener.cluster_names


def _why_not(name: str, entry: CachedResource) -> str:
    """Why a listener is none for the side that asks."""
    of_servers = "it is a listener for servers" if isinstance(entry.resource, ServerListener) else ""
    of_clients = "it is a listener for clients" if isinstance(entry.resource, Listener) else ""
    return f"listener {name}: {of_servers or of_clients or entry.error}"
