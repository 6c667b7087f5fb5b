"""Sources by the authority of a resource's name (gRFC A47), as one `Source`.

A name that is no `xdstp:` URI is the top-level servers'. A URI's is its authority's: servers of its own, or the
top-level ones. Authorities of the same servers share a stream; lists that only have a server in common share the
channel. What fails for one authority is nothing to the others. An authority that the bootstrap does not know has no
resources: that is told as the error of each that is wanted of it.

Control thread only.
"""

from __future__ import annotations

from collections import defaultdict

from ..bootstrap import Bootstrap, XdsServer
from ..errors import BootstrapError
from ..resources import ResourceType
from ..xdstp import authority_of
from .ads_client import AdsClient
from .cache import ResourceCache
from .loop import ControlLoop, Timer
from .source import Wanted
from .stream import Channels

__all__ = ["Federation"]

# gRFC A47: a server of which nothing is wanted is let go in the order of minutes.
_IDLE_SECONDS = 300.0

_Servers = tuple[XdsServer, ...]


class Federation:
    """Keeps the wanted resources current, each by the servers of its authority.

    Args:
        bootstrap: Node, servers and authorities.
        cache: Where resources are put.
        loop: The control thread.
        has_identity: This process can show a certificate of the mesh.
        idle_seconds: How long servers are kept of which nothing is wanted.
    """

    def __init__(
        self,
        bootstrap: Bootstrap,
        cache: ResourceCache,
        loop: ControlLoop,
        *,
        has_identity: bool = False,
        idle_seconds: float = _IDLE_SECONDS,
    ) -> None:
        self._bootstrap = bootstrap
        self._cache = cache
        self._loop = loop
        self._has_identity = has_identity
        self._idle_seconds = idle_seconds
        self._channels = Channels()
        self._clients: dict[_Servers, AdsClient] = {}
        self._idle: dict[_Servers, Timer] = {}
        self._wanted: dict[ResourceType, frozenset[str]] = {}
        self._parts: dict[_Servers, dict[ResourceType, frozenset[str]]] = {}
        # Of clients that were let go.
        self._past_failures = 0
        self._client(bootstrap.servers)

    @property
    def is_connected(self) -> bool:
        """See `Source.is_connected`: all servers of which something is wanted."""
        return all(client.is_connected for client in self._used())

    @property
    def failures(self) -> int:
        """See `Source.failures`."""
        return self._past_failures + sum(client.failures for client in list(self._clients.values()))

    @property
    def problem(self) -> str:
        """See `Source.problem`."""
        return "; ".join(filter(None, (client.problem for client in self._used())))

    def subscribe(self, wanted: Wanted) -> None:
        """See `Source.subscribe`."""
        touched: set[_Servers] = set()
        for kind in ResourceType:
            before, names = self._wanted.get(kind, frozenset()), wanted.get(kind, frozenset())
            if names != before:
                self._wanted[kind] = names
                touched |= self._change(kind, names - before, before - names)
        for servers in touched:
            part = self._parts[servers]
            self._client(servers).subscribe(part)
            self._watch_idleness(servers, is_idle=not any(part.values()))

    def close(self) -> None:
        """See `Source.close`."""
        for client in self._clients.values():
            client.close()

    def _change(self, kind: ResourceType, new: frozenset[str], gone: frozenset[str]) -> set[_Servers]:
        """Put names of a type to their servers' and take others away; whose have changed."""
        added: dict[_Servers, set[str]] = defaultdict(set)
        removed: dict[_Servers, set[str]] = defaultdict(set)
        for names, by_servers in ((new, added), (gone, removed)):
            for name in names:
                try:
                    by_servers[self._bootstrap.servers_of(authority_of(name))].add(name)
                except BootstrapError as error:
                    self._cache.forget(kind, name)
                    if names is new:
                        self._cache.request(kind, name)
                        self._cache.reject(kind, name, f"{name}: bootstrap: {error}")
        for servers in added.keys() | removed.keys():
            part = self._parts.setdefault(servers, {})
            part[kind] = (part.get(kind, frozenset()) - removed[servers]) | added[servers]
        return {*added, *removed}

    def _client(self, servers: _Servers) -> AdsClient:
        client = self._clients.get(servers)
        if client is None:
            client = self._clients[servers] = AdsClient(
                servers,
                self._bootstrap.node,
                self._cache,
                self._loop,
                channels=self._channels,
                has_identity=self._has_identity,
            )
        return client

    def _used(self) -> list[AdsClient]:
        """Those of which something is wanted; the top-level ones where nothing is."""
        wanting = [servers for servers, part in list(self._parts.items()) if any(part.values())]
        used = [self._clients.get(servers) for servers in wanting or [self._bootstrap.servers]]
        return [client for client in used if client is not None]

    def _watch_idleness(self, servers: _Servers, *, is_idle: bool) -> None:
        timer = self._idle.pop(servers, None)
        if timer is not None:
            timer.cancel()
        if is_idle and servers != self._bootstrap.servers:
            self._idle[servers] = self._loop.call_later(self._idle_seconds, lambda: self._let_go(servers))

    def _let_go(self, servers: _Servers) -> None:
        del self._idle[servers]
        client = self._clients.pop(servers)
        self._parts.pop(servers)
        self._past_failures += client.failures
        client.close()
