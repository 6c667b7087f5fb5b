"""Several sources as one `Source`: each resource is had from where its name says.

Names may say a file, or a server of their own (`resources.config_source`); whose the others are is for others to say.

Control thread only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping

from msgspec import Struct

from ..errors import BootstrapError
from ..log_lines import logger_of
from ..resources import ResourceType, ServerOrigin, origin_of
from .cache import ResourceCache
from .loop import ControlLoop, Timer
from .source import Source, Wanted

__all__ = ["ByName", "Elsewhere", "ReadFile", "no_files"]

logger = logger_of("meshsdk.xds")

# Resources of a file that may be read: type and bytes of each, by name.
ReadFile = Callable[[str], dict[tuple[ResourceType, str], bytes]]

# gRFC A47: a server of which nothing is wanted is let go in the order of minutes.
_IDLE_SECONDS = 300.0

# Whose names may say a source: they are `sourced_name`'s. A request may name a cluster (cluster_header), and a host.
_SOURCED = (ResourceType.ROUTE_CONFIGURATION, ResourceType.ENDPOINTS, ResourceType.SECRET)

# What the others say makes clusters wanted.
_CLUSTERS_LAST = sorted(ResourceType, key=lambda kind: kind is ResourceType.CLUSTER)


class Elsewhere(Struct, frozen=True):
    """A source that names say, by what the names of its resources begin with."""

    prefix: str
    kind: ResourceType


def no_files(path: str) -> dict[tuple[ResourceType, str], bytes]:
    """Reads nothing."""
    raise ValueError("files are not read here")


class ByName(ABC):
    """Keeps the wanted resources current, each by its own source.

    Args:
        cache: Where resources are put.
        loop: The control thread.
        top: The source of most.
        idle_seconds: How long sources are kept of which nothing is wanted.
    """

    def __init__(
        self, cache: ResourceCache, loop: ControlLoop, top: Hashable, idle_seconds: float = _IDLE_SECONDS
    ) -> None:
        self._cache = cache
        self._loop = loop
        self._top = top
        self._idle_seconds = idle_seconds
        self._clients: dict[Hashable, Source] = {}
        self._idle: dict[Hashable, Timer] = {}
        self._wanted: dict[ResourceType, frozenset[str]] = {}
        # Clusters that lead to management servers, and how many resources are wanted of those.
        self._leading: Counter[str] = Counter()
        self._parts: dict[Hashable, dict[ResourceType, frozenset[str]]] = {}
        # Of sources that were let go.
        self._past_failures = 0

    @abstractmethod
    def make(self, key: Hashable) -> Source:
        """The source of a key."""

    @abstractmethod
    def key_of(self, name: str) -> Hashable:
        """Whose a name is that says no source.

        Raises:
            BootstrapError: It is nobody's.
        """

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
        touched: set[Hashable] = set()
        for kind in _CLUSTERS_LAST:
            before, names = self._wanted.get(kind, frozenset()), wanted.get(kind, frozenset())
            if self._leading and kind is ResourceType.CLUSTER:
                names |= self._leading.keys()
            if names is not before and names != before:
                self._wanted[kind] = names
                touched |= self._change(kind, names - before, before - names)
        for key in touched:
            part = self._parts[key]
            try:
                # A copy: sources compare with what they were told the last time.
                self._client(key).subscribe(dict(part))
            except Exception as error:
                # A fault of ours with one source is nothing to the others.
                logger.exception("resources cannot be had from where their names say")
                self._reject(key, part, f"cannot be had: {error!r}")
            self._watch_idleness(key, is_idle=not any(part.values()))

    def _reject(self, key: Hashable, part: Mapping[ResourceType, frozenset[str]], problem: str) -> None:
        prefix = key.prefix if isinstance(key, Elsewhere) else ""
        for kind, names in part.items():
            for name in names:
                self._cache.request(kind, f"{prefix}{name}")
                self._cache.reject(kind, f"{prefix}{name}", problem)

    def close(self) -> None:
        """See `Source.close`."""
        for client in self._clients.values():
            client.close()

    def _change(self, kind: ResourceType, new: frozenset[str], gone: frozenset[str]) -> set[Hashable]:
        """Put names of a type to their sources and take others away; which have changed."""
        added: dict[Hashable, set[str]] = defaultdict(set)
        removed: dict[Hashable, set[str]] = defaultdict(set)
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
                    self._count(key, 1 if names is new else -1)
        for key in added.keys() | removed.keys():
            part = self._parts.setdefault(key, {})
            part[kind] = (part.get(kind, frozenset()) - removed[key]) | added[key]
        return {*added, *removed}

    def _count(self, key: Hashable, more: int) -> None:
        """Remember which clusters lead to servers of what is wanted."""
        found = origin_of(key.prefix) if isinstance(key, Elsewhere) else None
        if found is not None and isinstance(found[0], ServerOrigin) and found[0].cluster:
            self._leading[found[0].cluster] += more
            if not self._leading[found[0].cluster]:
                del self._leading[found[0].cluster]

    def _place(self, kind: ResourceType, name: str) -> tuple[Hashable, str]:
        """Where a resource is had from, and its name there.

        Raises:
            BootstrapError: It is nobody's.
        """
        found = origin_of(name) if kind in _SOURCED else None
        if found is not None:
            return Elsewhere(name.removesuffix(found[1]), kind), found[1]
        return self.key_of(name), name

    def _client(self, key: Hashable) -> Source:
        client = self._clients.get(key)
        if client is None:
            client = self._clients[key] = self.make(key)
        return client

    def _used(self) -> list[Source]:
        """Those of which something is wanted; the top where nothing is."""
        wanting = [key for key, part in list(self._parts.items()) if any(part.values())]
        used = [self._clients.get(key) for key in wanting or [self._top]]
        return [client for client in used if client is not None]

    def _watch_idleness(self, key: Hashable, *, is_idle: bool) -> None:
        timer = self._idle.pop(key, None)
        if timer is not None:
            timer.cancel()
        if is_idle and key != self._top:
            self._idle[key] = self._loop.call_later(self._idle_seconds, lambda: self._let_go(key))

    def _let_go(self, key: Hashable) -> None:
        """Nothing has been wanted of it for long."""
        del self._idle[key]
        self._parts.pop(key)
        client = self._clients.pop(key, None)
        if client is not None:
            self._past_failures += client.failures
            client.close()
