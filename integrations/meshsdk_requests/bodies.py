"""A response's body as urllib3 reads it, and what it looks at besides."""

from __future__ import annotations

import email.message
import io
from collections.abc import Iterator
from typing import Any

import httpx

__all__ = ["Head", "ReadBody"]


class ReadBody(io.RawIOBase):
    """A body to read from, over one that is iterated.

    What goes wrong is raised as urllib3 expects it of a socket: requests makes its own exceptions of that.

    Args:
        stream: The body.
    """

    def __init__(self, stream: httpx.SyncByteStream) -> None:
        self._stream = stream
        self._chunks: Iterator[bytes] = iter(stream)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            while not self._rest:
                self._rest = next(self._chunks)
        except StopIteration:
            return 0
        except httpx.TimeoutException as error:
            raise TimeoutError(str(error)) from error
        except httpx.TransportError as error:
            raise OSError(str(error)) from error
        taken = self._rest[: len(buffer)]
        buffer[: len(taken)] = taken
        self._rest = self._rest[len(taken) :]
        return len(taken)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


class Head:
    """In the place of http.client's response, where requests looks for cookies."""

    def __init__(self, headers: list[tuple[str, str]]) -> None:
        self.msg = email.message.Message()
        for name, value in headers:
            self.msg[name] = value

    def isclosed(self) -> bool:
        """Whether there is nothing more to read; urllib3 would give a connection back."""
        return True

    def close(self) -> None:
        """Nothing is open here."""
