"""Where lines go: a file, a stream of the process, or Python's logging. Only a writer's own thread comes here."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Sequence
from typing import Protocol, TypeVar

__all__ = ["FileSink", "LoggingSink", "Sink", "StreamSink", "sink_of"]

_STREAMS = {"-": 1, "/dev/stdout": 1, "/dev/fd/1": 1, "/proc/self/fd/1": 1, "/dev/stderr": 2, "/dev/fd/2": 2}


T = TypeVar("T", contravariant=True)


class Sink(Protocol[T]):
    """Takes lines, each with its end, or whatever else a writer gathers for it."""

    def write(self, lines: Sequence[T]) -> int:
        """Write lines, and say how many were.

        Raises:
            OSError: None was, or nobody knows.
        """

    def close(self) -> None:
        """Let go of what is open."""


def sink_of(path: str) -> Sink[str]:
    """The sink of a path; `-` is standard output, as /dev/stdout is."""
    number = _STREAMS.get(path)
    return FileSink(path) if number is None else StreamSink(number)


def _write(descriptor: int, lines: Sequence[str]) -> int:
    """Write lines until they are written or something is in the way; one that a full disk takes in part is none."""
    whole = "".join(lines).encode("utf-8", "backslashreplace")
    written = 0
    try:
        while written < len(whole):
            written += os.write(descriptor, memoryview(whole)[written:])
    except OSError:
        if not written:
            raise
        return whole.count(b"\n", 0, written)
    return len(lines)


class StreamSink:
    """Standard output or error, whatever Python makes of them.

    The descriptor is duplicated at first: when the process closes its own, the number may become a socket's.

    Args:
        number: 1 or 2.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._descriptor: int | None = None

    def write(self, lines: Sequence[str]) -> int:
        """See `Sink`."""
        if self._descriptor is None:
            self._descriptor = os.dup(self._number)
        return _write(self._descriptor, lines)

    def close(self) -> None:
        """See `Sink`."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


class FileSink:
    """A file that is appended to, and opened anew when it was put away (logrotate) or removed.

    Args:
        path: Its path.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._opened: tuple[int, int] | None = None

    def write(self, lines: Sequence[str]) -> int:
        """See `Sink`."""
        if self._descriptor is None or not self._is_the_same():
            self._open()
        assert self._descriptor is not None
        return _write(self._descriptor, lines)

    def _is_the_same(self) -> bool:
        try:
            found = os.stat(self._path)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._opened

    def _open(self) -> None:
        self.close()
        # A pipe that nobody reads would have us wait for a reader; so it is an error like others.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        self._descriptor = os.open(self._path, flags, 0o644)
        found = os.fstat(self._descriptor)
        self._opened = found.st_dev, found.st_ino
        if stat.S_ISREG(found.st_mode):
            os.set_blocking(self._descriptor, True)

    def close(self) -> None:
        """See `Sink`."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(descriptor)


class LoggingSink:
    """A logger of Python's, whose handlers then run in the writer's thread and hold up no request.

    Args:
        name: The logger's.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def write(self, lines: Sequence[str]) -> int:
        """See `Sink`."""
        for line in lines:
            self._logger.info("%s", line.rstrip("\n"))
        return len(lines)

    def close(self) -> None:
        """See `Sink`."""
