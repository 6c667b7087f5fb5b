"""Bodies whose bytes are counted as they pass."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from .endings import flag_of_broken_body
from .library import Library

__all__ = ["counted_request", "counted_response"]

Count = Callable[[int], None]
End = Callable[[str], None]

# A caller that closes a response that it has not read has left.
_LEFT = "DC"


def counted_request(stream: Any, count: Count, library: Library) -> Any:
    """A request's body, as the library's stream."""
    if not hasattr(stream, "__aiter__"):
        return library.SyncStream(_Request(stream, count))
    if not hasattr(stream, "__iter__"):
        return library.AsyncStream(_AsyncRequest(stream, count))
    return library.EitherStream(_EitherRequest(stream, count))


def counted_response(stream: Any, count: Count, end: End, library: Library, *, is_http2: bool) -> Any:
    """A response's body; `end` is told the response flag when it is read, broken off or given up."""
    body = stream.body if type(stream) in (library.SyncStream, library.AsyncStream) else stream
    if hasattr(body, "__iter__"):
        return library.SyncStream(_Response(body, count, end, is_http2))
    return library.AsyncStream(_AsyncResponse(body, count, end, is_http2))


class _Counted:
    def __init__(self, stream: Any, count: Count) -> None:
        self._stream = stream
        self._count = count


class _Request(_Counted):
    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            self._count(len(chunk))
            yield chunk

    def close(self) -> None:
        self._stream.close()


class _AsyncRequest(_Counted):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            self._count(len(chunk))
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


class _EitherRequest(_Request, _AsyncRequest):
    """Of a multipart form, which clients of either kind send."""


class _Response:
    def __init__(self, stream: Any, count: Count, end: End, is_http2: bool) -> None:
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


class _AsyncResponse:
    def __init__(self, stream: Any, count: Count, end: End, is_http2: bool) -> None:
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
