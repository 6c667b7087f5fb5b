"""A request, ready for a connection to send."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import httpx

from .request_body import AsyncRequestBody, RequestBody
from .timeouts import Timeouts

__all__ = ["Outgoing"]

B = TypeVar("B", RequestBody, AsyncRequestBody)


class Outgoing(Generic[B]):
    """What goes out in one attempt.

    Attributes:
        body: In memory, or a stream.
        timeouts: The caller's.
        deadline: The mesh's, on the engine's clock; None is no limit.
        on_done: Called once when the response is read or given up.
    """

    __slots__ = ("body", "deadline", "headers", "method", "on_done", "scheme", "target", "timeouts")

    def __init__(
        self,
        method: str,
        scheme: str,
        target: str,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes | B,
        timeouts: Timeouts,
        deadline: float | None,
        on_done: Callable[[], None],
    ) -> None:
        self.method = method
        self.scheme = scheme
        self.target = target
        self.headers = headers
        self.body: bytes | B = body
        self.timeouts = timeouts
        self.deadline = deadline
        self.on_done = on_done

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, by lower-case name."""
        for key, value in self.headers:
            if key.lower() == name:
                return value
        return None

    @property
    def is_chunked(self) -> bool:
        """Whether the body goes out in chunks (RFC 9112 section 7.1)."""
        coding = self.header(b"transfer-encoding")
        return coding is not None and coding.strip().lower().endswith(b"chunked")

    @property
    def expects_continue(self) -> bool:
        """Whether the body waits for a 100 (RFC 9110 section 10.1.1)."""
        expect = self.header(b"expect")
        return expect is not None and expect.strip().lower() == b"100-continue"


class Framer:
    """Frames the chunks of a streamed HTTP/1.1 body, and sees that they are as long as announced."""

    __slots__ = ("_chunked", "_left")

    def __init__(self, outgoing: Outgoing[B]) -> None:
        self._chunked = outgoing.is_chunked
        length = outgoing.header(b"content-length")
        self._left = int(length) if length is not None and not self._chunked and length.isdigit() else None

    def frame(self, chunk: bytes) -> bytes:
        """One chunk as it goes on the wire.

        Raises:
            httpx.LocalProtocolError: There is more body than Content-Length says.
        """
        if self._chunked:
            return b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunk else b""
        if self._left is not None:
            self._left -= len(chunk)
            if self._left < 0:
                raise httpx.LocalProtocolError("the request's body is longer than its Content-Length")
        return chunk

    def end(self) -> bytes:
        """What ends the body.

        Raises:
            httpx.LocalProtocolError: There is less body than Content-Length says.
        """
        if self._left:
            raise httpx.LocalProtocolError("the request's body is shorter than its Content-Length")
        return b"0\r\n\r\n" if self._chunked else b""


# How long a body waits for 100 (Continue) before it is sent all the same (RFC 9110: "SHOULD NOT wait indefinitely").
CONTINUE_WAIT_SECONDS = 1.0
