"""`grpc.aio.Channel`s on the mesh.

As sync channels: a native call that nobody watches goes to grpc.aio as it came. A call that must be decided first goes
through an interceptor of grpc.aio's, which is where that library lets a call wait before it begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import grpc.aio
from grpc.aio import _channel as plain_aio

from ... import deadline
from ...exchange import LocalReply
from ..engine import RelayedMesh, parse_target
from .aio_call_view import VIEWS
from .call_error import MeshRpcError
from .lines import Lines, channel_credentials, taken_options, with_authority
from .method_ways import MethodWays, Way
from .mirrors import MirrorLimit
from .outgoing_call import OutgoingCall, bounded_timeout, decide
from .waiting import hold_async, not_settled, settle_async

__all__ = ["MeshAioChannel"]

Options = Sequence[tuple[str, Any]]
_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


class MeshAioChannel(grpc.aio.Channel):  # type: ignore[misc]
    """An asyncio channel whose calls go where the mesh says; it belongs to the event loop of its first call.

    Args:
        relayed: The Mesh on the relay.
        target: `host:port`, `xds:///host:port` or `xds://authority/host:port`.
        options: As grpc.aio's.
        interceptors: As grpc.aio's; they see calls before the mesh does.
        compression: As grpc.aio's.
        credentials: For clusters that have no TLS settings in the mesh, and for hosts outside it; None is plaintext.
    """

    def __init__(
        self,
        relayed: RelayedMesh,
        target: str,
        *,
        options: Options | None = None,
        interceptors: Sequence[Any] = (),
        compression: grpc.Compression | None = None,
        credentials: Any = None,
    ) -> None:
        name = parse_target(target)
        given, authority = taken_options(options, name.authority)

        def open_with(inner_interceptors: Sequence[Any]) -> Callable[[str, str], Any]:
            def open_channel(uri: str, authority: str) -> Any:
                settings = with_authority(given, authority)
                # From where opentelemetry-instrumentation-grpc has not replaced it: calls are traced here.
                return plain_aio.secure_channel(
                    uri,
                    channel_credentials(credentials),
                    options=settings,
                    compression=compression,
                    interceptors=list(inner_interceptors) or None,
                )

            return open_channel

        self.has_interceptors = bool(interceptors)
        self.lines: Lines[Any] = Lines(relayed, name, authority, open_with(()))
        self.mirrors = MirrorLimit()
        self._methods: dict[tuple[str, str], _Method] = {}
        self._straight: Lines[Any] = Lines(relayed, name, authority, open_with(interceptors))
        ours = [make(self._methods) for make in _INTERCEPTORS]
        self._deciding: Lines[Any] = Lines(relayed, name, authority, open_with([*interceptors, *ours]))

    def unary_unary(self, method: str, *arguments: Any, **options: Any) -> _Method:
        """See grpc.aio.Channel."""
        return self._method("unary_unary", method, arguments, options)

    def unary_stream(self, method: str, *arguments: Any, **options: Any) -> _Method:
        """See grpc.aio.Channel."""
        return self._method("unary_stream", method, arguments, options)

    def stream_unary(self, method: str, *arguments: Any, **options: Any) -> _Method:
        """See grpc.aio.Channel."""
        return self._method("stream_unary", method, arguments, options)

    def stream_stream(self, method: str, *arguments: Any, **options: Any) -> _Method:
        """See grpc.aio.Channel."""
        return self._method("stream_stream", method, arguments, options)

    def _method(self, kind: str, method: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> _Method:
        made = _Method(self, kind, method, lambda line, name: getattr(line, kind)(name, *arguments, **options))
        self._methods[(kind, method)] = made
        return made

    def straight_line(self) -> Any:
        """The inner channel with the user's interceptors alone."""
        return self._straight.main()

    def deciding_line(self) -> Any:
        """The inner channel whose calls are decided on first."""
        return self._deciding.main()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """See grpc.aio.Channel."""
        return self.straight_line().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """See grpc.aio.Channel."""
        await self.straight_line().wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """See grpc.aio.Channel."""
        await self.straight_line().channel_ready()

    async def close(self, grace: float | None = None) -> None:
        """See grpc.aio.Channel."""
        channels = [one for lines in (self._straight, self._deciding, self.lines) for one in lines.take_all()]
        await asyncio.gather(*(channel.close(grace) for channel in channels))

    async def __aenter__(self) -> MeshAioChannel:
        return self

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        await self.close()


class _Method:
    """A callable of any of the four kinds; grpc.aio's own four differ in nothing but their types."""

    def __init__(
        self, channel: MeshAioChannel, kind: str, method: str, open_callable: Callable[[Any, str], Any]
    ) -> None:
        self._channel = channel
        self._view = VIEWS[kind]
        self._open = open_callable
        self._deciding: Any = None
        self.ways = MethodWays(
            channel.lines, method, kind.startswith("unary_"), open_callable, main=channel.straight_line
        )
        self._control = self.ways.control

    def __call__(
        self,
        request: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
        *,
        request_iterator: Any = None,
    ) -> Any:
        """See the multi-callables of grpc.aio."""
        way: Way | None = self.ways.way
        if way is None or way.directory is not self._control.directory:
            way = self.ways.current()
        if request_iterator is not None:
            request = request_iterator
        if way is not None and way.plan is not None and way.plan.is_native:
            metadata = way.completed(metadata)
            if way.straight is not None and not self.ways.is_watched:
                return way.straight(
                    request,
                    timeout=bounded_timeout(timeout, way.timeout),
                    metadata=metadata,
                    credentials=credentials,
                    wait_for_ready=wait_for_ready,
                    compression=compression,
                )
            if not self._channel.has_interceptors:
                return self._watched(way, request, timeout, metadata, credentials, wait_for_ready, compression)
        if self._deciding is None:
            try:
                self._deciding = self._open(self._channel.deciding_line(), self.ways.method)
            except MeshRpcError as error:
                raise error.for_asyncio() from None
        return self._deciding(
            request,
            timeout=deadline.bounded(timeout),
            metadata=metadata,
            credentials=credentials,
            wait_for_ready=wait_for_ready,
            compression=compression,
        )

    def _watched(
        self,
        way: Way,
        request: Any,
        timeout: Any,
        metadata: Any,
        credentials: Any,
        wait_for_ready: Any,
        compression: Any,
    ) -> Any:
        call = self.ways.native_call(way, metadata, timeout)
        inner = self.ways.native()(
            call.requests_of(request, is_stream=not self.ways.has_one_request),
            timeout=call.timeout,
            metadata=call.metadata,
            credentials=credentials,
            wait_for_ready=wait_for_ready,
            compression=compression,
        )
        return self._view(inner, call)

    async def decide(self, continuation: Callable[[Any, Any], Any], details: Any, request: Any) -> Any:
        """What an interceptor of grpc.aio does: wait for configuration, decide, and begin the call.

        Raises:
            grpc.aio.AioRpcError: The call is answered here.
        """
        try:
            return await self._decide(continuation, details, request)
        except MeshRpcError as error:
            raise error.for_asyncio() from None

    async def _decide(self, continuation: Callable[[Any, Any], Any], details: Any, request: Any) -> Any:
        ways, timeout = self.ways, details.timeout
        way = ways.current()
        if way is None:
            await self._settle(ways.names, timeout, details.wait_for_ready)
            way = ways.current()
        if way is None:
            raise MeshRpcError.of_reply(not_settled(self._control, ways.names))
        plan = way.plan
        assert plan is not None
        if plan.is_native:
            call = ways.native_call(way, details.metadata, timeout)
            changed = details._replace(timeout=call.timeout, metadata=_metadata(call))
            request = call.requests_of(request, is_stream=not ways.has_one_request)
            return self._view(await continuation(changed, request), call)
        reply = plan.reply
        if reply is None:
            decided = await self._decision(way, details)
            if isinstance(decided, OutgoingCall):
                return await self._outgoing(decided, details, request)
            reply = decided
        call = OutgoingCall(plan.directory, details.metadata, deadline.bounded(timeout))
        ways.observe(call)
        if reply.delay_seconds:
            await hold_async(call, reply.delay_seconds, reply.tally)
        raise call.refused(reply)

    async def _decision(self, way: Way, details: Any) -> OutgoingCall | LocalReply:
        ways, plan = self.ways, way.plan
        assert plan is not None
        decided = decide(plan, ways.lines.authority, ways.method, details.metadata, details.timeout)
        if isinstance(decided, str):
            # The call names a cluster that nobody has asked for yet.
            await self._settle((decided,), details.timeout, details.wait_for_ready)
            decided = decide(ways.plan(), ways.lines.authority, ways.method, details.metadata, details.timeout)
        assert not isinstance(decided, str)
        return decided

    async def _outgoing(self, call: OutgoingCall, details: Any, request: Any) -> Any:
        exchange, ways = call.exchange, self.ways
        assert exchange is not None
        ways.observe(call)
        ways.limit(call, details.timeout)
        if exchange.delay_seconds:
            await hold_async(call, exchange.delay_seconds, exchange.fault_tally)
        ways.mirror(call, self._channel.mirrors, lambda callable_, call: self._send_copy(callable_, request, call))
        inner = ways.destination(exchange)(
            call.requests_of(request, is_stream=not ways.has_one_request),
            timeout=call.timeout,
            metadata=_metadata(call),
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
        )
        return self._view(inner, call)

    async def _settle(self, names: tuple[str, ...], timeout: float | None, wait_for_ready: bool | None) -> None:
        self.ways.relayed.start_beside()
        await settle_async(self._control, names, timeout, wait_for_ready)

    def _send_copy(self, callable_: Any, request: Any, call: OutgoingCall) -> None:
        copy = callable_(request, timeout=call.timeout, metadata=_metadata(call))
        copy.add_done_callback(self._channel.mirrors.end)


def _metadata(call: OutgoingCall) -> grpc.aio.Metadata:
    return grpc.aio.Metadata(*(call.metadata or ()))


def _interceptor(kind: str, base: type) -> Callable[[dict[tuple[str, str], _Method]], Any]:
    """An interceptor class of grpc.aio's for one kind of call, which has its method decide."""

    def __init__(self: Any, methods: dict[tuple[str, str], _Method]) -> None:
        self._methods = methods

    async def intercept(self: Any, continuation: Any, client_call_details: Any, request: Any) -> Any:
        name = client_call_details.method
        method = self._methods[(kind, name.decode() if isinstance(name, bytes) else name)]
        return await method.decide(continuation, client_call_details, request)

    return type(f"_Decide_{kind}", (base,), {"__init__": __init__, f"intercept_{kind}": intercept})


_INTERCEPTORS = [
    _interceptor(kind, base)
    for kind, base in zip(
        _KINDS,
        (
            grpc.aio.UnaryUnaryClientInterceptor,
            grpc.aio.UnaryStreamClientInterceptor,
            grpc.aio.StreamUnaryClientInterceptor,
            grpc.aio.StreamStreamClientInterceptor,
        ),
        strict=True,
    )
]
