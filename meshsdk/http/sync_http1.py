"""An HTTP/1.1 connection over a blocking socket. Its async twin is `async_http1`."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from .connection_state import ALL_SENT, GIVEN_UP
from .errors import DeadlineExceededError, ReadError, ReadTimeout, TransportError, WriteError, WriteTimeout
from .http1 import Http1Reader
from .network_stream import NetworkStream
from .outgoing import CONTINUE_WAIT_SECONDS, Outgoing
from .pool_rules import address_of
from .raw_response import RawResponse, SyncBody
from .request_body import RequestBody
from .request_rules import Framer
from .sync_socket import GONE, end_socket, is_broken_end

__all__ = ["SyncHttp1Connection"]

_READ_BYTES = 64 * 1024
# What is as short as this goes out in one piece, though it must be copied together first.
_JOINED_BYTES = 16 * 1024
_TLS_BYTES = 256 * 1024

# What a time that is left over is shortened to when the kernel is told of it, and how short one may be that stands.
_SHORTENED = 0.9
_SHORTEST = 0.5

A = TypeVar("A")
R = TypeVar("R")


class SyncHttp1Connection:
    """One connection; used by one request at a time.

    Args:
        sock: Connected, TLS done.
        on_release: Called when the connection may serve another request, or is closed (see `is_open`).
        must_be_told: A body that ends with a TLS connection is whole only where the peer said that it closes.
        holds: A response that has come whole keeps the connection until it is read or closed.
    """

    __slots__ = (
        "_holds",
        "_is_tls",
        "_must_be_told",
        "_on_release",
        "_poll",
        "_receive_limit",
        "_send_limit",
        "_sock",
        "idle_since",
        "is_open",
        "network_stream",
        "own_address",
        "reader",
        "requests",
    )

    def __init__(
        self,
        sock: socket.socket,
        on_release: Callable[[SyncHttp1Connection], None],
        *,
        must_be_told: bool = True,
        holds: bool = False,
    ) -> None:
        self._sock = sock
        self._on_release = on_release
        self._is_tls = isinstance(sock, ssl.SSLSocket)
        self._must_be_told = must_be_told
        self._holds = holds
        self._send_limit = _Limit(sock, socket.SO_SNDTIMEO)
        # Over TLS the two directions share one timeout, and so one memory of what it is.
        self._receive_limit = self._send_limit if self._is_tls else _Limit(sock, socket.SO_RCVTIMEO)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self.reader = Http1Reader()
        self.is_open = True
        self.idle_since = 0.0
        self.requests = 0
        self.own_address = address_of(sock.getsockname())
        self.network_stream = NetworkStream(sock, sock if isinstance(sock, ssl.SSLSocket) else None)

    def is_usable(self) -> bool:
        """Whether an idle connection can take a request. A socket that has something to say was closed, or would
        answer a request that has not been sent, however short the time since it was used."""
        return self.is_open and not self._poll.poll(0)

    def exchange(self, outgoing: Outgoing[RequestBody]) -> RawResponse:
        """Send a request and read the response's head.

        Raises:
            TransportError: What went wrong; the connection is closed.
            DeadlineExceededError: The mesh's deadline passed; the connection is closed.
        """
        self.requests += 1
        reader, trace = self.reader, outgoing.trace
        try:
            head = outgoing.http1_head()
            reader.expect(outgoing.method)
            if trace is not None:
                trace.tell(trace.sending("http11"))
            body = outgoing.body
            if isinstance(body, bytes) and not outgoing.framing.is_chunked and not outgoing.framing.expects_continue:
                self._send_whole(head, body, outgoing)
            else:
                self._send_streamed(head, outgoing)
            if trace is not None:
                trace.tell(trace.sent())
            while not reader.head_done:
                self._read(outgoing)
            if trace is not None:
                trace.tell(trace.end((reader.version, reader.status, reader.reason, reader.headers)))
        except BaseException as error:
            self.close()
            outgoing.attempt.finish()
            if trace is not None:
                trace.tell(trace.failed(error))
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
        """Close the connection. From any thread; a request under way on it fails."""
        if self.is_open:
            self.is_open = False
            end_socket(self._sock)
            self._on_release(self)

    def _finish(self, outgoing: Outgoing[RequestBody]) -> None:
        """The response is complete."""
        outgoing.attempt.finish()
        if self.reader.state.may_serve_again and self.is_open:
            self._on_release(self)
        else:
            self.close()

    def _send_whole(self, head: bytes, body: bytes, outgoing: Outgoing[RequestBody]) -> None:
        state = self.reader.state
        if not body:
            self._send(head, outgoing)
            state.of_request(ALL_SENT)
            return
        try:
            self._send_pieces([head, body], outgoing)
            state.of_request(ALL_SENT)
        except (WriteError, WriteTimeout) as error:
            self._read_refusal(outgoing, error)
            state.of_request(GIVEN_UP)

    def _send_streamed(self, head: bytes, outgoing: Outgoing[RequestBody]) -> None:
        framing = outgoing.framing
        reader, framer, body = self.reader, Framer(framing), outgoing.body
        if framing.expects_continue and body:
            self._send(head, outgoing)
            head = b""
            self._await_continue(outgoing)
        try:
            for chunk in (body,) if isinstance(body, bytes) else body:
                if reader.head_done:
                    break  # The peer has answered already; it will not read the rest.
                if chunk:
                    self._send_pieces(framer.frame(head, chunk), outgoing)
                    head = b""
            if not reader.head_done:
                self._send(head + framer.end(), outgoing)
                reader.state.of_request(ALL_SENT)
                return
        except (WriteError, WriteTimeout) as error:
            if not isinstance(body, bytes) and error is body.error:
                raise
            self._read_refusal(outgoing, error)
        reader.state.of_request(GIVEN_UP)

    def _read_refusal(self, outgoing: Outgoing[RequestBody], error: TransportError) -> None:
        """A peer may refuse a body, say so, and read no more or close: what it said is the answer."""
        reader = self.reader
        # A peer that is only slow gets no more time: what it has said is there, or it has said nothing.
        seconds = None if isinstance(error, WriteError) else 0.0
        with contextlib.suppress(TransportError):
            while not reader.head_done and (seconds is None or self._poll.poll(0)):
                self._read(outgoing, seconds)
        if not reader.head_done:
            raise error

    def _await_continue(self, outgoing: Outgoing[RequestBody]) -> None:
        reader = self.reader
        give_up = time.monotonic() + CONTINUE_WAIT_SECONDS
        while not reader.continue_received and not reader.head_done:
            wait = give_up - time.monotonic()
            if wait <= 0 or not self._poll.poll(wait * 1000):
                return
            self._read(outgoing)

    def _send(self, data: bytes | memoryview, outgoing: Outgoing[RequestBody]) -> None:
        limit = self._send_limit
        limit.apply(outgoing.timeouts.write, outgoing.attempt.deadline)
        try:
            if not limit.is_of_kernel:
                self._sock.sendall(data)
                return
            while (sent := limit.bound(self._sock.send, data)) < len(data):
                data = memoryview(data)[sent:]
        except (TimeoutError, BlockingIOError) as error:
            _check_deadline(outgoing.attempt.deadline)
            raise WriteTimeout("sending the request took too long") from error
        except GONE as error:
            raise WriteError(f"sending the request failed: {error}") from error

    def _send_pieces(self, pieces: list[bytes], outgoing: Outgoing[RequestBody]) -> None:
        """Send what belongs together. A large body is not copied for it."""
        if sum(map(len, pieces)) <= _JOINED_BYTES:
            self._send(b"".join(pieces), outgoing)
        elif self._is_tls:
            # In parts, since each has the write timeout for itself.
            for whole in pieces:
                piece = memoryview(whole)
                for start in range(0, len(piece), _TLS_BYTES):
                    self._send(piece[start : start + _TLS_BYTES], outgoing)
        else:
            self._send_at_once(pieces, outgoing)

    def _send_at_once(self, pieces: list[bytes], outgoing: Outgoing[RequestBody]) -> None:
        self._send_limit.apply(outgoing.timeouts.write, outgoing.attempt.deadline)
        try:
            sent = self._send_limit.bound(self._sock.sendmsg, pieces)
        except (TimeoutError, BlockingIOError) as error:
            _check_deadline(outgoing.attempt.deadline)
            raise WriteTimeout("sending the request took too long") from error
        except GONE as error:
            raise WriteError(f"sending the request failed: {error}") from error
        for piece in pieces:
            if sent < len(piece):
                self._send(memoryview(piece)[sent:], outgoing)
            sent = max(0, sent - len(piece))

    def _read(self, outgoing: Outgoing[RequestBody], seconds: float | None = None) -> None:
        """Read once and feed the reader, as long as the caller's timeout says, or so many seconds."""
        limit = outgoing.timeouts.read if seconds is None else seconds
        self._receive_limit.apply(limit, outgoing.attempt.deadline)
        is_whole = True
        try:
            data = self._receive_limit.bound(self._sock.recv, _READ_BYTES)
        except (TimeoutError, BlockingIOError) as error:
            _check_deadline(outgoing.attempt.deadline)
            raise ReadTimeout("reading the response took too long") from error
        except GONE as error:
            if not is_broken_end(error):
                raise ReadError(f"reading the response failed: {error}") from error
            data, is_whole = b"", not self._must_be_told
        if not self.is_open:
            # Another thread is about to close it, and ssl may have handed out what is still encrypted.
            raise ReadError("the connection was closed")
        if data:
            self.reader.feed(data)
        else:
            self.reader.feed_eof(is_whole=is_whole)


class _Limit:
    """How long operations of one direction may take.

    The kernel keeps the time (SO_RCVTIMEO, SO_SNDTIMEO): Python's own timeouts cost a poll before each operation. Over
    TLS, where an operation may need both directions, they are Python's all the same, and so they are where something
    stands in for the socket that waits in a way of its own: gevent's lets other greenlets run meanwhile.

    To tell the kernel of a time is a call of its own, and what is left of a route's timeout is another time for each
    request. So it is told of somewhat less, which then stands for many requests, and an operation that ends before
    its time is begun again.

    Attributes:
        is_of_kernel: The kernel keeps the time.
    """

    __slots__ = ("_option", "_set", "_sock", "_until", "is_of_kernel")

    def __init__(self, sock: socket.socket, option: int) -> None:
        self._sock = sock
        self._option = option
        self.is_of_kernel = not isinstance(sock, ssl.SSLSocket) and _blocks(sock)
        self._set: float | None = -1.0
        self._until: float | None = None

    def apply(self, seconds: float | None, deadline: float | None) -> None:
        """Bound the next operation by the caller's timeout and the mesh's deadline.

        Raises:
            DeadlineExceededError: The deadline has passed.
        """
        is_left_over = False
        now = time.monotonic()
        if deadline is not None:
            left = deadline - now
            if left <= 0:
                raise DeadlineExceededError
            if seconds is None or left < seconds:
                seconds, is_left_over = left, True
        self._until = None if seconds is None else now + seconds
        if seconds == self._set:
            return
        if self.is_of_kernel and seconds is not None:
            if self._set is not None and seconds * _SHORTEST <= self._set <= seconds:
                return
            if is_left_over:
                seconds *= _SHORTENED
        self._tell(seconds)

    def bound(self, operation: Callable[[A], R], argument: A) -> R:
        """Carry out an operation in the time that was applied."""
        while True:
            try:
                return operation(argument)
            except (TimeoutError, BlockingIOError):
                if not self.is_of_kernel or self._until is None:
                    raise
                left = self._until - time.monotonic()
                if left <= 0:
                    raise
                self._tell(left)

    def _tell(self, seconds: float | None) -> None:
        self._set = seconds
        try:
            if not self.is_of_kernel:
                self._sock.settimeout(seconds if seconds is None else max(0.001, seconds))
                return
            # A timeval of zero would mean no limit.
            micros = 0 if seconds is None else max(1000, int(seconds * 1e6))
            self._sock.setsockopt(socket.SOL_SOCKET, self._option, struct.pack("@ll", *divmod(micros, 1_000_000)))
        except OSError as error:
            raise ReadError(f"the connection was closed: {error}") from error


def _blocks(sock: socket.socket) -> bool:
    """Whether a socket without a timeout waits in the kernel."""
    sock.settimeout(None)
    return os.get_blocking(sock.fileno())


def _check_deadline(deadline: float | None) -> None:
    if deadline is not None and time.monotonic() >= deadline:
        raise DeadlineExceededError


class _Body(SyncBody):
    """The rest of a response, read as it is asked for."""

    def __init__(self, connection: SyncHttp1Connection, outgoing: Outgoing[RequestBody]) -> None:
        self._connection = connection
        self._outgoing = outgoing
        self._is_done = False

    def __iter__(self) -> Iterator[bytes]:
        connection, reader, trace = self._connection, self._connection.reader, self._outgoing.trace
        if self._is_done:
            return
        try:
            if trace is not None:
                trace.tell(trace.receiving())
            while True:
                is_last = reader.complete
                yield from reader.take()
                if self._is_done:
                    return  # Closed with a chunk in hand; the connection may be another request's by now.
                if is_last:
                    break
                connection._read(self._outgoing)
        except DeadlineExceededError as error:
            failure = ReadTimeout("the route's timeout ran out while the response was read")
            self._break(failure)
            raise failure from error
        except BaseException as error:
            self._break(error)
            raise
        self._is_done = True
        connection._finish(self._outgoing)
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
            if self._connection.reader.complete:
                self._connection._finish(self._outgoing)
            else:
                self._connection.close()
                self._outgoing.attempt.finish()
