"""A WSGI request's body, counted as it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["CountedInput"]


class CountedInput:
    """`wsgi.input` (PEP 3333, Input and Error Streams).

    Args:
        stream: The server's; what is not here is its own.
        count: Told how many bytes were read.
    """

    def __init__(self, stream: Any, count: Callable[[int], None]) -> None:
        self._stream = stream
        self._count = count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def read(self, *size: Any) -> bytes:
        """See PEP 3333."""
        return self._counted(self._stream.read(*size))

    def readline(self, *size: Any) -> bytes:
        """See PEP 3333."""
        return self._counted(self._stream.readline(*size))

    def readlines(self, *hint: Any) -> list[bytes]:
        """See PEP 3333."""
        return [self._counted(line) for line in self._stream.readlines(*hint)]

    def readinto(self, buffer: Any) -> int:
        """Of files; those of most servers have it."""
        piece = self.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def __iter__(self) -> Iterator[bytes]:
        return map(self._counted, self._stream)

    def _counted(self, piece: bytes) -> bytes:
        self._count(len(piece))
        return piece
