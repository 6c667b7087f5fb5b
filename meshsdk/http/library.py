"""The one place of the engine that knows whose requests it is given, and whose responses it gives: httpx's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from types import ModuleType
from typing import Any

import httpx

from .front import AsyncFront, SyncFront, make_front
from .internals import Internals, internals_of

__all__ = ["HTTPX", "Library", "library_of"]

Headers = Sequence[tuple[bytes, bytes]]


class Library:
    """A client library, seen from the engine.

    Args:
        module: The library.
    """

    def __init__(self, module: ModuleType) -> None:
        self.module: Any = module
        self.name = module.__name__

    @cached_property
    def internals(self) -> Internals | None:
        """Its inside, where that is known."""
        return internals_of(self.module)

    @cached_property
    def response(self) -> Any:
        """Makes a response of a status, header pairs, a stream and extensions."""
        return self.internals.response if self.internals is not None else self._response

    def _response(self, status: int, headers: Headers, stream: Any, extensions: dict[str, Any]) -> Any:
        return self.module.Response(status, headers=headers, stream=stream, extensions=extensions)

    @cached_property
    def client_class(self) -> Any:
        """Clients that do the same as the library's in less."""
        return make_front(self.internals, SyncFront, self.module.Client)

    @cached_property
    def async_client_class(self) -> Any:
        """`client_class` for asyncio."""
        return make_front(self.internals, AsyncFront, self.module.AsyncClient)


HTTPX = Library(httpx)


def library_of(name: str) -> Library:
    """The library of this name."""
    return HTTPX
