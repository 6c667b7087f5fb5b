"""Interceptors for channels that somebody else builds: what of the mesh can be had without its balancing.

Tracing, metrics and deadlines always; where the channel's target is given, also what its routes do to a call before
it is sent: header changes, faults, rate limits, answers in a server's place.
"""

from __future__ import annotations

import contextlib
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from ...control import Control
from ...exchange import LocalReply
from ...telemetry.lookup import grpc_client_observer
from ..engine import TargetName
from .aio_call_view import VIEWS
from .call_error import MeshRpcError
from .call_plan import CallPlan, make_plan, shorter
from .call_view import CallView
from .measuring import measure
from .outgoing_call import OutgoingCall, bounded_timeout, decide
from .tracing import trace_call
from .waiting import hold, hold_async, settle, settle_async

__all__ = ["AIO_INTERCEPTORS", "MeshClientInterceptor"]


class _Details(
    namedtuple("_Details", "method timeout metadata credentials wait_for_ready compression"),
    grpc.ClientCallDetails,  # type: ignore[misc]
):
    """What grpc hands from interceptor to interceptor."""


class _Decider:
    """What sync and async interceptors share.

    Args:
        control: The Mesh's.
        target: Of the channel, where it is known.
    """

    def __init__(self, control: Control, target: TargetName | None) -> None:
        self.control = control
        self.target = target
        self.names = (
            control.listener_names(
                target.host, target.port, port_is_explicit=target.port_is_explicit, authority=target.xds_authority
            )
            if target is not None
            else ()
        )

    def is_unsettled(self) -> bool:
        """Whether the target's configuration is still to come."""
        return self.control.directory.find(self.names) is None

    def decide(self, method: str, details: Any) -> OutgoingCall:
        """The call as it is to go out.

        Raises:
            MeshRpcError: It is answered here.
        """
        directory = self.control.directory
        call = OutgoingCall(directory, details.metadata, None)
        if self.target is None:
            self._finish(call, details, method, None, None)
            return call
        plan = make_plan(directory, self.names, self.target.authority, method, "allow")
        if plan.reply is not None:
            raise self._refused(call, plan.reply, method, plan)
        route_timeout = plan.timeout_seconds
        if plan.table is not None and not plan.is_native:
            decided = decide(plan, self.target.authority, method, details.metadata, details.timeout)
            if isinstance(decided, LocalReply):
                raise self._refused(call, decided, method, plan)
            if isinstance(decided, OutgoingCall) and decided.exchange is not None:
                call = decided
                route_timeout = shorter(decided.exchange.timeouts.stream, decided.exchange.timeouts.route)
        self._finish(call, details, method, route_timeout, plan)
        return call

    def _finish(
        self, call: OutgoingCall, details: Any, method: str, route_timeout: float | None, plan: CallPlan | None
    ) -> None:
        self._observe(call, method, plan)
        call.timeout = bounded_timeout(details.timeout, route_timeout)

    def _refused(self, call: OutgoingCall, reply: LocalReply, method: str, plan: CallPlan) -> MeshRpcError:
        self._observe(call, method, plan)
        return call.refused(reply)

    def _observe(self, call: OutgoingCall, method: str, plan: CallPlan | None) -> None:
        observer = grpc_client_observer()
        if observer is not None:
            trace_call(call, observer, self.control, method, self.target)
        measure(call, self.control, method, self.target.authority if self.target is not None else "", plan)


def _suppressed(call: OutgoingCall) -> contextlib.AbstractContextManager[None]:
    """No second span for a call that has one."""
    if call.observation is None:
        return contextlib.nullcontext()
    from ...telemetry.grpc_calls import without_other_instrumentation

    return without_other_instrumentation()


class MeshClientInterceptor(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[misc]
    grpc.UnaryStreamClientInterceptor,  # type: ignore[misc]
    grpc.StreamUnaryClientInterceptor,  # type: ignore[misc]
    grpc.StreamStreamClientInterceptor,  # type: ignore[misc]
):
    """For `grpc.intercept_channel`; all four kinds of calls.

    Args:
        control: The Mesh's.
        target: Of the channel, where it is known.
    """

    def __init__(self, control: Control, target: TargetName | None) -> None:
        self._decider = _Decider(control, target)

    def _intercept_stream(self, continuation: Callable[[Any, Any], Any], client_call_details: Any, request: Any) -> Any:
        return self._intercept(continuation, client_call_details, request, is_stream=True)

    def _intercept(
        self,
        continuation: Callable[[Any, Any], Any],
        client_call_details: Any,
        request: Any,
        *,
        is_stream: bool = False,
    ) -> Any:
        details, decider = client_call_details, self._decider
        try:
            if decider.is_unsettled():
                settle(decider.control, decider.names, details.timeout, details.wait_for_ready)
            call = decider.decide(details.method, details)
            if call.exchange is not None and call.exchange.delay_seconds:
                hold(call, call.exchange.delay_seconds, call.exchange.fault_tally)
        except MeshRpcError as error:
            return error
        changed = _Details(
            details.method,
            call.timeout,
            call.metadata,
            details.credentials,
            details.wait_for_ready,
            getattr(details, "compression", None),
        )
        request = call.requests_of(request, is_stream=hasattr(request, "__next__"))
        with _suppressed(call):
            return CallView(continuation(changed, request), call, is_stream=is_stream, is_future=not is_stream)

    intercept_unary_unary = _intercept
    intercept_unary_stream = _intercept_stream
    intercept_stream_unary = _intercept
    intercept_stream_stream = _intercept_stream


class _AioInterceptor:
    """For `grpc.aio` channels; one kind of calls each, as grpc.aio wants them.

    Args:
        control: The Mesh's.
        target: Of the channel, where it is known.
    """

    kind = ""

    def __init__(self, control: Control, target: TargetName | None) -> None:
        self._decider = _Decider(control, target)

    async def _intercept(self, continuation: Callable[[Any, Any], Any], client_call_details: Any, request: Any) -> Any:
        details, decider = client_call_details, self._decider
        name = details.method
        try:
            if decider.is_unsettled():
                await settle_async(decider.control, decider.names, details.timeout, details.wait_for_ready)
            call = decider.decide(name.decode() if isinstance(name, bytes) else name, details)
            if call.exchange is not None and call.exchange.delay_seconds:
                await hold_async(call, call.exchange.delay_seconds, call.exchange.fault_tally)
        except MeshRpcError as error:
            raise error.for_asyncio() from None
        metadata = grpc.aio.Metadata(*(call.metadata or ()))
        changed = details._replace(timeout=call.timeout, metadata=metadata)
        request = call.requests_of(request, is_stream=self.kind.startswith("stream"))
        with _suppressed(call):
            return VIEWS[self.kind](await continuation(changed, request), call)


class _AioUnaryUnary(_AioInterceptor, grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    kind = "unary_unary"
    intercept_unary_unary = _AioInterceptor._intercept


class _AioUnaryStream(_AioInterceptor, grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[misc]
    kind = "unary_stream"
    intercept_unary_stream = _AioInterceptor._intercept


class _AioStreamUnary(_AioInterceptor, grpc.aio.StreamUnaryClientInterceptor):  # type: ignore[misc]
    kind = "stream_unary"
    intercept_stream_unary = _AioInterceptor._intercept


class _AioStreamStream(_AioInterceptor, grpc.aio.StreamStreamClientInterceptor):  # type: ignore[misc]
    kind = "stream_stream"
    intercept_stream_stream = _AioInterceptor._intercept


AIO_INTERCEPTORS = (_AioUnaryUnary, _AioUnaryStream, _AioStreamUnary, _AioStreamStream)
