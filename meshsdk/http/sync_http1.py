"""An HTTP/1.1 connection over a blocking socket. Its async twin is `async_http1`."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator

import httpx

from .errors import DeadlineExceededError
from .http1 import Http1Reader, encode_head
from .outgoing import CONTINUE_WAIT_SECONDS, Framer, Outgoing
from .raw_response import EMPTY_BODY, RawResponse
from .request_body import RequestBody

__all__ = ["SyncHttp1Connection"]

_READ_BYTES = 64 * 1024
_FRESH_SECONDS = 0.005


class SyncHttp1Connection:
    """One connection; used by one request at a time.

    Args:
        sock: Connected, TLS done.
        on_release: Called when the connection may serve another request, or is closed (see `is_open`).
    """

    __slots__ = (
        "_on_release",
        "_poll",
        "_receive_limit",
        "_send_limit",
        "_sock",
        "idle_since",
        "is_open",
        "reader",
        "requests",
    )

    def __init__(self, sock: socket.socket, on_release: Callable[[SyncHttp1Connection], None]) -> None:
        self._sock = sock
        self._on_release = on_release
        self._send_limit = _Limit(sock, socket.SO_SNDTIMEO)
        # Over TLS the two directions share one timeout, and so one memory of what it is.
        self._receive_limit = self._send_limit if isinstance(sock, ssl.SSLSocket) else _Limit(sock, socket.SO_RCVTIMEO)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self.reader = Http1Reader()
        self.is_open = True
        self.idle_since = 0.0
        self.requests = 0

    def is_usable(self) -> bool:
        """Whether an idle connection can take a request: a socket that has something to say was closed, or lies.

        One that was in use a moment ago is not asked: the look costs as much as sending.
        """
        if time.monotonic() - self.idle_since < _FRESH_SECONDS:
            return self.is_open
        return self.is_open and not self._poll.poll(0)

    def exchange(self, outgoing: Outgoing[RequestBody]) -> RawResponse:
        """Send a request and read the response's head.

        Raises:
            httpx.TransportError: What went wrong; the connection is closed.
            DeadlineExceededError: The mesh's deadline passed; the connection is closed.
        """
        self.requests += 1
        reader = self.reader
        try:
            head = encode_head(outgoing.method, outgoing.attempt.target, outgoing.headers)
            reader.expect(outgoing.method)
            body = outgoing.body
            if not body:
                self._send(head, outgoing)
            elif isinstance(body, bytes) and not outgoing.is_chunked and not outgoing.expects_continue:
                self._send(head + body, outgoing)
            else:
                self._send_streamed(head, outgoing)
            while not reader.head_done:
                self._read(outgoing)
        except BaseException:
            self.close()
            outgoing.attempt.finish()
            raise
        if reader.complete:
            content = b"".join(reader.take())
            self._finish(outgoing)
            body_stream: httpx.SyncByteStream = httpx.ByteStream(content) if content else EMPTY_BODY
        else:
            body_stream = _Body(self, outgoing)
        return RawResponse(reader.status, reader.headers, body_stream, b"HTTP/1.1", reader.trailers)

    def close(self) -> None:
        """Close the connection. From any thread; a request under way on it fails."""
        if self.is_open:
            self.is_open = False
            # Wakes a thread that waits for this socket; closing alone would not. The peer may have been faster.
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
            self._sock.close()
            self._on_release(self)

    def _finish(self, outgoing: Outgoing[RequestBody]) -> None:
        """The response is complete."""
        outgoing.attempt.finish()
        if self.reader.reusable and self.is_open:
            self._on_release(self)
        else:
            self.close()

    def _send_streamed(self, head: bytes, outgoing: Outgoing[RequestBody]) -> None:
        reader, framer = self.reader, Framer(outgoing)
        if outgoing.expects_continue:
            self._send(head, outgoing)
            head = b""
            self._await_continue(outgoing)
        body = outgoing.body
        try:
            for chunk in (body,) if isinstance(body, bytes) else body:
                if reader.head_done:
                    reader.reusable = False
                    return  # The peer has answered already; it will not read the rest.
                framed = framer.frame(chunk)
                if framed:
                    self._send(head + framed, outgoing)
                    head = b""
            if not reader.head_done:
                self._send(head + framer.end(), outgoing)
        except httpx.WriteError:
            # A peer may refuse a body, say so, and close: what it said is the answer.
            try:
                while not reader.head_done:
                    self._read(outgoing)
            except httpx.TransportError:
                pass
            if not reader.head_done:
                raise

    def _await_continue(self, outgoing: Outgoing[RequestBody]) -> None:
        reader = self.reader
        give_up = time.monotonic() + CONTINUE_WAIT_SECONDS
        while not reader.continue_received and not reader.head_done:
            wait = give_up - time.monotonic()
            if wait <= 0 or not self._poll.poll(wait * 1000):
                return
            self._read(outgoing)

    def _send(self, data: bytes, outgoing: Outgoing[RequestBody]) -> None:
        self._send_limit.apply(outgoing.timeouts.write, outgoing.attempt.deadline)
        try:
            self._sock.sendall(data)
        except (TimeoutError, BlockingIOError) as error:
            _check_deadline(outgoing.attempt.deadline)
            raise httpx.WriteTimeout("sending the request took too long") from error
        except OSError as error:
            raise httpx.WriteError(f"sending the request failed: {error}") from error

    def _read(self, outgoing: Outgoing[RequestBody]) -> None:
        """Read once and feed the reader."""
        self._receive_limit.apply(outgoing.timeouts.read, outgoing.attempt.deadline)
        try:
            data = self._sock.recv(_READ_BYTES)
        except (TimeoutError, BlockingIOError) as error:
            _check_deadline(outgoing.attempt.deadline)
            raise httpx.ReadTimeout("reading the response took too long") from error
        except OSError as error:
            raise httpx.ReadError(f"reading the response failed: {error}") from error
        if data:
            self.reader.feed(data)
        else:
            self.reader.feed_eof()


class _Limit:
    """How long operations of one direction may take.

    The kernel keeps the time (SO_RCVTIMEO, SO_SNDTIMEO): Python's own timeouts cost a poll before each operation. Over
    TLS, where an operation may need both directions, they are Python's all the same.
    """

    __slots__ = ("_option", "_seconds", "_sock")

    def __init__(self, sock: socket.socket, option: int) -> None:
        self._sock = sock
        self._option = option
        self._seconds: float | None = -1.0

    def apply(self, seconds: float | None, deadline: float | None) -> None:
        """Bound the next operation by the caller's timeout and the mesh's deadline.

        Raises:
            DeadlineExceededError: The deadline has passed.
        """
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise DeadlineExceededError
            if seconds is None or left < seconds:
                seconds = left
        if seconds == self._seconds:
            return
        self._seconds = seconds
        try:
            self._set(seconds)
        except OSError as error:
            raise httpx.ReadError(f"the connection was closed: {error}") from error

    def _set(self, seconds: float | None) -> None:
        if isinstance(self._sock, ssl.SSLSocket):
            self._sock.settimeout(seconds)
            return
        if self._sock.gettimeout() is not None:
            self._sock.settimeout(None)
        # A timeval of zero would mean no limit.
        micros = 0 if seconds is None else max(1000, int(seconds * 1e6))
        self._sock.setsockopt(socket.SOL_SOCKET, self._option, struct.pack("@ll", *divmod(micros, 1_000_000)))


def _check_deadline(deadline: float | None) -> None:
    if deadline is not None and time.monotonic() >= deadline:
        raise DeadlineExceededError


class _Body(httpx.SyncByteStream):
    """The rest of a response, read as it is asked for."""

    def __init__(self, connection: SyncHttp1Connection, outgoing: Outgoing[RequestBody]) -> None:
        self._connection = connection
        self._outgoing = outgoing
        self._is_done = False

    def __iter__(self) -> Iterator[bytes]:
        connection, reader = self._connection, self._connection.reader
        try:
            while True:
                yield from reader.take()
                if reader.complete:
                    break
                connection._read(self._outgoing)
        except DeadlineExceededError as error:
            self.close()
            raise httpx.ReadTimeout("the route's timeout ran out while the response was read") from error
        except BaseException:
            self.close()
            raise
        self._is_done = True
        connection._finish(self._outgoing)

    def close(self) -> None:
        if not self._is_done:
            self._is_done = True
            self._connection.close()
            self._outgoing.attempt.finish()
