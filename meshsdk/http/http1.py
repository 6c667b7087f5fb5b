"""HTTP/1.1 without I/O: a request head to bytes, and bytes to a response (RFC 9112), over llhttp.

One `Http1Reader` serves one connection. Before each request `expect` says what is asked; then bytes are fed in, and
the reader shows what has come: `head_done`, `chunks`, `complete`. What a peer can send without bound (a head, trailers,
interim responses) is counted; a body is not, its reader holds the peer back.
"""

from __future__ import annotations

from collections.abc import Sequence

import httptools
import httpx

__all__ = ["Http1Reader", "encode_head"]

# The longest head, trailers or run of interim responses that is read. nginx and Envoy send 60 KiB at the most.
MAX_HEAD_BYTES = 256 * 1024

Headers = Sequence[tuple[bytes, bytes]]


def encode_head(method: str, target: str, headers: Headers) -> bytes:
    """Request line and headers.

    Raises:
        httpx.LocalProtocolError: Something in them would begin a new line.
    """
    try:
        lines = [b"%b %b HTTP/1.1" % (method.encode("ascii"), target.encode("ascii"))]
    except UnicodeEncodeError as error:
        raise httpx.LocalProtocolError(f"the request's method or target is not ASCII: {error.object!r}") from error
    lines += [b"%b: %b" % header for header in headers]
    lines.append(b"\r\n")
    head = b"\r\n".join(lines)
    # One count finds what a value smuggled in: a legal head has exactly the line breaks that were just put there.
    breaks = len(lines)
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head or " " in target:
        raise httpx.LocalProtocolError("illegal character in the request's method, target or headers")
    return head


class Http1Reader:
    """Responses of one connection, one after the other.

    Attributes:
        status: Of the final response; 0 until `head_done`.
        headers: Of the final response, in order, names as sent.
        trailers: After a chunked body.
        chunks: Body that has come and was not taken yet.
        buffered: Its length in bytes.
        head_done: The final response's head is complete.
        complete: The response is complete.
        continue_received: A 100 (Continue) came.
        reusable: After `complete`: another request may follow on the connection.
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
        "reusable",
        "status",
        "trailers",
    )

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._is_head_request = False
        self._reset()
        # Nothing is expected yet, so whatever comes is unasked for.
        self.complete = True
        self.reusable = True

    def _reset(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.trailers: list[tuple[bytes, bytes]] = []
        self.chunks: list[bytes] = []
        self.buffered = 0
        self.head_done = False
        self.complete = False
        self.continue_received = False
        self.reusable = False
        self.is_silent = True
        self._interim = False
        self._silent_bytes = 0

    def expect(self, method: str) -> None:
        """A request with this method is about to be sent."""
        if self._is_head_request:
            # llhttp was left waiting for the body that a HEAD response only announces.
            self._parser = httptools.HttpResponseParser(self)
        self._reset()
        self._is_head_request = method == "HEAD"

    def feed(self, data: bytes) -> None:
        """Take bytes from the peer.

        Raises:
            httpx.RemoteProtocolError: They are not HTTP, not asked for, or too many for a head.
        """
        if self.complete:
            self.reusable = False
            raise httpx.RemoteProtocolError("the peer sent a response that nobody asked for")
        self.is_silent = False
        buffered = self.buffered
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:
            raise httpx.RemoteProtocolError("the peer switched protocols; upgrades are not supported") from error
        except httptools.HttpParserError as error:
            if self.complete and not self._is_head_request:
                # The response is whole and good; only what came after it is not.
                self.reusable = False
                return
            cause = error.__context__ if isinstance(error.__context__, httpx.HTTPError) else error
            raise httpx.RemoteProtocolError(f"malformed response: {cause}") from error
        if self.buffered == buffered and not self.complete:
            self._silent_bytes += len(data)
            if self._silent_bytes > MAX_HEAD_BYTES:
                raise httpx.RemoteProtocolError(f"a response head or trailer section exceeds {MAX_HEAD_BYTES} bytes")
        else:
            self._silent_bytes = 0

    def feed_eof(self) -> None:
        """The peer closed its side.

        Raises:
            httpx.RemoteProtocolError: In the middle of a response.
        """
        self.reusable = False
        if self.complete:
            return
        if not self.head_done:
            raise httpx.RemoteProtocolError("the peer closed the connection without sending a response")
        if self._has_length():
            raise httpx.RemoteProtocolError("the peer closed the connection before the body was complete")
        self.complete = True

    def take(self) -> list[bytes]:
        """The body that has come since the last call."""
        chunks, self.chunks, self.buffered = self.chunks, [], 0
        return chunks

    def _has_length(self) -> bool:
        return any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in self.headers)

    # Called by llhttp.

    def on_message_begin(self) -> None:
        if self.complete:
            self.reusable = False
            raise httpx.RemoteProtocolError("a second response follows the first")

    def on_header(self, name: bytes, value: bytes) -> None:
        (self.trailers if self.head_done else self.headers).append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status == 101:
            raise httpx.RemoteProtocolError("the peer switched protocols; upgrades are not supported")
        if status < 200:
            self._interim = True
            self.continue_received = self.continue_received or status == 100
            return
        self.status = status
        self.head_done = True
        if self._is_head_request:
            self.complete = True
            self.reusable = self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        if self._is_head_request:
            self.reusable = False
            raise httpx.RemoteProtocolError("a response to HEAD has a body")
        self.chunks.append(body)
        self.buffered += len(body)

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
            self.headers = []
            return
        if not self.complete:
            self.complete = True
            self.reusable = self._parser.should_keep_alive()
