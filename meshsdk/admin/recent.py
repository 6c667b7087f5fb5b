"""The last requests, each with what it was decided by, and how often each route and endpoint was used.

A request leaves a tuple of what it holds anyway; what it means is worked out when somebody looks. The lock may be taken
again by the thread that holds it, since a response that is left to the garbage collector ends wherever that runs.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from ..balancing import Endpoint
from ..exchange import Exchange, LocalReply
from ..routing import CompiledRoute, RequestHead
from ..telemetry.workload import Workload

__all__ = ["MAX_RECENT", "Received", "Recent", "Sent", "Use"]

MAX_RECENT = 200

# Routes and endpoints that are counted; beyond it the counts begin anew.
_MAX_COUNTED = 20_000


class Sent(NamedTuple):
    """A request that this process has sent.

    Attributes:
        at: When it was over, in seconds since the epoch.
        begun: What was decided; None where nothing was.
        endpoint: Whose response it is, or the last one that was tried; None where nobody was.
        status, grpc_status, flags: How it ended, as metrics have it.
    """

    number: int
    at: float
    head: RequestHead
    begun: Exchange | LocalReply | None
    endpoint: Endpoint | None
    status: int
    grpc_status: str
    flags: str
    details: str
    milliseconds: int


class Received(NamedTuple):
    """A request that has come to a server of this process.

    Attributes:
        caller: The SPIFFE ID that it has proven, or the workload that it says it is.
    """

    number: int
    at: float
    head: RequestHead
    caller: str
    status: int
    grpc_status: str
    flags: str
    milliseconds: int


class Use:
    """How often something was used, and how often that went wrong."""

    __slots__ = ("errors", "requests", "what")

    def __init__(self, what: Any) -> None:
        self.what = what  # It keeps what it counts, whose id it is known by.
        self.requests = self.errors = 0


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
        self._uses: dict[int, Use] = {}
        self.last = 0

    def sent(
        self,
        head: RequestHead,
        begun: Exchange | LocalReply | None,
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
        if endpoint is None and isinstance(begun, Exchange):
            endpoint = begun.endpoint
        is_error = not status or status >= 500 or grpc_status not in ("", "0")
        if not self.last:
            self._on_first()
        with self._lock:
            self.last += 1
            self._ring.append(
                Sent(self.last, time.time(), head, begun, endpoint, status, grpc_status, flags, details, milliseconds)
            )
            if isinstance(begun, Exchange) and begun.route is not None:
                self._use(begun.route, is_error)
            if endpoint is not None:
                self._use(endpoint, is_error)

    def received(
        self,
        head: RequestHead,
        principal: str,
        peer: Workload | None,
        ending: tuple[int, str, str],
        milliseconds: int,
    ) -> None:
        """A request was answered."""
        caller = principal or (f"{peer.name}.{peer.namespace}" if peer is not None else "")
        if not self.last:
            self._on_first()
        with self._lock:
            self.last += 1
            self._ring.append(Received(self.last, time.time(), head, caller, *ending, milliseconds))

    def _use(self, what: CompiledRoute | Endpoint, is_error: bool) -> None:
        use = self._uses.get(id(what))
        if use is None:
            if len(self._uses) >= _MAX_COUNTED:
                self._uses = {}
            use = self._uses[id(what)] = Use(what)
        use.requests += 1
        use.errors += is_error

    def after(self, number: int) -> list[Sent | Received]:
        """The requests after one, the newest first."""
        with self._lock:
            found = list(self._ring)
        return sorted((one for one in found if one.number > number), key=lambda one: one.number, reverse=True)

    def find(self, number: int) -> Sent | Received | None:
        """One request, where it is not forgotten yet."""
        return next((one for one in self.after(number - 1) if one.number == number), None)

    def of(self, what: CompiledRoute | Endpoint) -> Use | None:
        """How often a route or an endpoint was used."""
        return self._uses.get(id(what))

    def of_routes(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Requests and errors by virtual host and route: routes that are compiled anew go on under their names."""
        found: dict[tuple[str, str], tuple[int, int]] = {}
        for use in list(self._uses.values()):
            if isinstance(use.what, CompiledRoute):
                key = (use.what.virtual_host.name, use.what.name)
                requests, errors = found.get(key, (0, 0))
                found[key] = (requests + use.requests, errors + use.errors)
        return found
