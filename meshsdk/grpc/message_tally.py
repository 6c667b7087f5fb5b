"""How many messages of a call went each way, and how large they were.

grpc-core tells nobody what it has sent, so a message counts as long as it is without compression, with the five bytes
before it (gRPC PROTOCOL-HTTP2, Length-Prefixed-Message).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from ..telemetry.peer_metadata import METADATA_HEADER, METADATA_ID_HEADER, OVER_GRPC_HEADER

__all__ = ["OF_MESH", "REQUEST_LINE", "STATUS_LINE", "MessageTally", "size_of_metadata"]

# A POST, but for its method's path; "HTTP/1.1 200 OK\r\n", the empty line and the status.
REQUEST_LINE, STATUS_LINE = 20, 37

# Metadata that are neither the caller's nor the server's, but between their meshes.
OF_MESH = tuple(name.decode() for name in (METADATA_ID_HEADER, METADATA_HEADER, OVER_GRPC_HEADER))

_PREFIX = 5


def size_of_metadata(metadata: Iterable[tuple[str, str | bytes]] | None) -> int:
    """Names and values, as HTTP/1.1 would write them."""
    return sum(len(entry[0]) + len(entry[1]) + 4 for entry in metadata or ())


def _size_of(message: Any) -> int:
    if isinstance(message, (bytes, bytearray, memoryview, str)):
        return len(message) + _PREFIX
    measure = getattr(message, "ByteSize", None)
    return _PREFIX + (measure() if measure is not None else 0)


class MessageTally:
    """Of one call.

    Attributes:
        requests, responses: How many.
        request_bytes, response_bytes: Of all of them, and of what the call's owner adds.
    """

    __slots__ = ("request_bytes", "requests", "response_bytes", "responses")

    def __init__(self) -> None:
        self.requests = self.responses = self.request_bytes = self.response_bytes = 0

    def add_request(self, message: Any) -> None:
        """A request goes."""
        self.requests += 1
        self.request_bytes += _size_of(message)

    def add_response(self, message: Any) -> None:
        """A response comes."""
        self.responses += 1
        self.response_bytes += _size_of(message)

    def requests_of(self, given: Any, *, is_stream: bool) -> Any:
        """The requests of a call, counted as they go: a message, or what gives messages."""
        if not is_stream:
            self.add_request(given)
            return given
        if hasattr(given, "__aiter__"):
            return self._async_requests(given)
        return _Counted(iter(given), self) if hasattr(given, "__iter__") else given

    async def _async_requests(self, given: Any) -> AsyncIterator[Any]:
        async for message in given:
            self.add_request(message)
            yield message


class _Counted(Iterator[Any]):
    """Messages, counted as they are taken; several threads may take them, as from grpc's own iterator."""

    def __init__(self, messages: Iterator[Any], tally: MessageTally) -> None:
        self._messages = messages
        self._tally = tally

    def __next__(self) -> Any:
        message = next(self._messages)
        self._tally.add_request(message)
        return message
