"""A request, ready for a connection to send."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import httpx

from ..exchange import Attempt
from .request_body import AsyncRequestBody, RequestBody
from .timeouts import Timeouts

__all__ = ["Outgoing"]

B = TypeVar("B", RequestBody, AsyncRequestBody)


class Outgoing(Generic[B]):
    """What goes out in one attempt.

    Attributes:
        attempt: Gives the target and the mesh's deadline; it is finished when the response is read or given up.
        headers: The attempt's, and those that tracing adds.
        body: In memory, or a stream.
        timeouts: The caller's.
    """

    __slots__ = ("attempt", "body", "headers", "method", "scheme", "timeouts")

    def __init__(
        self,
        method: str,
        scheme: str,
        attempt: Attempt,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes | B,
        timeouts: Timeouts,
    ) -> None:
        self.method = method
        self.scheme = scheme
        self.attempt = attempt
        self.headers = headers
        self.body: bytes | B = body
        self.timeouts = timeouts

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
