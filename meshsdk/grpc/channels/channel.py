"""`grpc.Channel`s on the mesh.

A call whose plan is native and that nobody watches goes to grpc-core as it came; that is the usual case, and the
fast one. Every other call is decided or watched here first.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import grpc
from msgspec import Struct

from ... import deadline
from ...control import Control
from ...exchange import LocalReply
from ..engine import RelayedMesh, parse_target
from .call_error import MeshRpcError
from .call_plan import CallPlan
from .call_view import CallView, error_view
from .explain_failure import explained
from .lines import Lines, channel_credentials, taken_options, with_authority
from .method_ways import MethodWays, Way
from .mirrors import MirrorLimit
from .outgoing_call import OutgoingCall, bounded_timeout, decide
from .waiting import hold, not_settled, settle

__all__ = ["MeshChannel"]

Options = Sequence[tuple[str, Any]]


class MeshChannel(grpc.Channel):  # type: ignore[misc]
    """A channel whose calls go where the mesh says. Made at once; it connects with its first call.

    Args:
        relayed: The Mesh on the relay.
        target: `host:port`, `xds:///host:port` or `xds://authority/host:port`.
        options: As grpc's.
        compression: As grpc's.
        credentials: For clusters that have no TLS settings in the mesh, and for hosts outside it; None is plaintext.
    """

    def __init__(
        self,
        relayed: RelayedMesh,
        target: str,
        *,
        options: Options | None = None,
        compression: grpc.Compression | None = None,
        credentials: Any = None,
    ) -> None:
        name = parse_target(target)
        given, authority = taken_options(options, name.authority)

        def open_channel(uri: str, authority: str) -> Any:
            # Without the interceptors that opentelemetry-instrumentation-grpc puts around: calls are traced here.
            secure_channel = inspect.unwrap(grpc.secure_channel)
            settings = with_authority(given, authority)
            return secure_channel(uri, channel_credentials(credentials), options=settings, compression=compression)

        self.lines: Lines[Any] = Lines(relayed, name, authority, open_channel)
        self.mirrors = MirrorLimit()

    def subscribe(self, callback: Callable[[Any], None], try_to_connect: bool | None = False) -> None:
        """See grpc.Channel."""
        self.lines.main().subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Callable[[Any], None]) -> None:
        """See grpc.Channel."""
        self.lines.main().unsubscribe(callback)

    def unary_unary(self, method: str, *arguments: Any, **options: Any) -> MeshUnaryUnary:
        """See grpc.Channel."""
        return MeshUnaryUnary(self, method, "unary_unary", arguments, options)

    def unary_stream(self, method: str, *arguments: Any, **options: Any) -> MeshUnaryStream:
        """See grpc.Channel."""
        return MeshUnaryStream(self, method, "unary_stream", arguments, options)

    def stream_unary(self, method: str, *arguments: Any, **options: Any) -> MeshStreamUnary:
        """See grpc.Channel."""
        return MeshStreamUnary(self, method, "stream_unary", arguments, options)

    def stream_stream(self, method: str, *arguments: Any, **options: Any) -> MeshStreamStream:
        """See grpc.Channel."""
        return MeshStreamStream(self, method, "stream_stream", arguments, options)

    def close(self) -> None:
        """See grpc.Channel."""
        for channel in self.lines.take_all():
            channel.close()

    def __enter__(self) -> MeshChannel:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.close()


class _Begun(Struct):
    """A call that is about to go out, and by which callable."""

    callable: Any
    call: OutgoingCall


class _Method:
    """What the four kinds of calls share."""

    has_one_request = True

    def __init__(
        self, channel: MeshChannel, method: str, kind: str, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        self._channel = channel
        self._ways = MethodWays(
            channel.lines,
            method,
            self.has_one_request,
            lambda line, name: getattr(line, kind)(name, *arguments, **options),
        )
        self._control: Control = self._ways.control

    def _ready(self, timeout: float | None, wait_for_ready: bool | None) -> Way:
        """The way for the present Directory; waits for the target's configuration where that is not here yet.

        Raises:
            MeshRpcError: It did not come in time.
        """
        ways = self._ways
        way = ways.current()
        if way is None:
            self._settle(ways.names, timeout, wait_for_ready)
            way = ways.current()
        if way is None:
            raise MeshRpcError.of_reply(not_settled(self._control, ways.names))
        return way

    def _settle(self, names: tuple[str, ...], timeout: float | None, wait_for_ready: bool | None) -> None:
        self._ways.relayed.start_beside()
        settle(self._control, names, timeout, wait_for_ready)

    def _begin(self, request: Any, timeout: float | None, metadata: Any, wait_for_ready: bool | None) -> _Begun:
        """Decide on a call.

        Raises:
            MeshRpcError: It is answered here.
        """
        way, ways = self._ready(timeout, wait_for_ready), self._ways
        plan = way.plan
        assert plan is not None
        if plan.is_native:
            metadata = way.completed(metadata)
            return _Begun(ways.native(), ways.native_call(way, metadata, timeout))
        reply = plan.reply
        if reply is None:
            decided = self._decide(plan, metadata, timeout, wait_for_ready)
            if isinstance(decided, OutgoingCall):
                return self._outgoing(decided, request, timeout)
            reply = decided
        call = OutgoingCall(plan.directory, metadata, deadline.bounded(timeout))
        ways.observe(call)
        if reply.delay_seconds:
            hold(call, reply.delay_seconds, reply.tally)
        raise call.refused(reply)

    def _decide(
        self, plan: CallPlan, metadata: Any, timeout: float | None, wait_for_ready: bool | None
    ) -> OutgoingCall | LocalReply:
        ways = self._ways
        decided = decide(plan, ways.lines.authority, ways.method, metadata, timeout)
        if isinstance(decided, str):
            # The call names a cluster that nobody has asked for yet.
            self._settle((decided,), timeout, wait_for_ready)
            decided = decide(ways.plan(), ways.lines.authority, ways.method, metadata, timeout)
        assert not isinstance(decided, str)
        return decided

    def _outgoing(self, call: OutgoingCall, request: Any, timeout: float | None) -> _Begun:
        exchange, ways = call.exchange, self._ways
        assert exchange is not None
        ways.observe(call)
        ways.limit(call, timeout)
        if exchange.delay_seconds:
            hold(call, exchange.delay_seconds, exchange.fault_tally)
        ways.mirror(call, self._channel.mirrors, lambda callable_, call: self._send_copy(callable_, request, call))
        return _Begun(ways.destination(exchange), call)

    def _send_copy(self, callable_: Any, request: Any, call: OutgoingCall) -> None:
        mirrors = self._channel.mirrors
        future = callable_.future(request, timeout=call.timeout, metadata=call.metadata)
        # The callback refers to the call until it is over: grpc cancels a call that nobody refers to.
        if not future.add_callback(partial(mirrors.end, future)):
            mirrors.end(future)

    def _blocking(
        self, request: Any, timeout: Any, metadata: Any, credentials: Any, wait_for_ready: Any, compression: Any
    ) -> tuple[Any, Any, OutgoingCall]:
        """A call that blocks until its one response is here: that, grpc-core's call, and ours."""
        begun = self._begin(request, timeout, metadata, wait_for_ready)
        call = begun.call
        request = call.requests_of(request, is_stream=not self.has_one_request)
        try:
            response, inner = begun.callable.with_call(
                request, call.timeout, call.metadata, credentials, wait_for_ready, compression
            )
        except grpc.RpcError as error:
            raise explained(error_view(error, call)) from None
        call.add_response(response)
        return response, inner, call

    def _response(
        self, request: Any, timeout: Any, metadata: Any, credentials: Any, wait_for_ready: Any, compression: Any
    ) -> Any:
        """The one response of a call that blocks."""
        response, inner, call = self._blocking(request, timeout, metadata, credentials, wait_for_ready, compression)
        call.end(grpc.StatusCode.OK, "", inner.initial_metadata(), inner.trailing_metadata())
        return response

    def _response_and_call(
        self, request: Any, timeout: Any, metadata: Any, credentials: Any, wait_for_ready: Any, compression: Any
    ) -> tuple[Any, Any]:
        """The one response of a call that blocks, and the call."""
        response, inner, call = self._blocking(request, timeout, metadata, credentials, wait_for_ready, compression)
        return response, CallView(inner, call)

    def _running(
        self,
        invoke: Callable[[Any], Any],
        request: Any,
        timeout: Any,
        metadata: Any,
        credentials: Any,
        wait_for_ready: Any,
        compression: Any,
    ) -> Any:
        """A call that goes on while its caller does something else."""
        try:
            begun = self._begin(request, timeout, metadata, wait_for_ready)
        except MeshRpcError as error:
            return error
        call = begun.call
        request = call.requests_of(request, is_stream=not self.has_one_request)
        inner = invoke(begun.callable)(request, call.timeout, call.metadata, credentials, wait_for_ready, compression)
        is_future = invoke is _future
        return CallView(inner, call, is_stream=not is_future, is_future=is_future)


def _future(callable_: Any) -> Any:
    return callable_.future


def _itself(callable_: Any) -> Any:
    return callable_


class MeshUnaryUnary(_Method, grpc.UnaryUnaryMultiCallable):  # type: ignore[misc]
    """One request, one response."""

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        """See grpc.UnaryUnaryMultiCallable."""
        way = self._ways.way
        if way.directory is not self._control.directory:
            way = self._ready(timeout, wait_for_ready)
        if way.straight is not None and not self._ways.is_watched:
            if way.timeout is not None or deadline.current.get() is not None:
                timeout = bounded_timeout(timeout, way.timeout)
            metadata = way.completed(metadata)
            try:
                return way.straight(request, timeout, metadata, credentials, wait_for_ready, compression)
            except grpc.RpcError as error:
                raise explained(error) from None
        return self._response(request, timeout, metadata, credentials, wait_for_ready, compression)

    def with_call(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> tuple[Any, Any]:
        """See grpc.UnaryUnaryMultiCallable."""
        return self._response_and_call(request, timeout, metadata, credentials, wait_for_ready, compression)

    def future(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        """See grpc.UnaryUnaryMultiCallable."""
        return self._running(_future, request, timeout, metadata, credentials, wait_for_ready, compression)


class _Streaming(_Method):
    """Kinds whose call is an iterator of responses."""

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        """See grpc.UnaryStreamMultiCallable and grpc.StreamStreamMultiCallable."""
        try:
            way = self._ready(timeout, wait_for_ready)
        except MeshRpcError as error:
            return error
        if way.straight is not None and not self._ways.is_watched:
            timeout = bounded_timeout(timeout, way.timeout)
            metadata = way.completed(metadata)
            return way.straight(request, timeout, metadata, credentials, wait_for_ready, compression)
        return self._running(_itself, request, timeout, metadata, credentials, wait_for_ready, compression)


class MeshUnaryStream(_Streaming, grpc.UnaryStreamMultiCallable):  # type: ignore[misc]
    """One request, a stream of responses."""


class MeshStreamStream(_Streaming, grpc.StreamStreamMultiCallable):  # type: ignore[misc]
    """A stream of requests, a stream of responses."""

    has_one_request = False


class MeshStreamUnary(_Method, grpc.StreamUnaryMultiCallable):  # type: ignore[misc]
    """A stream of requests, one response."""

    has_one_request = False

    def __call__(
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        """See grpc.StreamUnaryMultiCallable."""
        return self._response(request_iterator, timeout, metadata, credentials, wait_for_ready, compression)

    def with_call(
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> tuple[Any, Any]:
        """See grpc.StreamUnaryMultiCallable."""
        return self._response_and_call(request_iterator, timeout, metadata, credentials, wait_for_ready, compression)

    def future(
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        """See grpc.StreamUnaryMultiCallable."""
        return self._running(_future, request_iterator, timeout, metadata, credentials, wait_for_ready, compression)
