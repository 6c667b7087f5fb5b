"""HTTP/1.1 without I/O: a request head to bytes, and bytes to a response (RFC 9112), over llhttp.

One `Http1Reader` serves one connection. Before each request `expect` says what is asked; then bytes are fed in, and
the reader shows what has come: `head_done`, `chunks`, `complete`. What a peer can send without bound (a head, trailers,
interim responses) is counted; a body is not, its reader holds the peer back.
"""

from __future__ import annotations

from collections.abc import Sequence

import httptools

from .connection_state import CUT_OFF, END, HEAD, LAST_END, STRAY, ConnectionState
from .errors import LocalProtocolError, ReadError, RemoteProtocolError, TransportError
from .request_rules import check_target

__all__ = ["Http1Reader", "encode_head"]

# The longest head, trailers or run of interim responses that is read. nginx and Envoy send 60 KiB at the most.
MAX_HEAD_BYTES = 256 * 1024

_VERSIONS = {"1.0": b"HTTP/1.0"}

Headers = Sequence[tuple[bytes, bytes]]


def encode_head(method: str, target: str, headers: Headers) -> bytes:
    """Request line and headers.

    Raises:
        LocalProtocolError: Something in them would begin a new line.
    """
    check_target(target)
    lines = [b"%b %b HTTP/1.1" % (method.encode("utf-8", "replace"), target.encode("ascii"))]
    lines += [b"%b: %b" % header for header in headers]
    lines.append(b"\r\n")
    head = b"\r\n".join(lines)
    # One count finds what a value smuggled in: a legal head has exactly the line breaks that were just put there.
    # Methods and names were looked at before (`request_rules`).
    breaks = len(lines)
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head:
        raise LocalProtocolError("illegal character in the request's method, target or headers")
    return head


class Http1Reader:
    """Responses of one connection, one after the other.

    Attributes:
        status: Of the final response; 0 until `head_done`.
        reason: The words beside it.
        headers: Of the final response, in order, names as sent.
        trailers: After a chunked body.
        chunks: Body that has come and was not taken yet.
        buffered: Its length in bytes.
        head_done: The final response's head is complete.
        complete: The response is complete.
        continue_received: A 100 (Continue) came.
        state: Of the connection; says whether another request may follow on it.
        is_silent: Nothing at all has come since the request was sent.
    """

    __slots__ = (
        "_interim",
        "_is_head_request",
        "_parser",
        "_silent_bytes",
        "buffered",
        "chunks",
        "complete",
        "continue_received",
        "head_done",
        "headers",
        "is_silent",
        "reason",
        "state",
        "status",
        "trailers",
    )

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._is_head_request = False
        self.state = ConnectionState()
        self._reset()
        # Nothing is expected yet, so whatever comes is unasked for.
        self.complete = True

    def _reset(self) -> None:
        self.status = 0
        self.reason = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.trailers: list[tuple[bytes, bytes]] = []
        self.chunks: list[bytes] = []
        self.buffered = 0
        self.head_done = False
        self.complete = False
        self.continue_received = False
        self.is_silent = True
        self._interim = False
        self._silent_bytes = 0

    def expect(self, method: str) -> None:
        """A request with this method is about to be sent.

        Raises:
            ReadError: The connection is not clean; what came or comes on it would be taken for the answer.
        """
        if not self.state.begin():
            raise ReadError("the connection is in use, or has more to say than was asked for")
        if self._is_head_request:
            # llhttp was left waiting for the body that a HEAD response only announces.
            self._parser = httptools.HttpResponseParser(self)
        self._reset()
        self._is_head_request = method == "HEAD"

    def feed(self, data: bytes) -> None:
        """Take bytes from the peer.

        Raises:
            RemoteProtocolError: They are not HTTP, not asked for, or too many for a head.
        """
        if self.complete:
            self.state.of_response(STRAY)
            raise RemoteProtocolError("the peer sent a response that nobody asked for")
        self.is_silent = False
        buffered = self.buffered
        try:
            if self._is_head_request:
                self._feed_lines(data)
            else:
                self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:
            raise RemoteProtocolError("the peer switched protocols; upgrades are not supported") from error
        except httptools.HttpParserError as error:
            if self.complete:
                # The response is whole and good; only what came after it is not.
                self.state.of_response(STRAY)
                return
            cause = error.__context__ if isinstance(error.__context__, TransportError) else error
            raise RemoteProtocolError(f"malformed response: {cause}") from error
        if self.buffered == buffered and not self.complete:
            self._silent_bytes += len(data)
            if self._silent_bytes > MAX_HEAD_BYTES:
                raise RemoteProtocolError(f"a response head or trailer section exceeds {MAX_HEAD_BYTES} bytes")
        else:
            self._silent_bytes = 0

    def _feed_lines(self, data: bytes) -> None:
        """Feed the head of a response to HEAD line by line, to see what comes after it: it is no body (RFC 9110
        section 9.3.2), and llhttp would wait for one."""
        start, size = 0, len(data)
        while start < size and not self.complete:
            stop = data.find(b"\n", start) + 1 or size
            self._parser.feed_data(data[start:stop])
            start = stop
        if start < size:
            self.state.of_response(STRAY)

    def feed_eof(self, *, is_whole: bool = True) -> None:
        """The peer closed its side.

        Args:
            is_whole: Whether it said so itself. Over TLS anybody on the way may close a connection, and the peer alone
                can send close_notify.

        Raises:
            RemoteProtocolError: In the middle of a response.
        """
        self.state.of_response(CUT_OFF)
        if self.complete:
            return
        if not self.head_done:
            raise RemoteProtocolError("the peer closed the connection without sending a response")
        if self._has_length():
            raise RemoteProtocolError("the peer closed the connection before the body was complete")
        if not is_whole:
            # RFC 9112 section 9.8: it has to be taken for incomplete.
            raise RemoteProtocolError(
                "the response ends with the connection, and the peer closed that without TLS's close_notify, so that"
                " part of the body may be missing; allow_missing_close_notify=True takes it all the same"
            )
        self.complete = True

    def take(self) -> list[bytes]:
        """The body that has come since the last call."""
        chunks, self.chunks, self.buffered = self.chunks, [], 0
        return chunks

    @property
    def version(self) -> bytes:
        """Of the final response's protocol."""
        return _VERSIONS.get(self._parser.get_http_version(), b"HTTP/1.1")

    def _has_length(self) -> bool:
        return any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in self.headers)

    # Called by llhttp.

    def on_message_begin(self) -> None:
        if self.complete:
            raise RemoteProtocolError("a second response follows the first")

    def on_status(self, words: bytes) -> None:
        self.reason += words

    def on_header(self, name: bytes, value: bytes) -> None:
        (self.trailers if self.head_done else self.headers).append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status == 101:
            raise RemoteProtocolError("the peer switched protocols; upgrades are not supported")
        if status < 200:
            self._interim = True
            self.continue_received = self.continue_received or status == 100
            return
        self.status = status
        self.head_done = True
        self.state.of_response(HEAD)
        if self._is_head_request:
            self._complete()

    def on_body(self, body: bytes) -> None:
        self.chunks.append(body)
        self.buffered += len(body)

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
            self.headers = []
            self.reason = b""
            return
        if not self.complete:
            self._complete()

    def _complete(self) -> None:
        self.complete = True
        self.state.of_response(END if self._parser.should_keep_alive() else LAST_END)
