"""What a connection hands up: a response's head, and its body whole or as a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, Protocol

from .network_stream import NetworkStream

__all__ = ["AsyncBody", "RawResponse", "SyncBody"]

Headers = list[tuple[bytes, bytes]]


class RawResponse:
    """A response as it came.

    Attributes:
        status: HTTP status.
        headers: Name and value pairs as sent.
        stream: The body, where it has come whole; or what it is read from.
        http_version: `HTTP/1.1`, `HTTP/1.0` or `HTTP/2`.
        trailers: Those known by now; for a stream, complete when the stream ended.
        network_stream: Tells of the connection.
        reason: HTTP/1's words for the status; None where the protocol has none.
        stream_id: HTTP/2's; None for HTTP/1.
    """

    __slots__ = ("headers", "http_version", "network_stream", "reason", "status", "stream", "stream_id", "trailers")

    def __init__(
        self,
        status: int,
        headers: Headers,
        stream: bytes | SyncBody | AsyncBody,
        http_version: bytes,
        trailers: Headers,
        network_stream: NetworkStream | None = None,
        reason: bytes | None = None,
        stream_id: int | None = None,
    ) -> None:
        self.status = status
        self.headers = headers
        self.stream: Any = stream
        self.http_version = http_version
        self.trailers = trailers
        self.network_stream = network_stream
        self.reason = reason
        self.stream_id = stream_id

    @property
    def extensions(self) -> dict[str, Any]:
        """What httpx's response says of it, in the words of httpcore."""
        told: dict[str, Any] = {
            "http_version": self.http_version,
            # Complete when the body is read, since trailers come after it.
            "trailing_headers": self.trailers,
            "network_stream": self.network_stream,
        }
        if self.reason is not None:
            told["reason_phrase"] = self.reason
        else:
            told["stream_id"] = self.stream_id
        return told

    @property
    def body(self) -> Iterable[bytes]:
        """A sync connection's body, piece by piece."""
        return (self.stream,) if type(self.stream) is bytes else self.stream

    def header(self, name: str) -> str | None:
        """A header's value by lower-case name, several joined with commas; None where it is missing."""
        wanted = name.encode("latin-1")
        values = [value for key, value in self.headers if key.lower() == wanted]
        return b",".join(values).decode("latin-1") if values else None

    def let_go(self) -> None:
        """Nobody wants it: what is left of its body is not read. At once, also for async bodies, so that nothing can
        come between, and doing so again does nothing."""
        if type(self.stream) is not bytes:
            self.stream.let_go()


class SyncBody(Protocol):
    """A body that is still coming."""

    def __iter__(self) -> Iterator[bytes]:
        """Its pieces."""

    def close(self) -> None:
        """Nobody reads on."""

    def let_go(self) -> None:
        """Stop reading it, and give back what it holds."""


class AsyncBody(Protocol):
    """`SyncBody` for asyncio."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Its pieces."""

    async def aclose(self) -> None:
        """Nobody reads on."""

    def let_go(self) -> None:
        """Stop reading it, and give back what it holds."""
