"""Interceptors for the gRPC servers of the process: policy, tracing, metrics, deadlines, load reports.

They wrap what a server's handlers do and nothing else, so health checking, reflection and services without generated
code stay as they are. While a handler runs, its call's span is the current one and its deadline bounds what goes out
(`meshsdk.deadline`).
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import Token
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from ... import deadline, request_id
from ...inbound import InboundRequest
from ...telemetry.lookup import grpc_server_observer
from ..traced import server_tags
from .load_reports import LoadReports
from .measured_server import record_of
from .policy import ServerPolicy
from .policy_context import AioPolicyContext, PolicyContext, changes

if TYPE_CHECKING:
    from ...control import Control
    from ...telemetry.grpc_calls import CallObservation

__all__ = ["MeshAioServerInterceptor", "MeshServerInterceptor"]

# grpc says "no deadline" with one that is centuries away.
_NO_DEADLINE_SECONDS = 1e9


_NUMBERS = {code.name: code.value[0] for code in grpc.StatusCode}


class _Incoming:
    """One call while its handler runs. A context manager around the handler.

    Args:
        method: `/package.Service/Method`.
        context: grpc's.
        reports: The server's load, where it reports any.
        control: The Mesh's.
        policy: What the call must pass, if anything.

    Attributes:
        early: The call as policy sees it, where that was made for its span.
    """

    def __init__(
        self,
        method: str,
        context: Any,
        reports: LoadReports | None,
        control: Control | None,
        policy: ServerPolicy | None = None,
    ) -> None:
        self.record = record_of(control, method, context)
        self._context = context
        self._method = method
        self._control = control
        self._reports = reports
        self._report: Any = None
        self.early: InboundRequest | None = None
        self._observation: CallObservation | None = None
        observer = grpc_server_observer()
        if observer is not None:
            self.early = policy.trace(method, context) if policy is not None else None
            traced = self.early.traced if self.early is not None else None
            metadata = context.invocation_metadata() or ()
            self._observation = observer.start(method.lstrip("/"), metadata, context.peer(), traced)
        self._scopes = contextlib.ExitStack()
        self.request: InboundRequest | None = None
        self._is_broken_off = False

    def breaker(self) -> Callable[[], object]:
        """What breaks off this call of grpc.aio's from another thread: its context cannot, its task can."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def break_off() -> None:
            self._is_broken_off = True
            task.cancel()

        return lambda: loop.call_soon_threadsafe(break_off)

    async def cancelled(self) -> None:
        """The call's task was cancelled: where that was the mesh, the caller is told."""
        if self._is_broken_off:
            await self._context.abort(grpc.StatusCode.CANCELLED, "the caller's certificate is trusted no more")

    def __enter__(self) -> _Incoming:
        left = self._context.time_remaining()
        if left is not None and left < _NO_DEADLINE_SECONDS:
            self._scopes.enter_context(deadline.limit(left))
        if self._observation is not None:
            self._scopes.enter_context(self._observation.current())
        if self._reports is not None:
            self._report = self._reports.begin()
        return self

    def begin(self, request: InboundRequest | None) -> None:
        """The handler begins: what it sends carries the call's request id on."""
        if request is not None and request.is_clean:
            known = request.request_id
        else:
            metadata = self._context.invocation_metadata() or ()
            given = next((value for name, value in metadata if name == _REQUEST_ID), None)
            known = request_id.carried(given.encode("latin-1", "replace")) if isinstance(given, str) else None
        token = request_id.current.set(known)
        self._scopes.callback(_reset, token)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self._reports is not None:
            self._send_report(self._reports)
        self._scopes.close()
        request = self.request
        is_asked = self._observation is not None or self.record is not None
        if is_asked or (request is not None and request.on_done):
            code, details = _status(self._context, error)
            if request is not None:
                request.done(None, _NUMBERS[code] if code != "CANCELLED" else None)
            if self._observation is not None:
                tags = None
                if self._observation.wants_tags:
                    tags = server_tags(self._control, request or self.early, self._method, code, details)
                self._observation.end(code, details, tags=tags)
            if self.record is not None:
                # A caller that is gone has been told nothing, whatever the handler returned.
                is_gone = code == "OK" and hasattr(self._context, "is_active") and not self._context.is_active()
                self.record.end(_NUMBERS[code], code == "CANCELLED" or is_gone)

    def requests(self, given: Any) -> Any:
        """What the handler is given, counted where that is asked for: a message, or a stream of them."""
        if self.record is None:
            return given
        is_stream = hasattr(given, "__next__") or hasattr(given, "__aiter__")
        return self.record.tally.requests_of(given, is_stream=is_stream)

    def came(self, message: Any) -> Any:
        """What the handler has read; grpc.aio's EOF is none."""
        if self.record is not None and message is not grpc.aio.EOF:
            self.record.tally.add_request(message)
        return message

    def respond(self, message: Any) -> Any:
        """What the handler answers."""
        if self.record is not None:
            self.record.add_response(message)
        return message

    def _send_report(self, reports: LoadReports) -> None:
        trailer = reports.trailer(self._report)
        if trailer is not None:
            self._context.set_trailing_metadata((*(self._context.trailing_metadata() or ()), trailer))


_REQUEST_ID = request_id.NAME.decode()


def _reset(token: Token[bytes | None]) -> None:
    # A generator may be closed in another context than it ran in; there is nothing to undo there.
    with contextlib.suppress(ValueError):
        request_id.current.reset(token)


def _status(context: Any, error: BaseException | None) -> tuple[str, str]:
    """Name and message of the status that a call ends with."""
    # grpc.aio gives functions that it runs in threads a context that tells neither.
    code = context.code() if hasattr(context, "code") else None
    details = (context.details() if hasattr(context, "details") else None) or b""
    message = details.decode("utf-8", "replace") if isinstance(details, bytes) else str(details)
    if error is not None and not isinstance(error, GeneratorExit):
        if _is_set(code):
            return _name(code), message
        is_cancelled = isinstance(error, BaseException) and type(error).__name__ == "CancelledError"
        return ("CANCELLED", "") if is_cancelled else ("UNKNOWN", f"{type(error).__name__}: {error}")
    if isinstance(error, GeneratorExit):
        return "CANCELLED", ""
    return (_name(code), message) if _is_set(code) else ("OK", "")


def _is_set(code: Any) -> bool:
    return code is not None and code != 0 and code is not grpc.StatusCode.OK


def _name(code: Any) -> str:
    if isinstance(code, grpc.StatusCode):
        return str(code.name)
    return next((one.name for one in grpc.StatusCode if one.value[0] == code), "UNKNOWN")


Behavior = Callable[[Any, Any], Any]


def _wrapped(handler: Any, wrap: Callable[[Behavior, bool], Behavior]) -> Any:
    """A handler with its behavior wrapped; `wrap` is told whether responses are a stream."""
    kind = ("stream" if handler.request_streaming else "unary") + (
        "_stream" if handler.response_streaming else "_unary"
    )
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    behavior = wrap(getattr(handler, kind), bool(handler.response_streaming))
    return make(
        behavior, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
    )


class _Wrapper:
    """Wraps behaviors of one method."""

    def __init__(
        self, method: str, reports: LoadReports | None, policy: ServerPolicy | None, control: Control | None
    ) -> None:
        self._method = method
        self._reports = reports
        self._policy = policy
        self._control = control

    def _incoming(self, context: Any) -> _Incoming:
        return _Incoming(self._method, context, self._reports, self._control, self._policy)

    def _check(self, context: Any, incoming: _Incoming) -> Any:
        """Let the call pass, or abort it; the context that its handler gets."""
        request, record = None, incoming.record
        if self._policy is not None:
            request = incoming.request = self._policy.check(self._method, context, record, incoming.early)
        incoming.begin(request)
        if record is not None:
            request = record.seen(self._method, context, request)
        return PolicyContext(context, request) if request is not None and changes(request) else context

    async def _check_async(self, context: Any, incoming: _Incoming) -> Any:
        """See `_check`."""
        request, record = None, incoming.record
        if self._policy is not None:
            request = await self._policy.check_async(self._method, context, incoming.breaker, record, incoming.early)
            incoming.request = request
        incoming.begin(request)
        if record is not None:
            request = record.seen(self._method, context, request)
        return AioPolicyContext(context, request) if request is not None and changes(request) else context

    def sync(self, behavior: Behavior, is_stream: bool) -> Behavior:
        """A behavior that runs in a thread."""
        if getattr(behavior, "experimental_non_blocking", False):
            policy = self._policy
            if policy is None:
                return behavior  # It ends when it calls back, which is not ours to see.

            def admitted(request: Any, context: Any, *callbacks: Any) -> Any:
                # It ends when it calls back, which is not ours to see.
                policy.check(self._method, context).done(None)
                return behavior(request, context, *callbacks)

            admitted.experimental_non_blocking = True  # type: ignore[attr-defined]
            return admitted

        def respond(request: Any, context: Any) -> Any:
            with self._incoming(context) as incoming:
                seen = self._check(context, incoming)
                response = behavior(incoming.requests(request), seen)
                _begin_answer(seen)
                return incoming.respond(response)

        def stream(request: Any, context: Any) -> Iterator[Any]:
            with self._incoming(context) as incoming:
                seen = self._check(context, incoming)
                for response in behavior(incoming.requests(request), seen):
                    _begin_answer(seen)
                    yield incoming.respond(response)

        return stream if is_stream else respond

    def asynchronous(self, behavior: Behavior, is_stream: bool) -> Behavior:
        """A behavior of grpc.aio's: a coroutine, an asynchronous generator, or a function that runs in a thread."""
        if inspect.isasyncgenfunction(behavior):

            async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
                with self._incoming(context) as incoming:
                    try:
                        seen = await self._check_async(context, incoming)
                        async for response in behavior(incoming.requests(request), seen):
                            await _begin_answer_async(seen)
                            yield incoming.respond(response)
                    except asyncio.CancelledError:
                        await incoming.cancelled()
                        raise

            return stream
        if inspect.iscoroutinefunction(behavior):

            async def respond(request: Any, context: Any) -> Any:
                with self._incoming(context) as incoming:
                    try:
                        seen = await self._check_async(context, incoming)
                        is_streamed = is_stream or hasattr(request, "__aiter__")
                        given = _StreamContext(seen, incoming) if is_streamed else seen
                        response = await behavior(incoming.requests(request), given)
                        if is_stream:
                            return None  # It has written its answers.
                        await _begin_answer_async(seen)
                    except asyncio.CancelledError:
                        await incoming.cancelled()
                        raise
                    return incoming.respond(response)

            return respond
        return self.sync(behavior, is_stream)


def _begin_answer(context: Any) -> None:
    if isinstance(context, PolicyContext):
        context.begin_answer()


async def _begin_answer_async(context: Any) -> None:
    if isinstance(context, AioPolicyContext):
        await context.begin_answer()


class _StreamContext:
    """grpc.aio's context for a handler that may read and write messages there; they count as those of iterators."""

    def __init__(self, context: Any, incoming: _Incoming) -> None:
        self._context = context
        self._incoming = incoming

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def read(self) -> Any:
        """See grpc.aio.ServicerContext."""
        return self._incoming.came(await self._context.read())

    async def write(self, message: Any) -> None:
        """See grpc.aio.ServicerContext."""
        await _begin_answer_async(self._context)
        await self._context.write(self._incoming.respond(message))


grpc.aio.ServicerContext.register(_StreamContext)


class _Interceptor:
    """What both kinds are given."""

    def __init__(
        self,
        load_reports: LoadReports | None = None,
        policy: ServerPolicy | None = None,
        control: Control | None = None,
    ) -> None:
        self._reports = load_reports
        self._policy = policy
        self._control = control

    def _wrapper(self, method: str) -> _Wrapper:
        return _Wrapper(method, self._reports, self._policy, self._control)


class MeshServerInterceptor(_Interceptor, grpc.ServerInterceptor):  # type: ignore[misc]
    """For `grpc.server(interceptors=[…])`.

    Args:
        load_reports: The server's load, to be told to clients with each call.
        policy: What calls must pass first; None lets all in.
        control: Of the Mesh that may count them.
    """

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        """See grpc.ServerInterceptor."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        return _wrapped(handler, self._wrapper(handler_call_details.method).sync)


class MeshAioServerInterceptor(_Interceptor, grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """For `grpc.aio.server(interceptors=[…])`.

    Args:
        load_reports: The server's load, to be told to clients with each call.
        policy: What calls must pass first; None lets all in.
        control: Of the Mesh that may count them.
    """

    async def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        """See grpc.aio.ServerInterceptor."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        return _wrapped(handler, self._wrapper(handler_call_details.method).asynchronous)
