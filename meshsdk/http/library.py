"""What the engine needs of a client library: requests come from it, responses and exceptions are its own.

The engine asks of a request what `shapes` says, and raises its own errors. A `Library` is the one narrow place where
those become the library's; httpx's is in `of_httpx`, httpx2's in `meshsdk.httpx2`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from functools import cached_property
from importlib import import_module
from types import ModuleType
from typing import Any, NoReturn

from .. import errors
from .errors import FromReply, TransportError
from .front import AsyncFront, SyncFront, make_front
from .internals import Internals, internals_of

__all__ = ["Library"]

Headers = Sequence[tuple[bytes, bytes]]


# By name, as far as they were imported.
_LIBRARIES: dict[str, Library] = {}


class Library:
    """One client library.

    Args:
        module: The library.
        twins: By each of the mesh's errors, its twin that is the library's exception, too.

    Attributes:
        Request, ByteStream: Classes of the library's.
        SyncStream, AsyncStream, EitherStream: Streams of the library over `body`, which is iterated and closed in the
            same way; what it raises becomes the library's.
    """

    def __init__(self, module: ModuleType, twins: Mapping[type[errors.RequestError], Any]) -> None:
        self.module: Any = module
        self.name = module.__name__
        self.ByteStream: Any = self.module.ByteStream
        self.Request: Any = self.module.Request
        _LIBRARIES.setdefault(self.name, self)
        self._twins = twins
        self.SyncStream, self.AsyncStream, self.EitherStream = _streams(self)

    @cached_property
    def internals(self) -> Internals | None:
        """Its inside, where that is known."""
        return internals_of(self.module)

    @cached_property
    def client_class(self) -> Any:
        """Clients that do the same as the library's in less."""
        return make_front(self.internals, SyncFront, self.module.Client)

    @cached_property
    def async_client_class(self) -> Any:
        """`client_class` for asyncio."""
        return make_front(self.internals, AsyncFront, self.module.AsyncClient)

    @cached_property
    def response(self) -> Any:
        """Makes a response of a status, header pairs, a stream and extensions."""
        return self.internals.response if self.internals is not None else self._response

    def _response(self, status: int, headers: Headers, stream: Any, extensions: dict[str, Any]) -> Any:
        return self.module.Response(status, headers=headers, stream=stream, extensions=extensions)

    def stream_of(self, body: Any) -> Any:
        """A response's body as the library's stream."""
        if type(body) is bytes:
            return self.ByteStream(body)
        return self.SyncStream(body) if hasattr(body, "__iter__") else self.AsyncStream(body)

    def beside(self, request: Any) -> Library | None:
        """Which other library a request is of; None for one of this library.

        Raises:
            TypeError: It is of none that there is an adapter for.
        """
        if isinstance(request, self.Request):
            return None
        names = [kind.__module__.partition(".")[0] for kind in type(request).__mro__]
        if "httpx2" in names and "httpx2" not in _LIBRARIES:
            import_module("meshsdk.httpx2")
        for name in names:
            if name in _LIBRARIES:
                return _LIBRARIES[name]
        raise TypeError(f"a transport of meshsdk takes requests of httpx and httpx2, and was given one of {names[0]}")

    def error(self, error: BaseException) -> BaseException:
        """The library's exception in the place of one of the engine's; any other as it is."""
        if not isinstance(error, TransportError):
            return error
        made: BaseException
        if isinstance(error, errors.RequestError):
            kinds = (self._twins.get(kind) for kind in type(error).__mro__)
            made = next(filter(None, kinds))(str(error), status=error.status, flag=error.flag)
            if isinstance(error, FromReply):
                made.reply = error.reply  # type: ignore[attr-defined]
        else:
            named = (getattr(self.module, kind.__name__, None) for kind in type(error).__mro__)
            made = next(filter(None, named))(str(error))
        made.__cause__ = error.__cause__
        return made

    def fail(self, error: TransportError) -> NoReturn:
        """Raise the library's exception in the place of one of the engine's."""
        made = self.error(error)
        raise made.with_traceback(error.__traceback__) from made.__cause__


def _streams(library: Library) -> tuple[Any, Any, Any]:
    module = library.module

    class SyncStream(module.SyncByteStream):  # type: ignore[misc, name-defined]
        def __init__(self, body: Any) -> None:
            self.body = body

        def __iter__(self) -> Iterator[bytes]:
            try:
                yield from self.body
            except TransportError as error:
                library.fail(error)

        def close(self) -> None:
            try:
                self.body.close()
            except TransportError as error:
                library.fail(error)

    class AsyncStream(module.AsyncByteStream):  # type: ignore[misc, name-defined]
        def __init__(self, body: Any) -> None:
            self.body = body

        async def __aiter__(self) -> AsyncGenerator[bytes, None]:
            chunks = aiter(self.body)
            try:
                async for chunk in chunks:
                    yield chunk
            except TransportError as error:
                library.fail(error)
            finally:
                if isinstance(chunks, AsyncGenerator):
                    await chunks.aclose()

        async def aclose(self) -> None:
            try:
                await self.body.aclose()
            except TransportError as error:
                library.fail(error)

    class EitherStream(SyncStream, AsyncStream):
        pass

    return SyncStream, AsyncStream, EitherStream
