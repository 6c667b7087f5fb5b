"""An HTTP/2 connection over a blocking socket. Its async twin is `async_http2`.

One request at a time: threads would have to take turns at reading for each other, and a connection each is simpler
and as fast.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator

from .errors import (
    DeadlineExceededError,
    ReadError,
    ReadTimeout,
    RemoteProtocolError,
    TransportError,
    WriteError,
    WriteTimeout,
)
from .http2 import PIECE_BYTES, Http2Session, Http2Stream
from .network_stream import NetworkStream
from .outgoing import Outgoing
from .pool_rules import address_of
from .raw_response import RawResponse, SyncBody
from .request_body import RequestBody
from .request_rules import Framer
from .sync_socket import GONE, end_socket, is_broken_end

__all__ = ["SyncHttp2Connection"]

_READ_BYTES = 64 * 1024


class SyncHttp2Connection:
    """One connection; used by one request at a time. See `SyncHttp1Connection` for its methods."""

    def __init__(self, sock: socket.socket, on_release: Callable[[SyncHttp2Connection], None]) -> None:
        self._sock = sock
        self._on_release = on_release
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._session = Http2Session()
        self._sock.sendall(self._session.start())
        self.is_open = True
        self.idle_since = 0.0
        self.requests = 0
        self.own_address = address_of(sock.getsockname())
        self.network_stream = NetworkStream(sock, sock if isinstance(sock, ssl.SSLSocket) else None)

    def is_usable(self) -> bool:
        """Whether an idle connection can take a request. What the peer said meanwhile (PING, GOAWAY) is read first."""
        try:
            while self.is_open and self._session.is_usable and self._poll.poll(0):
                self._sock.settimeout(1.0)
                data = self._sock.recv(_READ_BYTES)
                if not data:
                    return False
                self._sock.sendall(self._session.feed(data))
        except OSError:
            return False
        return self.is_open and self._session.has_room

    def exchange(self, outgoing: Outgoing[RequestBody]) -> RawResponse:
        """See `SyncHttp1Connection.exchange`."""
        self.requests += 1
        trace = outgoing.trace
        try:
            stream, data = self._session.open(
                outgoing.method,
                outgoing.scheme,
                outgoing.attempt.target,
                outgoing.headers,
                end=not outgoing.body,
                framing=outgoing.framing,
            )
            if trace is not None:
                trace.tell(trace.sending("http2", stream_id=stream.id, is_first=self.requests == 1))
            self._send(data, outgoing)
            if outgoing.body:
                self._send_body(stream, outgoing)
            if trace is not None:
                trace.tell(trace.sent())
            while not stream.head_done:
                self._read(stream, outgoing)
            if trace is not None:
                trace.tell(trace.end((stream.status, stream.headers)))
        except BaseException as error:
            self.close()
            outgoing.attempt.finish()
            if trace is not None:
                trace.tell(trace.failed(error))
            raise
        body = _Body(self, stream, outgoing)
        return RawResponse(
            stream.status, stream.headers, body, b"HTTP/2", stream.trailers, self.network_stream, stream_id=stream.id
        )

    def close(self) -> None:
        """See `SyncHttp1Connection.close`."""
        if self.is_open:
            self.is_open = False
            end_socket(self._sock)
            self._on_release(self)

    def _finish(self, stream: Http2Stream, outgoing: Outgoing[RequestBody]) -> None:
        outgoing.attempt.finish()
        try:
            self._send(self._session.close(stream), outgoing)
        except (TransportError, DeadlineExceededError):
            self.close()
            return
        if self._session.is_usable:
            self._on_release(self)
        else:
            self.close()

    def _send_body(self, stream: Http2Stream, outgoing: Outgoing[RequestBody]) -> None:
        body = outgoing.body
        if isinstance(body, bytes):
            self._send_all(stream, body, outgoing, end=True)
            return
        framer = Framer(outgoing.framing)
        for chunk in body:
            framer.count(chunk)
            if not self._send_all(stream, chunk, outgoing, end=False):
                return
        framer.end()
        self._send_all(stream, b"", outgoing, end=True)

    def _send_all(self, stream: Http2Stream, data: bytes, outgoing: Outgoing[RequestBody], *, end: bool) -> bool:
        """Send data as the peer's window allows; False when it has answered and wants no more."""
        rest = memoryview(data)
        while not stream.complete:
            is_last = len(rest) <= PIECE_BYTES
            taken, frames = self._session.send(stream, rest[:PIECE_BYTES], end=end and is_last)
            self._send(frames, outgoing)
            rest = rest[taken:]
            if not rest:
                return True
            if not taken:
                self._read(stream, outgoing, for_writing=True)
        return False

    def _send(self, data: bytes, outgoing: Outgoing[RequestBody]) -> None:
        self._limit(outgoing.timeouts.write, outgoing.attempt.deadline)
        try:
            self._sock.sendall(data)
        except TimeoutError as error:
            if outgoing.attempt.deadline is not None and time.monotonic() >= outgoing.attempt.deadline:
                raise DeadlineExceededError from error
            raise WriteTimeout("sending the request took too long") from error
        except GONE as error:
            raise WriteError(f"sending the request failed: {error}") from error

    def _read(self, stream: Http2Stream, outgoing: Outgoing[RequestBody], *, for_writing: bool = False) -> None:
        """Read once; `for_writing` until the peer takes more, which the write timeout bounds."""
        timeouts = outgoing.timeouts
        self._limit(timeouts.write if for_writing else timeouts.read, outgoing.attempt.deadline)
        try:
            data = self._sock.recv(_READ_BYTES)
        except TimeoutError as error:
            if outgoing.attempt.deadline is not None and time.monotonic() >= outgoing.attempt.deadline:
                raise DeadlineExceededError from error
            if for_writing:
                raise WriteTimeout("sending the request took too long") from error
            raise ReadTimeout("reading the response took too long") from error
        except GONE as error:
            if not is_broken_end(error):
                raise ReadError(f"reading the response failed: {error}") from error
            data = b""
        if not self.is_open:
            # Another thread is about to close it, and ssl may have handed out what is still encrypted.
            raise ReadError("the connection was closed")
        if data:
            self._send(self._session.feed(data), outgoing)
        else:
            self._session.fail(RemoteProtocolError("the peer closed the connection"))
        if stream.error is not None:
            raise stream.error

    def _limit(self, seconds: float | None, deadline: float | None) -> None:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise DeadlineExceededError
            if seconds is None or left < seconds:
                seconds = left
        try:
            self._sock.settimeout(seconds)
        except OSError as error:  # Another thread has closed it.
            raise ReadError("the connection was closed") from error


class _Body(SyncBody):
    """A response's body, read as it is asked for."""

    def __init__(self, connection: SyncHttp2Connection, stream: Http2Stream, outgoing: Outgoing[RequestBody]) -> None:
        self._connection = connection
        self._stream = stream
        self._outgoing = outgoing
        self._is_done = False

    def __iter__(self) -> Iterator[bytes]:
        connection, stream, trace = self._connection, self._stream, self._outgoing.trace
        try:
            if trace is not None:
                trace.tell(trace.receiving())
            while True:
                chunks, window = connection._session.take(stream)
                connection._send(window, self._outgoing)
                yield from chunks
                if stream.complete and not stream.chunks:
                    break
                connection._read(stream, self._outgoing)
        except DeadlineExceededError as error:
            failure = ReadTimeout("the route's timeout ran out while the response was read")
            self._break(failure)
            raise failure from error
        except BaseException as error:
            self._break(error)
            raise
        self.let_go()
        if trace is not None:
            trace.tell(trace.received())

    def _break(self, error: BaseException) -> None:
        self.let_go()
        if self._outgoing.trace is not None:
            self._outgoing.trace.tell(self._outgoing.trace.failed(error))

    def close(self) -> None:
        trace = self._outgoing.trace
        if trace is not None and not self._is_done:
            trace.tell(trace.left())
        self.let_go()

    def let_go(self) -> None:
        if not self._is_done:
            self._is_done = True
            self._connection._finish(self._stream, self._outgoing)
