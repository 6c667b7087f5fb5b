"""An HTTP/1.1 connection as an asyncio protocol. Its sync twin is `sync_http1`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

from .breaking_off import break_off
from .connection_state import ALL_SENT, GIVEN_UP
from .errors import DeadlineExceededError, ReadError, ReadTimeout, RemoteProtocolError
from .http1 import Http1Reader
from .network_stream import NetworkStream, stream_of
from .outgoing import CONTINUE_WAIT_SECONDS, Outgoing
from .pool_rules import address_of
from .raw_response import AsyncBody, RawResponse
from .read_timer import ReadTimer
from .request_body import AsyncRequestBody
from .request_rules import Framer

__all__ = ["AsyncHttp1Connection"]

# Body that may wait for its reader before the peer is held back, and go on once half of it was taken.
_HIGH_WATER_BYTES = 256 * 1024
_READ_BYTES = 64 * 1024
# A larger body goes out in pieces, each of which waits for the peer to take the one before. Over TLS the loop's own
# transport hides one of them, so that larger ones would be waited for with the wrong timeout.
_PIECE_BYTES = 128 * 1024


class AsyncHttp1Connection(asyncio.Protocol):
    """One connection; used by one request at a time.

    Args:
        loop: The running event loop.
        on_release: Called when the connection may serve another request, or is closed (see `is_open`).
        must_be_told: A body that ends with a TLS connection is whole only where the peer said that it closes.
        holds: A response that has come whole keeps the connection until it is read or closed.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_release: Callable[[AsyncHttp1Connection], None],
        *,
        must_be_told: bool = True,
        holds: bool = False,
    ) -> None:
        self._loop = loop
        self._on_release = on_release
        self._must_be_told = must_be_told
        self._holds = holds
        self._transport: asyncio.Transport | None = None
        self._timer = ReadTimer(loop)
        self._poll = select.poll()
        self._tls: ssl.SSLObject | None = None
        self._is_paused = False
        self._is_writing_paused = False
        self._error: Exception | None = None
        self.reader = Http1Reader()
        self.is_open = True
        self.idle_since = 0.0
        self.requests = 0
        self.own_address = ""
        self.network_stream: NetworkStream | None = None

    def is_usable(self) -> bool:
        """See `SyncHttp1Connection.is_usable`. What the loop has not read yet it has told nobody of."""
        return self.is_open and not self._poll.poll(0)

    # Called by asyncio.

    def connection_made(self, transport: Any) -> None:  # uvloop's are no asyncio.Transport by class.
        self._transport = transport
        # From the first byte that the socket does not take until the last one is out.
        transport.set_write_buffer_limits(high=1, low=0)
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        self.own_address = address_of(transport.get_extra_info("sockname"))
        self.network_stream = stream_of(transport)
        self._tls = transport.get_extra_info("ssl_object")  # Which the transport has forgotten when it ends.

    def data_received(self, data: bytes) -> None:
        reader = self.reader
        try:
            reader.feed(data)
        except RemoteProtocolError as error:
            self._fail(error)
            return
        if reader.buffered > _HIGH_WATER_BYTES and not self._is_paused and not reader.complete:
            self._is_paused = True
            assert self._transport is not None
            self._transport.pause_reading()
        self._timer.wake()

    def eof_received(self) -> bool:
        try:
            self.reader.feed_eof(is_whole=not self._must_be_told or self._was_told())
        except RemoteProtocolError as error:
            self._fail(error)
        else:
            self._mark_closed()
        self._timer.wake()
        return False

    def _was_told(self) -> bool:
        """Whether the peer itself said that it closes: over TLS by close_notify."""
        if self._tls is None:
            return True
        try:
            return self._tls.read(1) == b""
        except ssl.SSLZeroReturnError:
            return True
        except (ssl.SSLError, OSError):
            return False

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._read_what_is_left()
            self._fail(ReadError(f"the connection was lost: {exc}"))
        elif not self.reader.complete:
            try:
                self.reader.feed_eof(is_whole=not self._must_be_told or self._was_told())
            except RemoteProtocolError as error:
                self._fail(error)
        self._mark_closed()
        self._timer.wake()

    def _read_what_is_left(self) -> None:
        """Writing has failed. What the peer said before, asyncio throws away: why it takes no more, perhaps. uvloop has
        read it, and TLS cannot be read any more."""
        if self._tls is not None or self._transport is None or not isinstance(self._loop, asyncio.BaseEventLoop):
            return
        descriptor = self._transport.get_extra_info("socket").fileno()
        with contextlib.suppress(OSError, RemoteProtocolError):
            while not self.reader.complete and (data := os.read(descriptor, _READ_BYTES)):
                self.reader.feed(data)

    def pause_writing(self) -> None:
        self._is_writing_paused = True

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        self._timer.wake()

    # Called by transports.

    async def exchange(self, outgoing: Outgoing[AsyncRequestBody]) -> RawResponse:
        """Send a request and read the response's head.

        Raises:
            TransportError: What went wrong; the connection is closed.
            DeadlineExceededError: The mesh's deadline passed; the connection is closed.
        """
        self.requests += 1
        reader, transport, trace = self.reader, self._transport, outgoing.trace
        assert transport is not None
        try:
            head = outgoing.http1_head()
            reader.expect(outgoing.method)
            if trace is not None:
                await trace.atell(trace.sending("http11"))
            body = outgoing.body
            if isinstance(body, bytes) and not outgoing.framing.is_chunked and not outgoing.framing.expects_continue:
                if len(body) <= _PIECE_BYTES:
                    transport.write(head + body)
                    reader.state.of_request(ALL_SENT)
                else:
                    is_sent = await self._send_pieces([head, body], outgoing)
                    reader.state.of_request(ALL_SENT if is_sent else GIVEN_UP)
            else:
                await self._send_streamed(head, outgoing)
            if trace is not None:
                await trace.atell(trace.sent())
            while not reader.head_done:
                await self._more(outgoing)
            if trace is not None:
                await trace.atell(trace.end((reader.version, reader.status, reader.reason, reader.headers)))
        except BaseException as error:
            self.close()
            outgoing.attempt.finish()
            if trace is not None:
                await trace.atell(trace.failed(error))
            raise
        response = RawResponse(
            reader.status,
            reader.headers,
            b"",
            reader.version,
            reader.trailers,
            self.network_stream,
            reader.reason,
        )
        if not reader.complete or self._holds or trace is not None:
            response.stream = _Body(self, outgoing)
            return response
        # All that is asked of the reader is taken before the connection is let go: the next request has it then.
        response.stream = b"".join(reader.take())
        self._finish(outgoing)
        return response

    def close(self) -> None:
        """Close the connection; a request under way on it fails."""
        if self._transport is not None:
            break_off(self._transport)
        self._fail(ReadError("the connection was closed"))
        self._mark_closed()

    def _finish(self, outgoing: Outgoing[AsyncRequestBody]) -> None:
        """The response is complete."""
        outgoing.attempt.finish()
        self._resume_reading()
        if self.reader.state.may_serve_again and self.is_open and not self._is_writing_paused:
            self._on_release(self)
        else:
            self.close()

    def _mark_closed(self) -> None:
        if self.is_open:
            self.is_open = False
            self._timer.cancel()
            if self._transport is not None:
                self._transport.close()
            self._on_release(self)

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        self._timer.wake()
        if isinstance(error, RemoteProtocolError):
            self._mark_closed()

    def _resume_reading(self) -> None:
        if self._is_paused:
            self._is_paused = False
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    async def _more(self, outgoing: Outgoing[AsyncRequestBody], seconds: float | None = None) -> None:
        """Wait until the peer sent something more, as long as the caller's timeout says, or so many seconds."""
        if self._error is not None:
            raise self._error
        if not self.is_open:
            raise ReadError("the connection was closed")
        self._resume_reading()
        await self._timer.wait(outgoing.timeouts.read if seconds is None else seconds, outgoing.attempt.deadline)
        reader = self.reader
        if self._error is not None and not reader.complete and not reader.chunks:
            raise self._error

    @property
    def _is_refused(self) -> bool:
        """Whether the peer has answered while the request was under way, and wants no more of it (RFC 9112 section
        9.3). One that has begun to answer well may be doing so out of what it still reads."""
        reader = self.reader
        return reader.complete or (reader.head_done and reader.status >= 300)

    async def _drain(self, outgoing: Outgoing[AsyncRequestBody]) -> None:
        """Wait until the peer has taken what was written, or wants no more of it."""
        while not self._is_refused:
            if self._error is not None:
                raise self._error
            if not self._is_writing_paused:
                if self._tls is not None:
                    # asyncio's transport of TLS hears that the peer is gone in a turn of the loop's own.
                    await asyncio.sleep(0)
                return
            await self._timer.wait(outgoing.timeouts.write, outgoing.attempt.deadline, for_writing=True)

    async def _send_pieces(self, pieces: list[bytes], outgoing: Outgoing[AsyncRequestBody]) -> bool:
        """Send what belongs together; False where the peer wants no more before it has taken all of it."""
        if sum(map(len, pieces)) <= _PIECE_BYTES:
            pieces = [b"".join(pieces)]
        for piece in pieces:
            rest = memoryview(piece)
            for start in range(0, len(piece), _PIECE_BYTES):
                if self._is_refused:
                    return False
                self._write(rest[start : start + _PIECE_BYTES])
                await self._drain(outgoing)
        return not self._is_writing_paused

    async def _send_streamed(self, head: bytes, outgoing: Outgoing[AsyncRequestBody]) -> None:
        framing = outgoing.framing
        state, framer, body = self.reader.state, Framer(framing), outgoing.body
        if framing.expects_continue and body:
            self._write(head)
            head = b""
            await self._await_continue(outgoing)
        async for chunk in _one(body) if isinstance(body, bytes) else body:
            await self._drain(outgoing)
            if self._is_refused:
                break
            if chunk:
                if not await self._send_pieces(framer.frame(head, chunk), outgoing):
                    break
                head = b""
        else:
            if await self._send_pieces([head + framer.end()], outgoing):
                state.of_request(ALL_SENT)
                return
        state.of_request(GIVEN_UP)

    def _write(self, data: bytes | memoryview) -> None:
        assert self._transport is not None
        if data and not self._transport.is_closing():
            self._transport.write(data)

    async def _await_continue(self, outgoing: Outgoing[AsyncRequestBody]) -> None:
        reader = self.reader
        give_up = self._loop.time() + CONTINUE_WAIT_SECONDS
        while not reader.continue_received and not reader.head_done:
            try:
                await self._more(outgoing, max(0.0, give_up - self._loop.time()))
            except ReadTimeout:
                return


async def _one(chunk: bytes) -> AsyncIterator[bytes]:
    yield chunk


class _Body(AsyncBody):
    """The rest of a response, read as it is asked for."""

    def __init__(self, connection: AsyncHttp1Connection, outgoing: Outgoing[AsyncRequestBody]) -> None:
        self._connection = connection
        self._outgoing = outgoing
        self._is_done = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        connection, reader, trace = self._connection, self._connection.reader, self._outgoing.trace
        if self._is_done:
            return
        try:
            if trace is not None:
                await trace.atell(trace.receiving())
            while True:
                # While a chunk is with the caller, more may come, the end too.
                while reader.chunks:
                    for chunk in reader.take():
                        yield chunk
                        if self._is_done:
                            return  # Closed with it in hand; the connection may be another request's by now.
                if reader.complete:
                    break
                await connection._more(self._outgoing)
        except DeadlineExceededError as error:
            failure = ReadTimeout("the route's timeout ran out while the response was read")
            await self._break(failure)
            raise failure from error
        except BaseException as error:
            await self._break(error)
            raise
        self._is_done = True
        connection._finish(self._outgoing)
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
            if self._connection.reader.complete:
                self._connection._finish(self._outgoing)
            else:
                self._connection.close()
                self._outgoing.attempt.finish()
