"""Writes lines without holding up whoever has them.

A request appends its line to a queue, which is atomic, and is done. One daemon thread for each sink gathers lines for a
moment and writes them at once. What is more than the queue takes, and what the sink does not take (a full disk, a
closed stream), is dropped and counted; the count is told by logging now and then, and on the page of metrics.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from msgspec import Struct

from ..log_lines import logger_of
from .sinks import Sink

__all__ = ["Pace", "Writer"]

logger = logger_of("meshsdk.access_log")

# How long lines are gathered: nobody waits for them, and each wake-up costs the requests a little.
_GATHER_SECONDS = 0.05

# Characters that may wait; ten seconds of ten thousand requests a second.
_MAX_WAITING = 32 * 1024 * 1024

_LINES_AT_ONCE = 2048

# How often it is told that lines are dropped.
_TELL_SECONDS = 30.0

_EXIT_SECONDS = 2.0

# What configuration says may be longer than any lock waits.
_LONGEST_WAIT = 3600.0

_writers: weakref.WeakSet[Writer[Any]] = weakref.WeakSet()

T = TypeVar("T")


class Pace(Struct, frozen=True):
    """How lines are gathered.

    Attributes:
        seconds: For so long.
        hurry_at: With so much that waits they are written at once.
        max_waiting: So much may wait.
    """

    seconds: float = _GATHER_SECONDS
    hurry_at: int = _MAX_WAITING
    max_waiting: int = _MAX_WAITING


class Writer(Generic[T]):
    """The queue of one sink, and its thread, which starts with the first line.

    Args:
        sink: Where lines go.
        name: Of the sink, for the log.
        pace: How they are gathered.
        size: Of a line, in characters or bytes.
        now: A monotonic clock, in seconds.

    Attributes:
        dropped: How many lines were not written.
        written: How many were.
    """

    def __init__(
        self,
        sink: Sink[T],
        name: str,
        pace: Pace = Pace(),  # noqa: B008 - it does not change.
        size: Callable[[T], int] = len,  # type: ignore[assignment]
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.dropped = 0
        self.written = 0
        self._sink = sink
        self._name = name
        self._pace = pace
        self._max_waiting = pace.max_waiting
        self._hurry_at = pace.hurry_at
        self._size = size
        self._now = now
        self._told_at: float | None = None
        self._told = 0
        self._problem = ""
        self._clear()
        _writers.add(self)

    def _clear(self) -> None:
        self._lines: deque[tuple[T, int]] = deque()
        self._waiting = 0
        self._wake = threading.Event()
        self._stop = threading.Event()
        # The thread gathers no longer.
        self._hurry = threading.Event()
        self._lock = threading.RLock()  # See `telemetry.cells`.
        self._thread: threading.Thread | None = None
        # Whoever appends must wake the thread.
        self._sleeps = True

    def write(self, line: T) -> None:
        """Have a line written. Never waits and never fails."""
        if self._waiting > self._max_waiting:
            self._drop(1)
            return
        size = self._size(line)
        # Threads that add at once may count a line too few, which is put right when all is written.
        self._waiting += size
        self._lines.append((line, size))
        if self._sleeps:
            self._awake()
        if self._waiting > self._hurry_at and not self._hurry.is_set():
            self._hurry.set()

    def after_fork(self) -> None:
        """In a forked child: lines of the parent's are the parent's to write."""
        self._clear()
        self.dropped = self.written = self._told = 0

    def flush(self, seconds: float) -> bool:
        """Wait until what was appended is written, or dropped; False where that takes longer."""
        until = self._now() + seconds
        while self._thread is not None and (self._lines or not self._sleeps):
            if self._now() > until:
                return False
            time.sleep(0.002)
        return True

    def close(self, seconds: float = _EXIT_SECONDS) -> None:
        """Write what there is, in at most that long, and let go of the sink. A line that still comes opens it again."""
        with self._lock:
            thread, self._thread = self._thread, None
        self._sleeps = True
        if thread is not None:
            self._stop.set()
            self._hurry.set()
            self._wake.set()
            thread.join(seconds)
            if thread.is_alive():
                self._drop(len(self._lines))
                return
        self._tell(is_last=True)
        self._sink.close()

    def _awake(self) -> None:
        self._sleeps = False
        if self._thread is None and not self._start():
            # The interpreter is ending, and no thread begins any more.
            self._drop(1)
        self._wake.set()

    def _start(self) -> bool:
        with self._lock:
            if self._thread is not None:
                return True
            self._stop = threading.Event()
            thread = threading.Thread(target=self._run, args=(self._stop,), name="meshsdk-access-log", daemon=True)
            self._thread = thread
            try:
                thread.start()
            except RuntimeError:
                self._thread = None
            return self._thread is not None

    def _drop(self, count: int) -> None:
        with self._lock:
            self.dropped += count

    # On its own thread.

    def _run(self, stop: threading.Event) -> None:
        while True:
            self._write_all()
            self._tell()
            if stop.is_set():
                # Whoever adds a line from here on begins another thread.
                self._sleeps = True
                self._write_all()
                return
            self._wake.clear()
            self._sleeps = True
            if not self._lines:
                self._wake.wait()
            self._sleeps = False
            if not stop.is_set():
                self._hurry.wait(min(self._pace.seconds, _LONGEST_WAIT))
            if not stop.is_set():
                self._hurry.clear()

    def _write_all(self) -> None:
        lines = self._lines
        while lines:
            take = lines.popleft  # Nobody else takes any.
            taken = [take() for _ in range(min(len(lines), _LINES_AT_ONCE))]
            batch = [line for line, _ in taken]
            try:
                count = self._sink.write(batch)
                self._problem = "" if count == len(batch) else "it takes no more"
            except Exception as error:  # noqa: BLE001 - handlers of logging raise what they like; it is told below.
                count, self._problem = 0, f"{type(error).__name__}: {error}"
            self.written += count
            if count < len(batch):
                self._drop(len(batch) - count)
            self._waiting -= sum(size for _, size in taken)
        self._waiting = 0

    def _tell(self, *, is_last: bool = False) -> None:
        if self.dropped == self._told:
            return
        now = self._now()
        if not is_last and self._told_at is not None and now - self._told_at < _TELL_SECONDS:
            return
        why = self._problem or "more lines came than could be written"
        logger.warning("access log %s: %d lines were dropped: %s", self._name, self.dropped - self._told, why)
        self._told_at, self._told = now, self.dropped


def _at_exit() -> None:
    until = time.monotonic() + _EXIT_SECONDS
    for writer in list(_writers):
        writer.close(max(0.0, until - time.monotonic()))


atexit.register(_at_exit)


def _after_fork() -> None:
    for writer in list(_writers):
        writer.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
