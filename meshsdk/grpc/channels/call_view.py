"""A call of grpc-core's as its caller sees it, where the mesh has changed or taken out response metadata."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import grpc

from .call_error import MeshRpcError
from .outgoing_call import OutgoingCall

__all__ = ["CallView", "error_view"]

Metadata = Sequence[tuple[str, str | bytes]]


class CallView(grpc.RpcError, grpc.Call, grpc.Future):  # type: ignore[misc]
    """Everything is the inner call's but the metadata. As grpc's own calls, it is the exception that it may end with.

    Args:
        inner: The call of grpc-core's; started, or done.
        call: What to tell about its end, and how metadata change.
        is_stream: It is an iterator of responses.
        is_future: Its response is still to come.
    """

    def __init__(self, inner: Any, call: OutgoingCall, *, is_stream: bool = False, is_future: bool = False) -> None:
        super().__init__()
        self._inner = inner
        self._call = call
        self._is_future = is_future
        if is_stream:
            call.reads()
        if not inner.add_callback(self._end):
            self._end()

    def _end(self) -> None:
        inner = self._inner
        if self._is_future and inner.code() is grpc.StatusCode.OK and self._call.record is not None:
            self._call.add_response(inner.result())
        self._call.end(inner.code(), inner.details() or "", inner.initial_metadata(), inner.trailing_metadata())

    def initial_metadata(self) -> Metadata:
        """See grpc.Call."""
        return self._call.changed_metadata(self._inner.initial_metadata(), None)

    def trailing_metadata(self) -> Metadata:
        """See grpc.Call."""
        return self._call.visible(self._inner.trailing_metadata())

    def code(self) -> Any:
        """See grpc.Call."""
        return self._inner.code()

    def details(self) -> Any:
        """See grpc.Call."""
        return self._inner.details()

    def debug_error_string(self) -> Any:
        """What grpc-core has to say besides, for people."""
        return self._inner.debug_error_string()

    def is_active(self) -> Any:
        """See grpc.RpcContext."""
        return self._inner.is_active()

    def time_remaining(self) -> Any:
        """See grpc.RpcContext."""
        return self._inner.time_remaining()

    def cancel(self) -> Any:
        """See grpc.Future."""
        return self._inner.cancel()

    def cancelled(self) -> Any:
        """See grpc.Future."""
        return self._inner.cancelled()

    def running(self) -> Any:
        """See grpc.Future."""
        return self._inner.running()

    def done(self) -> Any:
        """See grpc.Future."""
        return self._inner.done()

    def add_callback(self, callback: Callable[[], None]) -> Any:
        """See grpc.RpcContext."""
        return self._inner.add_callback(callback)

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """See grpc.Future."""
        self._inner.add_done_callback(lambda inner: fn(self))

    def result(self, timeout: float | None = None) -> Any:
        """See grpc.Future."""
        try:
            return self._inner.result(timeout)
        except grpc.RpcError:
            raise self from None

    def exception(self, timeout: float | None = None) -> Any:
        """See grpc.Future."""
        error = self._inner.exception(timeout)
        return self if isinstance(error, grpc.RpcError) else error

    def traceback(self, timeout: float | None = None) -> Any:
        """See grpc.Future."""
        return self._inner.traceback(timeout)

    def __iter__(self) -> CallView:
        return self

    def __next__(self) -> Any:
        try:
            response = next(self._inner)
        except grpc.RpcError:
            raise self from None
        except StopIteration:
            self._call.read_to_end()
            raise
        self._call.add_response(response, self._inner.initial_metadata)
        return response

    def __str__(self) -> str:
        return str(self._inner)

    def __repr__(self) -> str:
        return repr(self._inner)


def error_view(error: Any, call: OutgoingCall) -> grpc.RpcError:
    """The error of a call that blocked its caller, with the metadata that the caller is to see; the call is over."""
    initial, trailing = error.initial_metadata(), error.trailing_metadata()
    endpoint = call.end(error.code(), error.details() or "", initial, trailing)
    seen_initial, seen_trailing = call.changed_metadata(initial, endpoint), call.visible(trailing)
    if len(seen_initial) == len(initial or ()) and len(seen_trailing) == len(trailing or ()) and not call.changes:
        assert isinstance(error, grpc.RpcError)
        return error
    return MeshRpcError(
        error.code(),
        error.details() or "",
        initial_metadata=seen_initial,
        trailing_metadata=seen_trailing,
        debug=error.debug_error_string(),
    )
