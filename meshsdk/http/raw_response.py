"""What a connection hands up: a response's head, and its body whole or as a stream."""

from __future__ import annotations

import httpx

__all__ = ["RawResponse"]

Headers = list[tuple[bytes, bytes]]


class RawResponse:
    """A response as it came.

    Attributes:
        status: HTTP status.
        headers: Name and value pairs as sent.
        stream: The body.
        http_version: `HTTP/1.1` or `HTTP/2`.
        trailers: Those known by now; for a stream, complete when the stream ended.
    """

    __slots__ = ("headers", "http_version", "status", "stream", "trailers")

    def __init__(
        self,
        status: int,
        headers: Headers,
        stream: httpx.SyncByteStream | httpx.AsyncByteStream,
        http_version: bytes,
        trailers: Headers,
    ) -> None:
        self.status = status
        self.headers = headers
        self.stream = stream
        self.http_version = http_version
        self.trailers = trailers

    def header(self, name: str) -> str | None:
        """A header's value by lower-case name, several joined with commas; None where it is missing."""
        wanted = name.encode("latin-1")
        values = [value for key, value in self.headers if key.lower() == wanted]
        return b",".join(values).decode("latin-1") if values else None

    def let_go(self) -> None:
        """Nobody wants it: what is left of its body is not read. At once, also for async bodies, so that nothing can
        come between, and doing so again does nothing."""
        if isinstance(self.stream, Releasable):
            self.stream.let_go()


class Releasable:
    """A body that is still coming."""

    def let_go(self) -> None:
        """Stop reading it, and give back what it holds."""
        raise NotImplementedError


EMPTY_BODY = httpx.ByteStream(b"")
