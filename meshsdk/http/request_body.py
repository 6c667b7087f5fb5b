"""Request bodies, and whether they can be sent once more.

A body that httpx holds in memory is sent as often as needed. One that is streamed is recorded as it goes out, up to
Envoy's default buffer (per_request_buffer_limit_bytes, 1 MiB); beyond that the request cannot be retried.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from .shapes import Request

__all__ = ["AsyncRequestBody", "RequestBody", "content_of"]

MAX_RECORDED_BYTES = 1 << 20


def content_of(request: Request) -> bytes | None:
    """The whole body where httpx has it in memory; None for a stream."""
    try:
        return request.content
    except RuntimeError:  # Each library has a kind of its own, which says that nobody has read it.
        return None


class _Recording:
    """What was sent of a streamed body."""

    __slots__ = ("_chunks", "_size", "can_replay")

    def __init__(self, *, record: bool) -> None:
        self._chunks: list[bytes] = []
        self._size = 0
        self.can_replay = record

    def add(self, chunk: bytes) -> None:
        if self.can_replay:
            self._size += len(chunk)
            self._chunks.append(chunk)
            if self._size > MAX_RECORDED_BYTES:
                self.can_replay = False
                self._chunks.clear()

    def sent_before(self) -> list[bytes]:
        return list(self._chunks)


class RequestBody:
    """A streamed body of a sync client.

    Args:
        request: Its stream is read once.
        record: Whether a retry may come.
    """

    __slots__ = ("_recording", "_rest", "_stream", "error")

    def __init__(self, request: Request, *, record: bool) -> None:
        if not hasattr(request.stream, "__iter__"):
            raise RuntimeError("an async request body was given to a sync client")
        self._stream = request.stream
        self._recording = _Recording(record=record)
        self._rest: Iterator[bytes] | None = None
        self.error: BaseException | None = None

    @property
    def can_replay(self) -> bool:
        """Whether the body can be sent from its beginning (again)."""
        return self._rest is None or (self._recording.can_replay and self.error is None)

    def whole(self, limit: int) -> bytes:
        """All of it, or somewhat more than `limit` bytes of a longer one."""
        read = bytearray()
        for chunk in self._stream:
            read += chunk
            if len(read) > limit:
                break
        return bytes(read)

    def __iter__(self) -> Iterator[bytes]:
        yield from self._recording.sent_before()
        try:
            if self._rest is None:
                self._rest = iter(self._stream)
            for chunk in self._rest:
                self._recording.add(chunk)
                yield chunk
        except GeneratorExit:
            raise
        except BaseException as error:
            self.error = error
            raise


class AsyncRequestBody:
    """A streamed body of an async client.

    Args:
        request: Its stream is read once.
        record: Whether a retry may come.
    """

    __slots__ = ("_recording", "_rest", "_stream", "error")

    def __init__(self, request: Request, *, record: bool) -> None:
        if not hasattr(request.stream, "__aiter__"):
            raise RuntimeError("a sync request body was given to an async client")
        self._stream = request.stream
        self._recording = _Recording(record=record)
        self._rest: AsyncIterator[bytes] | None = None
        self.error: BaseException | None = None

    @property
    def can_replay(self) -> bool:
        """Whether the body can be sent from its beginning (again)."""
        return self._rest is None or (self._recording.can_replay and self.error is None)

    async def whole(self, limit: int) -> bytes:
        """All of it, or somewhat more than `limit` bytes of a longer one."""
        read = bytearray()
        async for chunk in self._stream:
            read += chunk
            if len(read) > limit:
                break
        return bytes(read)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._recording.sent_before():
            yield chunk
        try:
            if self._rest is None:
                self._rest = aiter(self._stream)
            async for chunk in self._rest:
                self._recording.add(chunk)
                yield chunk
        except GeneratorExit:
            raise
        except BaseException as error:
            self.error = error
            raise
