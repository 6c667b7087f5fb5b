"""Management servers as a `Source`: the first of a list, and others in its place while it is away (gRFC A71).

A server that is away, slow or lying changes nothing for traffic: the cache keeps the last good resources. So the next
server of the list is asked only where the one before could not be reached *and* something is wanted of which nothing is
known. It is asked for everything then, since only resources of one server are known to fit together. The one before is
still tried; when it answers, the others are let go, and what they have brought stays in use until it brings its own.

gRPC does so for each target of a channel by itself. Here all targets share what is known, as they share the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..bootstrap import XdsServer
from ..log_lines import logger_of
from ..node import Node
from ..resources import ResourceType
from .backoff import Backoff
from .cache import ResourceCache, Status
from .connection import Common, ServerConnection, node_message
from .loop import ControlLoop
from .packed import of_sidecars
from .source import Wanted
from .stream import ADS, Channels

__all__ = ["AdsClient", "node_message"]

logger = logger_of("meshsdk.xds")


class AdsClient:
    """Keeps the wanted resources current over ADS. Control thread only.

    Args:
        servers: In order of preference.
        node: Who to introduce oneself as.
        cache: Where resources are put.
        loop: The control thread.
        channels: Where channels are from.
        make_backoff: Delays between the attempts to reach one server.
        does_not_exist_seconds: How long a wanted resource may take before it counts as not existing; None is what gRPC
            has: 15 seconds, or 30 of servers that say what they do not have.
        has_identity: This process can show a certificate of the mesh.
        service: That is asked, where that is not ADS; see `AdsStream`.
        takes_all: All listeners and clusters come from here, as a sidecar's do.
    """

    def __init__(
        self,
        servers: Sequence[XdsServer],
        node: Node,
        cache: ResourceCache,
        loop: ControlLoop,
        *,
        channels: Channels | None = None,
        make_backoff: Callable[[], Backoff] = Backoff,
        does_not_exist_seconds: float | None = None,
        has_identity: bool = False,
        service: str = ADS,
        takes_all: bool = False,
    ) -> None:
        self._servers = tuple(servers)
        self._cache = cache
        if takes_all and not cache.packed:
            cache.packed = of_sidecars()
        self._common = Common(
            node,
            cache,
            loop,
            channels or Channels(),
            make_backoff=make_backoff,
            does_not_exist_seconds=does_not_exist_seconds,
            has_identity=has_identity,
            service=service,
            takes_all=takes_all,
        )
        self._wanted: Wanted = {}
        self._connections = [ServerConnection(self._servers[0], self._common, self._look)]
        # Of connections that were let go.
        self._past_failures = 0

    @property
    def is_connected(self) -> bool:
        """See `Source.is_connected`: a server that owes an answer is none."""
        return any(one.is_heard for one in self._connections)

    @property
    def failures(self) -> int:
        """See `Source.failures`."""
        return self._past_failures + sum(one.failures for one in self._connections)

    @property
    def cannot_be_had(self) -> bool:
        """Whether each server has been tried, and none was there."""
        return len(self._connections) == len(self._servers) and all(one.is_failing for one in self._connections)

    @property
    def problem(self) -> str:
        """Why the first server is not heard, or cannot bring what is wanted; empty where all is well."""
        first, *others = list(self._connections)
        problem = first.problem
        heard = next((one.server.uri for one in others if one.is_heard), "")
        if problem and heard:
            return f"{problem}; {heard} is asked in its place"
        return "; ".join([problem, *(one.problem for one in others if one.problem)]) if problem else ""

    def subscribe(self, wanted: Wanted) -> None:
        """See `Source.subscribe`."""
        for kind, before in self._wanted.items():
            names = wanted.get(kind, frozenset())
            for gone in before - names if names is not before else ():
                self._common.lifetimes.forget((kind, gone))
        self._wanted = wanted
        for one in list(self._connections):
            one.subscribe(wanted)
        self._look()

    def close(self) -> None:
        """See `Source.close`."""
        self._common.lifetimes.close()
        for one in self._connections:
            one.close()

    def _look(self) -> None:
        """See which servers there is a reason to talk to."""
        for index, one in enumerate(self._connections):
            if one.is_heard:
                self._let_go(index + 1)
                return
        last = self._connections[-1]
        if not last.is_failing or len(self._connections) == len(self._servers) or not self._lacks_something():
            return
        server = self._servers[len(self._connections)]
        logger.warning("%s; %s is asked in its place", last.problem, server.uri)
        # Whoever answers must send all that it has: what is in use from now on may be another one's.
        self._common.heard_of = None
        one = ServerConnection(server, self._common, self._look)
        self._connections.append(one)
        one.subscribe(self._wanted)

    def _let_go(self, index: int) -> None:
        """Of the servers from one of the list on."""
        for one in self._connections[index:]:
            logger.warning("%s answers; %s is let go", self._connections[index - 1].server.uri, one.server.uri)
            self._past_failures += one.failures
            one.close()
        del self._connections[index:]

    def _lacks_something(self) -> bool:
        """Whether something is wanted of which nothing is known."""
        return any(
            (entry := self._cache.get(kind, name)) is None or entry.status is Status.REQUESTED
            for kind in ResourceType
            for name in self._wanted.get(kind, ())
        )
