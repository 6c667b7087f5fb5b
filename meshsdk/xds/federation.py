"""Every source of resources as one `Source`: each resource is had from where its name says.

A name that is no `xdstp:` URI is the top-level servers'. A URI's is its authority's (gRFC A47): servers of its own, or
the top-level ones. Authorities of the same servers share a stream; lists that only have a server in common share the
channel. What fails for one authority is nothing to the others. An authority that the bootstrap does not know has no
resources: that is told as the error of each that is wanted of it. Names may also say a file, or a server that is not of
the bootstrap (`resources.config_source`).

Control thread only.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from msgspec import Struct

from ..bootstrap import Bootstrap, XdsServer
from ..errors import BootstrapError
from ..resources import FileOrigin, ResourceType, ServerOrigin, origin_of
from ..xdstp import authority_of
from .ads_client import AdsClient
from .cache import ResourceCache
from .loop import ControlLoop, Timer
from .other_sources import FileSource, ReadFile, ViewOfCache, server_source
from .source import Source, Wanted
from .stream import Channels

__all__ = ["Federation"]

# gRFC A47: a server of which nothing is wanted is let go in the order of minutes.
_IDLE_SECONDS = 300.0


class _Elsewhere(Struct, frozen=True):
    """A source that is no authority's servers, by what names of its resources begin with."""

    prefix: str
    kind: ResourceType


# What the others say makes clusters wanted.
_CLUSTERS_LAST = sorted(ResourceType, key=lambda kind: kind is ResourceType.CLUSTER)

_Servers = tuple[XdsServer, ...]
_Key = _Servers | _Elsewhere


def _no_files(path: str) -> dict[tuple[ResourceType, str], bytes]:
    raise ValueError("files are not read here")


class Federation:
    """Keeps the wanted resources current, each by the servers of its authority.

    Args:
        bootstrap: Node, servers and authorities.
        cache: Where resources are put.
        loop: The control thread.
        has_identity: This process can show a certificate of the mesh.
        read_file: Reads the resources of a file.
        idle_seconds: How long servers are kept of which nothing is wanted.
    """

    def __init__(
        self,
        bootstrap: Bootstrap,
        cache: ResourceCache,
        loop: ControlLoop,
        *,
        has_identity: bool = False,
        read_file: ReadFile = _no_files,
        idle_seconds: float = _IDLE_SECONDS,
    ) -> None:
        self._bootstrap = bootstrap
        self._cache = cache
        self._loop = loop
        self._has_identity = has_identity
        self._read_file = read_file
        self._idle_seconds = idle_seconds
        self._channels = Channels()
        self._clients: dict[_Key, Source] = {}
        self._idle: dict[_Key, Timer] = {}
        self._wanted: dict[ResourceType, frozenset[str]] = {}
        # Clusters that lead to management servers, and how many resources are wanted of those.
        self._leading: Counter[str] = Counter()
        self._parts: dict[_Key, dict[ResourceType, frozenset[str]]] = {}
        # Of clients that were let go.
        self._past_failures = 0
        self._client(bootstrap.servers)

    @property
    def is_connected(self) -> bool:
        """See `Source.is_connected`: all servers of which something is wanted."""
        return all(client.is_connected for client in self._used())

    def is_connected_for(self, name: str) -> bool:
        """Whether changes of a resource are heard of."""
        try:
            client = self._clients.get(self._bootstrap.servers_of(authority_of(name)))
        except BootstrapError:
            return True  # It is known that there is none.
        return client is not None and client.is_connected

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
        touched: set[_Key] = set()
        for kind in _CLUSTERS_LAST:
            before, names = self._wanted.get(kind, frozenset()), wanted.get(kind, frozenset())
            if self._leading and kind is ResourceType.CLUSTER:
                names |= self._leading.keys()
            if names is not before and names != before:
                self._wanted[kind] = names
                touched |= self._change(kind, names - before, before - names)
        for key in touched:
            part = self._parts[key]
            # A copy: sources compare with what they were told the last time.
            self._client(key).subscribe(dict(part))
            self._watch_idleness(key, is_idle=not any(part.values()))

    def close(self) -> None:
        """See `Source.close`."""
        for client in self._clients.values():
            client.close()

    def _change(self, kind: ResourceType, new: frozenset[str], gone: frozenset[str]) -> set[_Key]:
        """Put names of a type to their sources and take others away; which have changed."""
        added: dict[_Key, set[str]] = defaultdict(set)
        removed: dict[_Key, set[str]] = defaultdict(set)
        for names, by_source in ((new, added), (gone, removed)):
            for name in names:
                try:
                    key, own = self._place(kind, name)
                except BootstrapError as error:
                    self._cache.forget(kind, name)
                    if names is new:
                        self._cache.request(kind, name)
                        self._cache.reject(kind, name, f"bootstrap: {error}")
                else:
                    by_source[key].add(own)
                    self._count(name, 1 if names is new else -1)
        for key in added.keys() | removed.keys():
            part = self._parts.setdefault(key, {})
            part[kind] = (part.get(kind, frozenset()) - removed[key]) | added[key]
        return {*added, *removed}

    def _count(self, name: str, more: int) -> None:
        """Remember which clusters lead to servers of what is wanted."""
        found = origin_of(name)
        if found is not None and isinstance(found[0], ServerOrigin) and found[0].cluster:
            self._leading[found[0].cluster] += more
            if not self._leading[found[0].cluster]:
                del self._leading[found[0].cluster]

    def _place(self, kind: ResourceType, name: str) -> tuple[_Key, str]:
        """Where a resource is had from, and its name there.

        Raises:
            BootstrapError: There is no such authority.
        """
        found = origin_of(name)
        if found is not None:
            return _Elsewhere(name.removesuffix(found[1]), kind), found[1]
        return self._bootstrap.servers_of(authority_of(name)), name

    def _client(self, key: _Key) -> Source:
        client = self._clients.get(key)
        if client is None:
            client = self._clients[key] = self._make(key)
        return client

    def _make(self, key: _Key) -> Source:
        if isinstance(key, _Elsewhere):
            found = origin_of(key.prefix)
            assert found is not None
            origin, view = found[0], ViewOfCache(self._cache, key.prefix)
            if isinstance(origin, FileOrigin):
                return FileSource(origin, self._read_file, view, self._loop, has_identity=self._has_identity)
            return server_source(
                origin,
                key.kind,
                self._bootstrap.node,
                (view, self._cache),
                self._loop,
                self._channels,
                has_identity=self._has_identity,
            )
        return AdsClient(
            key,
            self._bootstrap.node,
            self._cache,
            self._loop,
            channels=self._channels,
            has_identity=self._has_identity,
            takes_all=self._bootstrap.node.is_sidecar and key == self._bootstrap.servers,
        )

    def _used(self) -> list[Source]:
        """Those of which something is wanted; the top-level servers where nothing is."""
        wanting = [key for key, part in list(self._parts.items()) if any(part.values())]
        used = [self._clients.get(key) for key in wanting or [self._bootstrap.servers]]
        return [client for client in used if client is not None]

    def _watch_idleness(self, key: _Key, *, is_idle: bool) -> None:
        timer = self._idle.pop(key, None)
        if timer is not None:
            timer.cancel()
        if is_idle and key != self._bootstrap.servers:
            self._idle[key] = self._loop.call_later(self._idle_seconds, lambda: self._let_go(key))

    def _let_go(self, key: _Key) -> None:
        """Nothing has been wanted of it for long."""
        del self._idle[key]
        client = self._clients.pop(key)
        self._parts.pop(key)
        self._past_failures += client.failures
        client.close()
