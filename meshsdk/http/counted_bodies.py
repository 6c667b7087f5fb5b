"""Bodies whose bytes are counted as they pass."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx

from .endings import flag_of_broken_body

__all__ = ["counted_request", "counted_response"]

Count = Callable[[int], None]
End = Callable[[str], None]

_Stream = httpx.SyncByteStream | httpx.AsyncByteStream

# A caller that closes a response that it has not read has left.
_LEFT = "DC"


def counted_request(stream: _Stream, count: Count) -> _Stream:
    """A request's body."""
    is_sync, is_async = isinstance(stream, httpx.SyncByteStream), isinstance(stream, httpx.AsyncByteStream)
    if is_sync and is_async:
        return _EitherRequest(stream, count)
    return _Request(stream, count) if is_sync else _AsyncRequest(stream, count)


def counted_response(stream: _Stream, count: Count, end: End, *, is_http2: bool) -> _Stream:
    """A response's body; `end` is told the response flag when it is read, broken off or given up."""
    if isinstance(stream, httpx.SyncByteStream):
        return _Response(stream, count, end, is_http2)
    return _AsyncResponse(stream, count, end, is_http2)


class _Counted:
    def __init__(self, stream: Any, count: Count) -> None:
        self._stream = stream
        self._count = count


class _Request(_Counted, httpx.SyncByteStream):
    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            self._count(len(chunk))
            yield chunk

    def close(self) -> None:
        self._stream.close()


class _AsyncRequest(_Counted, httpx.AsyncByteStream):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            self._count(len(chunk))
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


class _EitherRequest(_Request, _AsyncRequest):
    """Of a multipart form, which clients of either kind send."""


class _Response(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, count: Count, end: End, is_http2: bool) -> None:
        self._stream = stream
        self._count = count
        self._end = end
        self._is_http2 = is_http2

    def __iter__(self) -> Iterator[bytes]:
        try:
            for chunk in self._stream:
                self._count(len(chunk))
                yield chunk
        except GeneratorExit:
            self._end(_LEFT)
            raise
        except BaseException as error:
            self._end(flag_of_broken_body(error, is_http2=self._is_http2))
            raise
        self._end("")

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            self._end(_LEFT)


class _AsyncResponse(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, count: Count, end: End, is_http2: bool) -> None:
        self._stream = stream
        self._count = count
        self._end = end
        self._is_http2 = is_http2

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                self._count(len(chunk))
                yield chunk
        except GeneratorExit:
            self._end(_LEFT)
            raise
        except BaseException as error:
            self._end(flag_of_broken_body(error, is_http2=self._is_http2))
            raise
        self._end("")

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            self._end(_LEFT)
