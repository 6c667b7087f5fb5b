"""What a sidecar beside this process would do with requests for a host: the roots of istiod's sidecar profile.

Theory of operation. istiod sends a sidecar all listeners, and a root of the graph is no name among them but a host and
port. Which listener is for them is found as a connection would find it:

- one of the service's own address, by the hosts that it leads to, or by the address where the request names one;
- else the one of the port, for any address;
- else the one of all connections (`virtualOutbound`), which passes on what the mesh does not know, or goes nowhere.

In it, a chain of HTTP decides by its route configuration, of which the one virtual host is taken that answers for the
host (`PackedRoutes`), so that what else stands there costs nothing. Other chains carry bytes, by the name that TLS asks
for or whatever comes: their requests go to the chain's clusters, without rules.

`PassthroughCluster` means that the mesh does not know the host, and `BlackHoleCluster` that it must not be called.
Other clusters that are reached wherever a host is looked up (ORIGINAL_DST) get a name of their own for each host.

What is made is kept as long as what it is made of stays, so that unchanged views are the same objects.

Source: istio/istio pilot/pkg/networking/core/listener.go, listener_builder.go, httproute.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from msgspec import Struct
from msgspec.structs import replace

from ..errors import ResourceError
from ..log_lines import logger_of
from ..resources import (
    DirectResponse,
    ForwardAction,
    Listener,
    OutboundListener,
    PackedRoutes,
    PathMatch,
    PathMatchKind,
    ResourceType,
    Route,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
    WeightedCluster,
)
from ..resources.cluster import original_name
from ..resources.listener import NO_KEYS, OutboundChain, OutboundKeys, outbound_keys
from ..resources.route import VirtualHostBytes
from ..xds import CachedResource, ResourceCache
from .snapshot import ListenerView

__all__ = ["Outbound", "Want"]

logger = logger_of("meshsdk.discovery")

Want = Callable[[ResourceType, str], CachedResource | None]
Complete = Callable[[str], str | None]

_PASSTHROUGH = "PassthroughCluster"
_BLACK_HOLE = "BlackHoleCluster"
_ANY_PATH = RouteMatch(PathMatch(PathMatchKind.PREFIX, "/"))

# Views that are kept; hosts that nobody asks for any more go with the others when there are as many.
_MAX_KEPT = 16_384


class _Kept(Struct):
    """What a root's view was made of.

    Attributes:
        source: The routes of all hosts.
        virtual_host: The one of them that is this root's.
        parsed: The same as parsed; where the next one cannot be parsed it stays in use.
    """

    made_from: tuple[object, ...]
    view: ListenerView
    source: PackedRoutes | None = None
    virtual_host: VirtualHostBytes | None = None
    parsed: RouteConfiguration | None = None


class Outbound:
    """Finds what becomes of requests among a sidecar's listeners. Control thread only.

    Args:
        cache: That has all listeners, packed.
        complete: A short name of Kubernetes in full; None where it is none.
    """

    def __init__(self, cache: ResourceCache, complete: Complete) -> None:
        self._listeners = cache.packed[ResourceType.LISTENER]
        self._originals = cache.packed[ResourceType.CLUSTER].marked
        self._complete = complete
        self._keys: dict[str, OutboundKeys] = {}
        self._by_address: dict[tuple[str, int], dict[str, None]] = {}
        self._by_host: dict[tuple[str, int], dict[str, None]] = {}
        self._virtual: dict[str, None] = {}
        self._kept: dict[str, _Kept] = {}

    def view(self, root: str, want: Want) -> ListenerView | None:
        """The listener and routes of a host and port; None while something of it is still to come.

        Args:
            root: `host:port`.
            want: Asks for a resource, and gives what is known of it.
        """
        host, port = _parts(root)
        if not self._listeners.is_known:
            entry = want(ResourceType.LISTENER, f"0.0.0.0_{port}")
            if entry is None or not entry.is_settled:
                return None
            return ListenerView(problem=f"listeners: {entry.error}", does_not_exist=True)
        self._look_at_changes()
        for name in self._names_for(host, port):
            found = want(ResourceType.LISTENER, name)
            if found is None or not found.is_settled:
                return None
            if not isinstance(found.resource, OutboundListener):
                return ListenerView(problem=f"listener {name}: {found.error}")
            return self._by_listener(root, found.resource, want)
        return _unknown(root)

    def _look_at_changes(self) -> None:
        for name in self._listeners.take_changed():
            _drop(self._keys.pop(name, NO_KEYS), name, self._by_address, self._by_host)
            self._virtual.pop(name, None)
            entry = self._listeners.get(name)
            if entry is None:
                continue
            keys = self._keys[name] = _keys_of(name, entry[0])
            for address in keys.addresses:
                self._by_address.setdefault(address, {})[name] = None
            for host in keys.hosts:
                self._by_host.setdefault(host, {})[name] = None
            if keys.is_virtual:
                self._virtual[name] = None

    def _names_for(self, host: str, port: int) -> Iterator[str]:
        """Listeners that may be for a host, the one that is first."""
        names = self._forms(host)
        yield from self._by_address.get((names[0], port), ())
        for name in names:
            yield from sorted(self._by_host.get((name, port), ()))
        yield from sorted(self._by_address.get(("", port), ()))
        yield from self._virtual

    def _forms(self, host: str) -> list[str]:
        """A host as it may be known: without what only says that it is a whole name, and as Kubernetes completes it."""
        bare = host.removesuffix(".").strip("[]")
        full = self._complete(bare) if bare == host else None
        return [bare] if full is None else [bare, full]

    def _by_listener(self, root: str, listener: OutboundListener, want: Want) -> ListenerView | None:
        host, port = _parts(root)
        of_http = next((chain for chain in listener.all_chains if chain.listener is not None), None)
        of_bytes = _chain_of_bytes(listener, self._forms(host), port)
        if of_http is not None and of_http.listener is not None:
            found = self._by_routes(root, of_http.listener, want)
            if found is None or not found.does_not_exist or of_bytes is None or not of_bytes.match.server_names:
                return found
        return _unknown(root) if of_bytes is None else self._by_bytes(root, of_bytes)

    def _by_routes(self, root: str, listener: Listener, want: Want) -> ListenerView | None:
        if listener.route_configuration is not None:
            return self._with_originals(root, listener, listener.route_configuration)
        entry = want(ResourceType.ROUTE_CONFIGURATION, listener.route_name)
        if entry is None or not entry.is_settled:
            return None
        routes = entry.resource
        if not isinstance(routes, PackedRoutes):
            return ListenerView(listener, problem=f"route configuration {listener.route_name}: {entry.error}")
        try:
            virtual_host, parsed = self._parsed(root, routes)
        except ResourceError as error:
            return ListenerView(listener, problem=f"route configuration {listener.route_name}: {error}")
        if _leads_past_the_mesh(parsed):
            view = self._keep(root, (listener, parsed), _unknown(root))
        else:
            view = self._with_originals(root, listener, parsed)
        kept = self._kept[root]
        kept.source, kept.virtual_host, kept.parsed = routes, virtual_host, parsed
        return view

    def _parsed(self, root: str, routes: PackedRoutes) -> tuple[VirtualHostBytes | None, RouteConfiguration]:
        """The virtual host of a root, parsed where that has not been done.

        Raises:
            ResourceError: A rule does not hold, and there is no last good one.
        """
        kept = self._kept.get(root)
        if kept is not None and kept.parsed is not None and kept.source is routes:
            return kept.virtual_host, kept.parsed
        virtual_host = routes.find(*_parts(root))
        if virtual_host is None:
            return None, routes.common
        if kept is not None and kept.parsed is not None and kept.virtual_host == virtual_host:
            return virtual_host, kept.parsed
        try:
            return virtual_host, virtual_host.parse()
        except ResourceError as error:
            if kept is None or kept.parsed is None:
                raise
            logger.warning(
                "route configuration %s: %s; for %s the last good one stays in use", routes.name, error, root
            )
            return virtual_host, kept.parsed

    def _with_originals(self, root: str, listener: Listener, routes: RouteConfiguration) -> ListenerView:
        """The view in which clusters of original destinations are this host's own."""
        names = {name: original_name(*_parts(root), name) for name in routes.cluster_names & self._originals}
        made_from = (listener, routes, *sorted(names))
        kept = self._kept.get(root)
        if kept is not None and _same(kept.made_from, made_from):
            return kept.view
        return self._keep(root, made_from, ListenerView(listener, _renamed(routes, names) if names else routes))

    def _by_bytes(self, root: str, chain: OutboundChain) -> ListenerView:
        names = {one.name for one in chain.clusters}
        if names <= {_PASSTHROUGH}:
            return _unknown(root)
        if names & self._originals:
            return ListenerView(problem=f"{root}: its connections carry bytes", passes_through=True)
        kept = self._kept.get(root)
        if kept is not None and _same(kept.made_from, (chain,)):
            return kept.view
        routes = _BLOCKED if _BLACK_HOLE in names else _of_bytes(root, chain.clusters)
        return self._keep(root, (chain,), ListenerView(Listener(root), routes))

    def _keep(self, root: str, made_from: tuple[object, ...], view: ListenerView) -> ListenerView:
        if len(self._kept) >= _MAX_KEPT and root not in self._kept:
            self._kept.clear()
        self._kept[root] = _Kept(made_from, view)
        return view


def _parts(root: str) -> tuple[str, int]:
    host, _, port = root.rpartition(":")
    return host, int(port)


def _keys_of(name: str, packed: bytes) -> OutboundKeys:
    try:
        return outbound_keys(packed)
    except Exception:
        # A fault of ours with one listener is nothing to the others.
        logger.exception("listener %s: what it is for cannot be told", name)
        return NO_KEYS


def _drop(keys: OutboundKeys, name: str, *indexes: dict[tuple[str, int], dict[str, None]]) -> None:
    for key in (*keys.addresses, *keys.hosts):
        for index in indexes:
            names = index.get(key)
            if names is not None:
                names.pop(name, None)
                if not names:
                    del index[key]


def _unknown(root: str) -> ListenerView:
    return ListenerView(problem=f"no listener of the mesh is for {root}", does_not_exist=True)


def _same(old: tuple[object, ...], new: tuple[object, ...]) -> bool:
    return len(old) == len(new) and all(one is other or one == other for one, other in zip(old, new, strict=True))


def _chain_of_bytes(listener: OutboundListener, names: list[str], port: int) -> OutboundChain | None:
    """The chain for TLS to a host, where one is; else the one for whatever comes."""
    # The listener of all connections has a chain for its own port, too.
    chains = [
        chain
        for chain in listener.all_chains
        if chain.listener is None and chain.match.destination_port in (None, port)
    ]
    best = max(chains, key=lambda chain: _fit(chain.match.server_names, names), default=None)
    return best if best is not None and _fit(best.match.server_names, names) >= 0 else None


def _fit(server_names: tuple[str, ...], names: list[str]) -> int:
    """How well names that TLS asks for fit a host; none at all fit any, and negative is not at all."""
    fits = [
        1_000_000 if one in names else len(one)
        for one in server_names
        if one in names or (one.startswith("*") and any(name.endswith(one[1:]) for name in names))
    ]
    return max(fits, default=-1 if server_names else 0)


def _leads_past_the_mesh(routes: RouteConfiguration) -> bool:
    """Whether a virtual host is for what the mesh does not know (istiod's `allow_any`)."""
    return all(virtual_host.domains == ("*",) for virtual_host in routes.virtual_hosts) and (
        routes.cluster_names == {_PASSTHROUGH}
    )


def _renamed(routes: RouteConfiguration, names: Mapping[str, str]) -> RouteConfiguration:
    """Routes in which clusters have other names."""

    def of_route(route: Route) -> Route:
        action = route.action
        if not isinstance(action, ForwardAction):
            return route
        clusters = tuple(replace(one, name=names.get(one.name, one.name)) for one in action.clusters)
        mirrors = tuple(replace(one, cluster=names.get(one.cluster, one.cluster)) for one in action.mirrors)
        return replace(route, action=replace(action, clusters=clusters, mirrors=mirrors))

    hosts = tuple(
        replace(
            one,
            routes=tuple(map(of_route, one.routes)),
            mirrors=tuple(replace(mirror, cluster=names.get(mirror.cluster, mirror.cluster)) for mirror in one.mirrors),
        )
        for one in routes.virtual_hosts
    )
    return replace(routes, virtual_hosts=hosts)


def _one_route(name: str, action: ForwardAction | DirectResponse) -> RouteConfiguration:
    return RouteConfiguration(name, (VirtualHost(name, ("*",), (Route(_ANY_PATH, action, name),)),))


def _of_bytes(root: str, clusters: tuple[WeightedCluster, ...]) -> RouteConfiguration:
    """Requests on connections that carry bytes: nobody looks at them, times them or tries them again."""
    return _one_route(root, ForwardAction(clusters, timeout_seconds=None))


# As a sidecar answers for hosts that must not be called (httproute.go, buildSidecarOutboundHTTPRouteConfig, block_all).
_BLOCKED = _one_route("block_all", DirectResponse(502))
