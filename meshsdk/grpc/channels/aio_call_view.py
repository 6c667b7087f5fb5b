"""A call of grpc.aio's as its caller sees it: watched, and without the metadata that are not for the caller."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import Any

import grpc
import grpc.aio

from .explain_failure import explained
from .outgoing_call import OutgoingCall

__all__ = ["VIEWS"]


class _View:
    """What the four kinds share: everything is the inner call's but its metadata.

    Args:
        inner: The call of grpc.aio's.
        call: What to tell about its end, and how metadata change.
    """

    __slots__ = ("_call", "_inner", "_is_counted")
    _has_one_response = False

    def __init__(self, inner: Any, call: OutgoingCall) -> None:
        self._inner = inner
        self._call = call
        self._is_counted = False
        call.reads()
        inner.add_done_callback(self._end)

    def _end(self, inner: Any) -> None:
        # The call is done, so its coroutines have nothing to wait for.
        code = _result(inner.code()) or grpc.StatusCode.UNKNOWN
        details = _result(inner.details()) or ""
        if self._has_one_response and code is grpc.StatusCode.OK and self._call.record is not None:
            self._count(_result(inner.__await__()))
        self._call.end(code, details, _result(inner.initial_metadata()), _result(inner.trailing_metadata()))

    def _count(self, response: Any) -> None:
        """The one response is here, or None, where that is told of a moment later."""
        if response is not None and not self._is_counted:
            self._is_counted = True
            self._call.add_response(response)
            self._call.read_to_end()

    def _known_metadata(self) -> Any:
        """The response's, which have come before its first message."""
        return _result(self._inner.initial_metadata())

    async def initial_metadata(self) -> Any:
        """See grpc.aio.Call."""
        return _metadata(self._call.changed_metadata(await self._inner.initial_metadata(), None))

    async def trailing_metadata(self) -> Any:
        """See grpc.aio.Call."""
        return _metadata(self._call.visible(await self._inner.trailing_metadata()))

    async def code(self) -> Any:
        """See grpc.aio.Call."""
        return await self._inner.code()

    async def details(self) -> Any:
        """See grpc.aio.Call."""
        return await self._inner.details()

    async def wait_for_connection(self) -> None:
        """See grpc.aio.Call."""
        await self._inner.wait_for_connection()

    def debug_error_string(self) -> Any:
        """What grpc-core has to say besides, for people."""
        return self._inner.debug_error_string()

    def cancelled(self) -> Any:
        """See grpc.aio.RpcContext."""
        return self._inner.cancelled()

    def done(self) -> Any:
        """See grpc.aio.RpcContext."""
        return self._inner.done()

    def time_remaining(self) -> Any:
        """See grpc.aio.RpcContext."""
        return self._inner.time_remaining()

    def cancel(self) -> Any:
        """See grpc.aio.RpcContext."""
        return self._inner.cancel()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """See grpc.aio.RpcContext."""
        self._inner.add_done_callback(lambda inner: callback(self))

    def _shown(self, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """The error with the metadata that the caller is to see."""
        call = self._call
        initial, trailing = error.initial_metadata(), error.trailing_metadata()
        seen_initial, seen_trailing = call.changed_metadata(initial, None), call.visible(trailing)
        if len(seen_initial) == len(initial or ()) and len(seen_trailing) == len(trailing or ()) and not call.changes:
            return explained(error)
        shown = grpc.aio.AioRpcError(
            error.code(), _metadata(seen_initial), _metadata(seen_trailing), error.details(), error.debug_error_string()
        )
        return explained(shown)


class _OneResponse(_View):
    __slots__ = ()
    _has_one_response = True

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            response = yield from self._inner.__await__()
        except grpc.aio.AioRpcError as error:
            raise self._shown(error) from None
        self._count(response)
        return response


class _Responses(_View):
    __slots__ = ()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._responses(self._inner.__aiter__())

    async def _responses(self, responses: AsyncIterator[Any]) -> AsyncIterator[Any]:
        try:
            async for response in responses:
                self._call.add_response(response, self._known_metadata)
                yield response
        except grpc.aio.AioRpcError as error:
            raise self._shown(error) from None
        self._call.read_to_end()

    async def read(self) -> Any:
        """See grpc.aio.UnaryStreamCall."""
        try:
            response = await self._inner.read()
            if response is grpc.aio.EOF:
                self._call.read_to_end()
            else:
                self._call.add_response(response, self._known_metadata)
            return response
        except grpc.aio.AioRpcError as error:
            raise self._shown(error) from None


class _Requests(_View):
    __slots__ = ()

    @property
    def _done_writing_flag(self) -> Any:
        """grpc.aio's intercepted calls look at this of the call that an interceptor returns."""
        return self._inner._done_writing_flag

    async def write(self, request: Any) -> None:
        """See grpc.aio.StreamUnaryCall."""
        self._call.requests_of(request, is_stream=False)
        await self._inner.write(request)

    async def done_writing(self) -> None:
        """See grpc.aio.StreamUnaryCall."""
        await self._inner.done_writing()


class _UnaryUnaryView(_OneResponse, grpc.aio.UnaryUnaryCall):  # type: ignore[misc]
    pass


class _UnaryStreamView(_Responses, grpc.aio.UnaryStreamCall):  # type: ignore[misc]
    pass


class _StreamUnaryView(_OneResponse, _Requests, grpc.aio.StreamUnaryCall):  # type: ignore[misc]
    pass


class _StreamStreamView(_Responses, _Requests, grpc.aio.StreamStreamCall):  # type: ignore[misc]
    pass


# By the kind of call, as the methods of a channel are called.
VIEWS: dict[str, Callable[[Any, OutgoingCall], Any]] = {
    "unary_unary": _UnaryUnaryView,
    "unary_stream": _UnaryStreamView,
    "stream_unary": _StreamUnaryView,
    "stream_stream": _StreamStreamView,
}


def _metadata(entries: Any) -> grpc.aio.Metadata:
    return grpc.aio.Metadata(*entries)


def _result(coroutine: Coroutine[Any, Any, Any] | Generator[Any, None, Any]) -> Any:
    """What a coroutine returns that has nothing to wait for; None where it waits all the same."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    except (grpc.RpcError, grpc.aio.UsageError):
        return None
    coroutine.close()
    return None
