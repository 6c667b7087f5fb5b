"""An HTTP/2 connection as an asyncio protocol: many requests at a time. Its sync twin is `sync_http2`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx

from .errors import DeadlineExceededError
from .http2 import Http2Session, Http2Stream
from .outgoing import Outgoing
from .raw_response import RawResponse
from .read_timer import ReadTimer
from .request_body import AsyncRequestBody

__all__ = ["AsyncHttp2Connection"]


class AsyncHttp2Connection(asyncio.Protocol):
    """One connection; used by many requests at a time.

    Args:
        loop: The running event loop.
        max_streams: How many requests it carries at once, at most; None leaves it to the peer.
        on_release: Called when the last request on it ended, or when it is closed (see `is_open`).
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_release: Callable[[AsyncHttp2Connection], None],
        max_streams: int | None = None,
    ) -> None:
        self._loop = loop
        self._on_release = on_release
        self._transport: asyncio.Transport | None = None
        self._session = Http2Session(max_streams)
        self._timers: dict[int, ReadTimer] = {}
        self._drained: asyncio.Future[None] | None = None
        self.is_open = True
        self.idle_since = 0.0
        self.requests = 0

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way."""
        return not self._session.streams

    def is_usable(self) -> bool:
        """Whether one more request may be sent now."""
        return self.is_open and self._session.has_room

    # Called by asyncio.

    def connection_made(self, transport: Any) -> None:  # uvloop's are no asyncio.Transport by class.
        self._transport = transport
        transport.write(self._session.start())

    def data_received(self, data: bytes) -> None:
        self._write(self._session.feed(data))
        for timer in list(self._timers.values()):
            timer.wake()
        if self._session.error is not None:
            self.close()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        reason = str(exc) if exc is not None else "the peer closed it"
        self._session.fail(httpx.RemoteProtocolError(f"the connection was lost: {reason}"))
        self._mark_closed()
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
        """See `AsyncHttp1Connection.exchange`; a failure closes the stream, not the connection."""
        self.requests += 1
        try:
            stream, data = self._session.open(
                outgoing.method, outgoing.scheme, outgoing.attempt.target, outgoing.headers, end=not outgoing.body
            )
        except BaseException:
            outgoing.attempt.finish()
            self._release_if_idle()
            raise
        self._timers[stream.id] = ReadTimer(self._loop)
        try:
            self._write(data)
            if outgoing.body:
                await self._send_body(stream, outgoing)
            while not stream.head_done:
                await self._more(stream, outgoing)
        except BaseException:
            self._finish(stream, outgoing)
            raise
        body = _Body(self, stream, outgoing)
        return RawResponse(stream.status, stream.headers, body, b"HTTP/2", stream.trailers)

    def close(self) -> None:
        """Close the connection; requests under way on it fail."""
        self._session.fail(httpx.ReadError("the connection was closed"))
        if self._transport is not None:
            self._transport.abort()
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
            return
        if self._session.is_usable and self.is_open:
            self._on_release(self)
        else:
            self.close()

    def _mark_closed(self) -> None:
        for timer in list(self._timers.values()):
            timer.wake()
        if self.is_open:
            self.is_open = False
            self._on_release(self)

    def _write(self, data: bytes) -> None:
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    async def _more(self, stream: Http2Stream, outgoing: Outgoing[AsyncRequestBody]) -> None:
        if stream.error is not None:
            raise stream.error
        await self._timers[stream.id].wait(outgoing.timeouts.read, outgoing.attempt.deadline)
        if stream.error is not None:
            raise stream.error

    async def _send_body(self, stream: Http2Stream, outgoing: Outgoing[AsyncRequestBody]) -> None:
        body = outgoing.body
        if isinstance(body, bytes):
            await self._send_all(stream, body, outgoing, end=True)
            return
        async for chunk in body:
            if not await self._send_all(stream, chunk, outgoing, end=False):
                return
        await self._send_all(stream, b"", outgoing, end=True)

    async def _send_all(
        self, stream: Http2Stream, data: bytes, outgoing: Outgoing[AsyncRequestBody], *, end: bool
    ) -> bool:
        """Send data as the peer's window allows; False when it has answered and wants no more."""
        while True:
            if stream.complete:
                return False
            if stream.error is not None:
                raise stream.error
            taken, frames = self._session.send(stream, data, end=end)
            self._write(frames)
            data = data[taken:]
            if self._drained is not None:
                await asyncio.shield(self._drained)
            if not data:
                return True
            await self._more(stream, outgoing)


class _Body(httpx.AsyncByteStream):
    """A response's body, read as it is asked for."""

    def __init__(
        self, connection: AsyncHttp2Connection, stream: Http2Stream, outgoing: Outgoing[AsyncRequestBody]
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._outgoing = outgoing
        self._is_done = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        connection, stream = self._connection, self._stream
        try:
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
            await self.aclose()
            raise httpx.ReadTimeout("the route's timeout ran out while the response was read") from error
        except BaseException:
            await self.aclose()
            raise
        await self.aclose()

    async def aclose(self) -> None:
        if not self._is_done:
            self._is_done = True
            self._connection._finish(self._stream, self._outgoing)
