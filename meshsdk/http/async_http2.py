"""An HTTP/2 connection as an asyncio protocol: many requests at a time. Its sync twin is `sync_http2`."""

from __future__ import annotations

import asyncio
import select
from collections.abc import AsyncIterator, Callable
from typing import Any

from .breaking_off import break_off
from .errors import DeadlineExceededError, ReadError, ReadTimeout, RemoteProtocolError, WriteTimeout
from .http2 import PIECE_BYTES, Http2Session, Http2Stream
from .network_stream import NetworkStream, stream_of
from .outgoing import Outgoing
from .pool_rules import address_of
from .raw_response import AsyncBody, RawResponse
from .read_timer import ReadTimer
from .request_body import AsyncRequestBody
from .request_rules import Framer

__all__ = ["AsyncHttp2Connection"]

# How long a peer that has fallen silent has to answer a PING (gRPC's keepalive timeout). Meanwhile it gets no request.
_PING_SECONDS = 20.0


class AsyncHttp2Connection(asyncio.Protocol):
    """One connection; used by many requests at a time.

    Args:
        loop: The running event loop.
        max_streams: How many requests it carries at once, at most; None leaves it to the peer.
        on_release: Called when the last request on it ended, or when it is closed (see `is_open`).
        on_room: Called when it may take a request more than before.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_release: Callable[[AsyncHttp2Connection], None],
        max_streams: int | None = None,
        on_room: Callable[[], None] = lambda: None,
    ) -> None:
        self._loop = loop
        self._on_release = on_release
        self._on_room = on_room
        self._transport: asyncio.Transport | None = None
        self._session = Http2Session(max_streams)
        self._timers: dict[int, ReadTimer] = {}
        self._poll = select.poll()
        self._is_writing_paused = False
        self._is_stuck = False
        self._reads = 0
        self._doubt: asyncio.TimerHandle | None = None
        self.is_open = True
        self.idle_since = 0.0
        self.requests = 0
        self.own_address = ""
        self.network_stream: NetworkStream | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way."""
        return not self._session.streams

    @property
    def is_settling(self) -> bool:
        """Whether the peer is still to say how many requests it takes at once."""
        return self.is_open and self._doubt is None and not self._session.is_settled

    def is_usable(self) -> bool:
        """Whether one more request may be sent now."""
        return self.is_open and self._doubt is None and not self._is_stuck and self._session.has_room

    def has_unread(self) -> bool:
        """Whether the peer has said something while it was asked nothing, that the loop has not read yet."""
        return self.is_open and self.is_idle and bool(self._poll.poll(0))

    # Called by asyncio.

    def connection_made(self, transport: Any) -> None:  # uvloop's are no asyncio.Transport by class.
        self._transport = transport
        # From the first byte that the socket does not take until the last one is out.
        transport.set_write_buffer_limits(high=1, low=0)
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        self.own_address = address_of(transport.get_extra_info("sockname"))
        self.network_stream = stream_of(transport)
        transport.write(self._session.start())

    def data_received(self, data: bytes) -> None:
        session, timers = self._session, self._timers
        self._reads += 1
        if self._doubt is not None:
            self._doubt.cancel()
            self._doubt = None
        was_settled = session.is_settled
        self._write(session.feed(data))
        # Each waits for its own: one that gets nothing is not to wait anew because others get something.
        for stream in session.touched:
            timer = timers.get(stream.id)
            if timer is not None:
                timer.wake()
        session.touched.clear()
        if session.is_window_open:
            session.is_window_open = False
            for timer in timers.values():
                timer.wake_writer()
        if session.error is not None or (not session.is_usable and not session.streams):
            self.close()
        elif not was_settled:
            self._on_room()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        reason = str(exc) if exc is not None else "the peer closed it"
        self._session.fail(RemoteProtocolError(f"the connection was lost: {reason}"))
        self._mark_closed()

    def pause_writing(self) -> None:
        self._is_writing_paused = True

    def resume_writing(self) -> None:
        self._is_writing_paused = self._is_stuck = False
        for timer in self._timers.values():
            timer.wake_writer()

    # Called by transports.

    async def exchange(self, outgoing: Outgoing[AsyncRequestBody]) -> RawResponse:
        """See `AsyncHttp1Connection.exchange`; a failure closes the stream, not the connection."""
        self.requests += 1
        try:
            stream, data = self._session.open(
                outgoing.method,
                outgoing.scheme,
                outgoing.attempt.target,
                outgoing.headers,
                end=not outgoing.body,
                framing=outgoing.framing,
            )
        except BaseException:
            outgoing.attempt.finish()
            self._release_if_idle()
            raise
        self._timers[stream.id] = ReadTimer(self._loop)
        trace = outgoing.trace
        try:
            # At once: the streams of a connection begin in the order of their numbers (RFC 9113 section 5.1.1).
            self._write(data)
            if trace is not None:
                await trace.atell(trace.sending("http2", stream_id=stream.id, is_first=self.requests == 1))
            if outgoing.body:
                await self._send_body(stream, outgoing)
            if trace is not None:
                await trace.atell(trace.sent())
            while not stream.head_done:
                await self._more(stream, outgoing)
            if trace is not None:
                await trace.atell(trace.end((stream.status, stream.headers)))
        except BaseException as error:
            self._finish(stream, outgoing)
            if trace is not None:
                await trace.atell(trace.failed(error))
            raise
        body = _Body(self, stream, outgoing)
        return RawResponse(
            stream.status, stream.headers, body, b"HTTP/2", stream.trailers, self.network_stream, stream_id=stream.id
        )

    def close(self) -> None:
        """Close the connection; requests under way on it fail."""
        self._session.fail(ReadError("the connection was closed"))
        if self._transport is not None:
            break_off(self._transport)
        self._mark_closed()

    def _finish(self, stream: Http2Stream, outgoing: Outgoing[AsyncRequestBody]) -> None:
        timer = self._timers.pop(stream.id, None)
        if timer is not None:
            timer.cancel()
        outgoing.attempt.finish()
        self._write(self._session.close(stream))
        self._release_if_idle()

    def _release_if_idle(self) -> None:
        if not self.is_idle:
            self._on_room()
            return
        if self._session.is_usable and self.is_open:
            self._on_release(self)
        else:
            self.close()

    def _mark_closed(self) -> None:
        for timer in self._timers.values():
            timer.wake()
        if self._doubt is not None:
            self._doubt.cancel()
            self._doubt = None
        if self.is_open:
            self.is_open = False
            self._on_release(self)

    def _write(self, data: bytes) -> None:
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    async def _more(self, stream: Http2Stream, outgoing: Outgoing[AsyncRequestBody]) -> None:
        """Wait until the peer sent something more of the stream."""
        if stream.error is not None:
            raise stream.error
        reads = self._reads
        try:
            await self._timers[stream.id].wait(outgoing.timeouts.read, outgoing.attempt.deadline)
        except (ReadTimeout, DeadlineExceededError):
            if self._reads == reads:
                self._begin_to_doubt()
            raise
        if stream.error is not None:
            raise stream.error

    def _begin_to_doubt(self) -> None:
        """Nothing at all came in all the time: the next requests go elsewhere until the peer shows that it lives."""
        if self.is_open and self._doubt is None:
            self._write(self._session.ping())
            self._doubt = self._loop.call_later(_PING_SECONDS, self.close)

    async def _until_writable(self, stream: Http2Stream, outgoing: Outgoing[AsyncRequestBody]) -> None:
        """Wait until the peer takes more: from the socket, or by opening its window."""
        reads = self._reads
        try:
            await self._timers[stream.id].wait(outgoing.timeouts.write, outgoing.attempt.deadline, for_writing=True)
        except (WriteTimeout, DeadlineExceededError):
            self._is_stuck = self._is_writing_paused
            if self._reads == reads:
                self._begin_to_doubt()
            raise

    async def _send_body(self, stream: Http2Stream, outgoing: Outgoing[AsyncRequestBody]) -> None:
        body = outgoing.body
        if isinstance(body, bytes):
            await self._send_all(stream, body, outgoing, end=True)
            return
        framer = Framer(outgoing.framing)
        async for chunk in body:
            framer.count(chunk)
            if not await self._send_all(stream, chunk, outgoing, end=False):
                return
        framer.end()
        await self._send_all(stream, b"", outgoing, end=True)

    async def _send_all(
        self, stream: Http2Stream, data: bytes, outgoing: Outgoing[AsyncRequestBody], *, end: bool
    ) -> bool:
        """Send data as the peer's window allows; False when it has answered and wants no more."""
        rest = memoryview(data)
        while not stream.complete:
            if stream.error is not None:
                raise stream.error
            if self._is_writing_paused:
                await self._until_writable(stream, outgoing)
                continue
            if stream.all_sent or (not rest and not end):
                return True
            is_last = len(rest) <= PIECE_BYTES
            taken, frames = self._session.send(stream, rest[:PIECE_BYTES], end=end and is_last)
            self._write(frames)
            rest = rest[taken:]
            # The window may have been opened while the socket was waited for, so it is looked at before each wait.
            if not taken and rest and not self._is_writing_paused:
                await self._until_writable(stream, outgoing)
        return False


class _Body(AsyncBody):
    """A response's body, read as it is asked for."""

    def __init__(
        self, connection: AsyncHttp2Connection, stream: Http2Stream, outgoing: Outgoing[AsyncRequestBody]
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._outgoing = outgoing
        self._is_done = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        connection, stream, trace = self._connection, self._stream, self._outgoing.trace
        try:
            if trace is not None:
                await trace.atell(trace.receiving())
            while True:
                chunks, window = connection._session.take(stream)
                connection._write(window)
                for chunk in chunks:
                    yield chunk
                if stream.complete and not stream.chunks:
                    break
                if not stream.chunks:
                    await connection._more(stream, self._outgoing)
        except DeadlineExceededError as error:
            failure = ReadTimeout("the route's timeout ran out while the response was read")
            await self._break(failure)
            raise failure from error
        except BaseException as error:
            await self._break(error)
            raise
        self.let_go()
        if trace is not None:
            await trace.atell(trace.received())

    async def _break(self, error: BaseException) -> None:
        self.let_go()
        if self._outgoing.trace is not None:
            await self._outgoing.trace.atell(self._outgoing.trace.failed(error))

    async def aclose(self) -> None:
        trace = self._outgoing.trace
        if trace is not None and not self._is_done:
            await trace.atell(trace.left())
        self.let_go()

    def let_go(self) -> None:
        if not self._is_done:
            self._is_done = True
            self._connection._finish(self._stream, self._outgoing)
