"""The last requests, each with what it was decided by, and how often each route and endpoint was used.

A request leaves a tuple of what it holds anyway; why it went where it did is worked out when somebody looks. The lock
may be taken again by the thread that holds it, since a response that is left to the garbage collector ends wherever
that runs. Nothing here fails a request.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from ..balancing import Endpoint
from ..exchange import Exchange, LocalReply
from ..exchange.considered import Considered
from ..routing import CompiledRoute, RequestHead
from ..telemetry.workload import NOBODY, Workload

__all__ = ["MAX_RECENT", "Decided", "Received", "Recent", "Sent", "Use"]

MAX_RECENT = 200

# Routes and endpoints that are counted; beyond it the counts begin anew.
_MAX_COUNTED = 20_000
# Routes of all the tables that requests of the ring were decided by, some two kilobytes each.
_MAX_ROUTES = 20_000


class Decided:
    """What a request was decided by; `exchange` is None when that is forgotten."""

    __slots__ = ("__weakref__", "exchange")

    def __init__(self, exchange: Exchange | Considered) -> None:
        self.exchange: Exchange | Considered | None = exchange


class Sent(NamedTuple):
    """A request that this process has sent.

    Attributes:
        at: When it was over, in seconds since the epoch.
        endpoint: Whose response it is, or the last one that was tried; empty where nobody was.
        status, grpc_status, flags: How it ended, as metrics have it.
        decided: None where it was not decided by routes of the mesh.
    """

    number: int
    at: float
    head: RequestHead
    cluster: str
    endpoint: str
    route: str
    attempts: int
    status: int
    grpc_status: str
    flags: str
    details: str
    milliseconds: int
    decided: Decided | None


class Received(NamedTuple):
    """A request that has come to a server of this process.

    Attributes:
        principal: The SPIFFE ID that the caller has proven; empty where it has none.
        caller: The workload that it says it is.
    """

    number: int
    at: float
    head: RequestHead
    principal: str
    caller: str
    status: int
    grpc_status: str
    flags: str
    milliseconds: int


class Use:
    """How often something was used, and how often that went wrong."""

    __slots__ = ("errors", "requests")

    def __init__(self) -> None:
        self.requests = self.errors = 0


_NO_USE = Use()


class Recent:
    """A bounded ring of requests, and counts.

    Args:
        on_first: Called with the first request of a process.

    Attributes:
        last: The number of the newest request.
    """

    def __init__(self, on_first: Callable[[], None]) -> None:
        self._on_first = on_first
        self.after_fork()

    def after_fork(self) -> None:
        """In a forked child: the requests are the parent's."""
        self._lock = threading.RLock()
        self._ring: deque[Sent | Received] = deque(maxlen=MAX_RECENT)
        self._uses: dict[tuple[object, ...], Use] = {}
        self._tables: dict[int, tuple[int, weakref.WeakSet[Decided]]] = {}
        self.last = 0

    def sent(
        self,
        head: RequestHead,
        begun: Exchange | LocalReply | Considered | None,
        endpoint: Endpoint | None,
        ending: tuple[int, str, str],
        details: str,
        milliseconds: int,
    ) -> None:
        """A request is over.

        Args:
            ending: Status, gRPC status and flags.
        """
        status, grpc_status, flags = ending
        is_error = not status or status >= 500 or grpc_status not in ("", "0")
        exchange = begun if isinstance(begun, Exchange) else None
        if endpoint is None and exchange is not None:
            endpoint = exchange.endpoint
        if not self.last:
            self._on_first()
        cluster, route, attempts = _named(begun, endpoint)
        with self._lock:
            self.last += 1
            number = self.last
            place = _place_of(begun)
            if place is not None:
                self._count(place, is_error)
            if endpoint is not None:
                self._count((endpoint.cluster.name, endpoint.name), is_error)
            where = endpoint.name if endpoint is not None else ""
            decided = self._decided(begun if isinstance(begun, Considered) else exchange)
            told = (status, grpc_status, flags, details, milliseconds, decided)
            self._ring.append(Sent(number, time.time(), head, cluster, where, route, attempts, *told))

    def received(
        self,
        head: RequestHead,
        principal: str,
        peer: Workload | None,
        ending: tuple[int, str, str],
        milliseconds: int,
    ) -> None:
        """A request was answered."""
        caller = f"{peer.name}.{peer.namespace}" if peer is not None and peer != NOBODY else ""
        if not self.last:
            self._on_first()
        with self._lock:
            self.last += 1
            self._ring.append(Received(self.last, time.time(), head, principal, caller, *ending, milliseconds))

    def _count(self, key: tuple[object, ...], is_error: bool) -> None:
        use = self._uses.get(key)
        if use is None:
            if len(self._uses) >= _MAX_COUNTED:
                self._uses = {}
            use = self._uses[key] = Use()
        use.requests += 1
        use.errors += is_error

    def _decided(self, exchange: Exchange | Considered | None) -> Decided | None:
        """What is kept of a decision. Where there are too many routes, the oldest table goes with what it decided."""
        if exchange is None or exchange.table is None:
            return None
        decided, table = Decided(exchange), exchange.table
        of_table = self._tables.get(id(table))
        if of_table is None:
            self._tables = {key: known for key, known in self._tables.items() if known[1]}
            of_table = self._tables[id(table)] = (len(table.routes), weakref.WeakSet())
            kept = sum(routes for routes, _ in self._tables.values())
            while kept > _MAX_ROUTES and len(self._tables) > 1:
                routes, forgotten = self._tables.pop(next(iter(self._tables)))
                kept -= routes
                for one in forgotten:
                    one.exchange = None
        of_table[1].add(decided)
        return decided

    def after(self, number: int) -> list[Sent | Received]:
        """The requests after one, the newest first."""
        with self._lock:
            found = list(self._ring)
        return sorted((one for one in found if one.number > number), key=lambda one: one.number, reverse=True)

    def find(self, number: int) -> Sent | Received | None:
        """One request, where it is not forgotten yet."""
        return next((one for one in self.after(number - 1) if one.number == number), None)

    def of_endpoint(self, endpoint: Endpoint) -> Use:
        """How often an endpoint was used."""
        return self._uses.get((endpoint.cluster.name, endpoint.name), _NO_USE)

    def of_route(self, listener: str, route: CompiledRoute) -> Use:
        """How often a route was used; one that is compiled anew goes on under its name."""
        return self._uses.get(key_of_route(listener, route), _NO_USE)


def _place_of(begun: Exchange | LocalReply | Considered | None) -> tuple[object, ...] | None:
    """The route that a request took, be it one that answers by itself."""
    if isinstance(begun, LocalReply):
        return key_of_route(*begun.matched) if begun.matched is not None else None
    if begun is None or begun.table is None or begun.route is None:
        return None
    return key_of_route(begun.table.listener.name, begun.route)


def _named(begun: Exchange | LocalReply | Considered | None, endpoint: Endpoint | None) -> tuple[str, str, int]:
    """The cluster, the route, and how many attempts there were."""
    if isinstance(begun, Exchange):
        return begun.cluster.name, begun.route.name if begun.route is not None else "", begun.attempts
    if isinstance(begun, LocalReply):
        return begun.cluster, begun.route, 0
    if begun is not None:
        route = begun.route
        cluster = endpoint.cluster.name if endpoint is not None else ""
        return cluster, route.name if route is not None else "", int(endpoint is not None)
    return endpoint.cluster.name if endpoint is not None else "", "", int(endpoint is not None)


def key_of_route(listener: str, route: CompiledRoute) -> tuple[str, str, int, str]:
    """A route by its place, so that those without a name are told apart."""
    return listener, route.virtual_host.name, route.place, route.name
