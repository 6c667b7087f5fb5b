"""An HTTP/1.1 connection as an asyncio protocol. Its sync twin is `sync_http1`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx

from .errors import DeadlineExceededError
from .http1 import Http1Reader, encode_head
from .outgoing import CONTINUE_WAIT_SECONDS, Framer, Outgoing
from .raw_response import EMPTY_BODY, RawResponse
from .read_timer import ReadTimer
from .request_body import AsyncRequestBody

__all__ = ["AsyncHttp1Connection"]

# Body that may wait for its reader before the peer is held back, and go on once half of it was taken.
_HIGH_WATER_BYTES = 256 * 1024
# A body in memory up to this size goes out with the head; a larger one waits for the peer to take it.
_ONE_WRITE_BYTES = 64 * 1024


class AsyncHttp1Connection(asyncio.Protocol):
    """One connection; used by one request at a time.

    Args:
        loop: The running event loop.
        on_release: Called when the connection may serve another request, or is closed (see `is_open`).
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_release: Callable[[AsyncHttp1Connection], None]) -> None:
        self._loop = loop
        self._on_release = on_release
        self._transport: asyncio.Transport | None = None
        self._timer = ReadTimer(loop)
        self._drained: asyncio.Future[None] | None = None
        self._is_paused = False
        self._error: Exception | None = None
        self.reader = Http1Reader()
        self.is_open = True
        self.idle_since = 0.0
        self.requests = 0

    def is_usable(self) -> bool:
        """Whether an idle connection can take a request. The loop has told of a peer that closed."""
        return self.is_open

    # Called by asyncio.

    def connection_made(self, transport: Any) -> None:  # uvloop's are no asyncio.Transport by class.
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        reader = self.reader
        try:
            reader.feed(data)
        except httpx.RemoteProtocolError as error:
            self._fail(error)
            return
        if reader.buffered > _HIGH_WATER_BYTES and not self._is_paused and not reader.complete:
            self._is_paused = True
            assert self._transport is not None
            self._transport.pause_reading()
        self._timer.wake()

    def eof_received(self) -> bool:
        try:
            self.reader.feed_eof()
        except httpx.RemoteProtocolError as error:
            self._fail(error)
        else:
            self._mark_closed()
        self._timer.wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._fail(httpx.ReadError(f"the connection was lost: {exc}"))
        elif not self.reader.complete:
            try:
                self.reader.feed_eof()
            except httpx.RemoteProtocolError as error:
                self._fail(error)
        self._mark_closed()
        self._timer.wake()
        self.resume_writing()

    def pause_writing(self) -> None:
        if self._drained is None:
            self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # Called by transports.

    async def exchange(self, outgoing: Outgoing[AsyncRequestBody]) -> RawResponse:
        """Send a request and read the response's head.

        Raises:
            httpx.TransportError: What went wrong; the connection is closed.
            DeadlineExceededError: The mesh's deadline passed; the connection is closed.
        """
        self.requests += 1
        reader, transport = self.reader, self._transport
        assert transport is not None
        try:
            head = encode_head(outgoing.method, outgoing.attempt.target, outgoing.headers)
            reader.expect(outgoing.method)
            body = outgoing.body
            if not body:
                transport.write(head)
            elif isinstance(body, bytes) and not outgoing.is_chunked and not outgoing.expects_continue:
                transport.write(head + body)
                if len(body) > _ONE_WRITE_BYTES:
                    await self._drain(outgoing)
            else:
                await self._send_streamed(head, outgoing)
            while not reader.head_done:
                await self._more(outgoing)
        except BaseException:
            self.close()
            outgoing.attempt.finish()
            raise
        if reader.complete:
            content = b"".join(reader.take())
            self._finish(outgoing)
            stream: httpx.AsyncByteStream = httpx.ByteStream(content) if content else EMPTY_BODY
        else:
            stream = _Body(self, outgoing)
        return RawResponse(reader.status, reader.headers, stream, b"HTTP/1.1", reader.trailers)

    def close(self) -> None:
        """Close the connection; a request under way on it fails."""
        if self._transport is not None:
            self._transport.abort()
        self._fail(httpx.ReadError("the connection was closed"))
        self._mark_closed()

    def _finish(self, outgoing: Outgoing[AsyncRequestBody]) -> None:
        """The response is complete."""
        outgoing.attempt.finish()
        self._resume_reading()
        if self.reader.reusable and self.is_open:
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
        if isinstance(error, httpx.RemoteProtocolError):
            self._mark_closed()

    def _resume_reading(self) -> None:
        if self._is_paused:
            self._is_paused = False
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    async def _more(self, outgoing: Outgoing[AsyncRequestBody]) -> None:
        """Wait until the peer sent something more."""
        if self._error is not None:
            raise self._error
        if not self.is_open:
            raise httpx.ReadError("the connection was closed")
        self._resume_reading()
        await self._timer.wait(outgoing.timeouts.read, outgoing.attempt.deadline)
        reader = self.reader
        if self._error is not None and not reader.complete and not reader.chunks:
            raise self._error

    async def _drain(self, outgoing: Outgoing[AsyncRequestBody]) -> None:
        """Wait until the peer has taken most of what was written."""
        if self._drained is None:
            return
        seconds, deadline = outgoing.timeouts.write, outgoing.attempt.deadline
        left = None if deadline is None else deadline - self._loop.time()
        bounds = [bound for bound in (seconds, left) if bound is not None]
        try:
            async with asyncio.timeout(min(bounds) if bounds else None):
                await asyncio.shield(self._drained)
        except TimeoutError as error:
            if deadline is not None and self._loop.time() >= deadline:
                raise DeadlineExceededError from error
            raise httpx.WriteTimeout("sending the request took too long") from error

    async def _send_streamed(self, head: bytes, outgoing: Outgoing[AsyncRequestBody]) -> None:
        reader, framer = self.reader, Framer(outgoing)
        if outgoing.expects_continue:
            self._write(head)
            head = b""
            await self._await_continue(outgoing)
        body = outgoing.body
        async for chunk in _one(body) if isinstance(body, bytes) else body:
            if reader.head_done:
                reader.reusable = False
                return  # The peer has answered already; it will not read the rest.
            if self._error is not None:
                raise self._error
            framed = framer.frame(chunk)
            if framed:
                self._write(head + framed)
                head = b""
                await self._drain(outgoing)
        if not reader.head_done:
            self._write(head + framer.end())

    def _write(self, data: bytes) -> None:
        assert self._transport is not None
        if data and not self._transport.is_closing():
            self._transport.write(data)

    async def _await_continue(self, outgoing: Outgoing[AsyncRequestBody]) -> None:
        reader = self.reader
        try:
            async with asyncio.timeout(CONTINUE_WAIT_SECONDS):
                while not reader.continue_received and not reader.head_done:
                    await self._more(outgoing)
        except TimeoutError:
            return


async def _one(chunk: bytes) -> AsyncIterator[bytes]:
    yield chunk


class _Body(httpx.AsyncByteStream):
    """The rest of a response, read as it is asked for."""

    def __init__(self, connection: AsyncHttp1Connection, outgoing: Outgoing[AsyncRequestBody]) -> None:
        self._connection = connection
        self._outgoing = outgoing
        self._is_done = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        connection, reader = self._connection, self._connection.reader
        try:
            while True:
                for chunk in reader.take():
                    yield chunk
                if reader.complete:
                    break
                await connection._more(self._outgoing)
        except DeadlineExceededError as error:
            await self.aclose()
            raise httpx.ReadTimeout("the route's timeout ran out while the response was read") from error
        except BaseException:
            await self.aclose()
            raise
        self._is_done = True
        connection._finish(self._outgoing)

    async def aclose(self) -> None:
        if not self._is_done:
            self._is_done = True
            self._connection.close()
            self._outgoing.attempt.finish()
