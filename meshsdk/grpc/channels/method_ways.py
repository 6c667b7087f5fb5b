"""How the calls of one method of a channel go: the plan for the present Directory, and the callables of grpc-core.

What sync and async channels share: everything but waiting.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from msgspec import Struct

from ...exchange import Directory, Exchange
from ...telemetry.lookup import grpc_client_observer
from .call_plan import CallPlan, make_plan, shorter
from .lines import Lines
from .measuring import measure
from .mirrors import MirrorLimit
from .outgoing_call import OutgoingCall, bounded_timeout, completion, copies_of, itself
from .tracing import trace_call

__all__ = ["MethodWays", "Way"]

# Callables of one method; a call's own header may name its cluster, so they must not grow without bound.
_MAX_CALLABLES = 128


class Way(Struct, frozen=True):
    """How calls go, for one Directory.

    Attributes:
        straight: grpc-core's own callable, where calls need nothing of us unless somebody watches; else None.
        timeout: That a native call has at most, in seconds; None is no limit.
        completed: A native call's metadata with what the mesh adds.
    """

    directory: Directory | None = None
    plan: CallPlan | None = None
    straight: Any = None
    timeout: float | None = None
    completed: Callable[[Any], Any] = itself


class MethodWays:
    """The ways of one method.

    Args:
        lines: The channel's inner channels.
        method: `/package.Service/Method`.
        has_one_request: Its request is one message, not a stream.
        open_callable: Makes the method's callable of an inner channel; the method's name may be another there.
        main: The inner channel of native calls; by default that of `lines`.

    Attributes:
        way: The last one; `current` makes it anew where the Directory has changed.
    """

    __slots__ = (
        "__weakref__",
        "_callables",
        "_main",
        "_native",
        "_open",
        "_policies",
        "control",
        "has_one_request",
        "lines",
        "method",
        "names",
        "relayed",
        "way",
    )

    def __init__(
        self,
        lines: Lines[Any],
        method: str,
        has_one_request: bool,
        open_callable: Callable[[Any, str], Any],
        main: Callable[[], Any] | None = None,
    ) -> None:
        self.lines = lines
        self.method = method
        self.has_one_request = has_one_request
        self.relayed = lines.relayed
        self.control = self.relayed.control
        self.names = self.relayed.listener_names(lines.target)
        self.way = Way()
        self._open = open_callable
        self._main = main or lines.main
        self._native: Any = None
        self._callables: dict[tuple[str, str, str, str], Any] = {}
        self._policies: dict[int, tuple[Any, str]] = {}
        self.relayed.register(self)

    def forget(self) -> None:
        """Work the way out anew at the next call."""
        self.way = Way()

    def current(self) -> Way | None:
        """The way for the present Directory; None where the target's configuration is not here yet."""
        way = self.way
        if way.directory is self.control.directory:
            return way
        plan = self.plan()
        if not plan.is_settled:
            return None
        straight = None
        if plan.is_native and plan.watches_outcomes:
            self.relayed.reveal_peers()
        elif plan.is_native and not self.relayed.reveals_peers:
            straight = self.native()
        timeout = plan.timeout_seconds if self.has_one_request else plan.stream_seconds
        self._policies = {}
        self.way = way = Way(plan.directory, plan, straight, timeout, completion(plan))
        return way

    def plan(self) -> CallPlan:
        """The plan for the present Directory."""
        control, target = self.control, self.lines.target
        hint = partial(control.hint, target.host, target.port)
        return make_plan(control.directory, self.names, self.lines.authority, self.method, control.unknown_hosts, hint)

    def native(self) -> Any:
        """The callable by which grpc-core finds its own way."""
        if self._native is None:
            self._native = self._open(self._main(), self.method)
        return self._native

    def destination(self, exchange: Exchange) -> Any:
        """The callable that leads to a decision's cluster, with its route's policies."""
        known = self._policies.get(id(exchange.forward))
        if known is None:
            known = (exchange.forward, self.relayed.policy_key(exchange.forward))
            self._policies[id(exchange.forward)] = known
        head = exchange.outgoing_head
        key = (head.authority, head.path, exchange.cluster.name, known[1])
        found = self._callables.get(key)
        if found is None:
            if len(self._callables) >= _MAX_CALLABLES:
                self._callables = {}
            found = self._callables[key] = self._open(self.lines.to(key[0], key[2], key[3]), key[1])
        return found

    def native_call(self, way: Way, metadata: Any, timeout: float | None) -> OutgoingCall:
        """A call that grpc-core decides, to be watched."""
        assert way.plan is not None
        call = OutgoingCall(way.plan.directory, metadata, bounded_timeout(timeout, way.timeout))
        self.observe(call)
        if call.record is not None:
            call.record.is_limited = call.timeout != timeout
        return call

    def limit(self, call: OutgoingCall, timeout: float | None) -> None:
        """Give a decided call its time: the caller's, the route's and the inbound request's, the shortest."""
        assert call.exchange is not None
        timeouts = call.exchange.timeouts
        call.timeout = bounded_timeout(
            timeout, shorter(timeouts.stream, timeouts.route if self.has_one_request else None)
        )
        if call.record is not None:
            call.record.is_limited = call.timeout != timeout

    def observe(self, call: OutgoingCall) -> None:
        """Have a call watched, where somebody watches."""
        plan = self.way.plan  # Which is forgotten where peers are revealed.
        observer = grpc_client_observer()
        if observer is not None:
            self.relayed.reveal_peers()
            trace_call(
                call, observer, self.control, self.method, self.lines.target, plan.table if plan is not None else None
            )
        if self.control.metrics is not None or self.control.access_logs is not None:
            self.relayed.reveal_peers()
            measure(call, self.control, self.method, self.lines.authority, plan)

    @property
    def is_watched(self) -> bool:
        """Whether somebody watches calls, counts them, or is told of them."""
        control = self.control
        return control.metrics is not None or control.access_logs is not None or grpc_client_observer() is not None

    def mirror(self, call: OutgoingCall, limit: MirrorLimit, send: Callable[[Any, OutgoingCall], None]) -> None:
        """Send a call's copies, where it has any; only calls whose request is one message are copied."""
        if self.has_one_request:
            for copy in copies_of(call):
                if limit.begin():
                    send(self.destination(copy), call)
