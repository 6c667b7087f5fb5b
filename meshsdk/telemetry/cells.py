"""Counters as plain integers in one piece of memory, a row for each set of labels.

What is counted is added where it is read: a row is found once for a set of labels and known by its place from then on,
so that counting a request is a dozen additions. They stand under a lock, for a `+=` on memory is a read and a write
between which Python may change threads; it is held for about a microsecond, by whoever has the interpreter anyway, and
so never waited for but at such a change. Cells of each thread's own would need no lock, and grow with the threads that
ever were.

The lock may be taken again by the thread that holds it: responses that are left to the garbage collector are counted as
they are collected, which happens anywhere.

The memory may be a file that several processes read (`shared_cells`); the first row is its owner's.
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Protocol

__all__ = ["BOUNDS", "HTTP", "MESSAGES", "MISSED", "Cells", "Meanings", "Memory", "PrivateMemory", "Rows"]

# Milliseconds and bytes alike, as istio_stats has them (Envoy: Stats::HistogramSettingsImpl::defaultBuckets).
BOUNDS = (0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 600000, 1800000, 3600000)

# A histogram is its sum and its buckets; a request has three of them, and the count of each is the count of requests.
HISTOGRAM = 1 + len(BOUNDS) + 1
ROW = 64
assert 3 * HISTOGRAM <= ROW

HTTP, MESSAGES = "http", "messages"

_EMPTY_ROW = array("Q", bytes(8 * ROW))

# What a cell holds at the most.
_FULL = (1 << 64) - 1

# In the first row: requests that found no row.
MISSED = 0

Labels = tuple[str, ...]
# Where something is counted: a row's place, or those of several where configuration gives metrics different labels.
Rows = int | tuple[int, ...]
# Kind and labels of rows, by their numbers; 0 is the owner's.
Meanings = dict[int, tuple[str, Labels]]


class Memory(Protocol):
    """Where rows are."""

    numbers: memoryview

    def read_labels(self) -> Meanings:
        """What its rows stand for."""

    def write_labels(self, number: int, kind: str, labels: Labels) -> None:
        """One more row, before it is used.

        Raises:
            OSError: It cannot be written down.
        """

    def others(self) -> Iterator[tuple[Meanings, memoryview]]:
        """Rows and numbers of other processes."""


class PrivateMemory:
    """Memory of this process's own.

    Args:
        rows: How many it has room for, the first included.
    """

    def __init__(self, rows: int) -> None:
        self.numbers = memoryview(bytearray(rows * ROW * 8)).cast("Q")

    def read_labels(self) -> Meanings:
        """See `Memory`."""
        return {}

    def write_labels(self, number: int, kind: str, labels: Labels) -> None:
        """See `Memory`."""

    def others(self) -> Iterator[tuple[Meanings, memoryview]]:
        """See `Memory`."""
        return iter(())


class Cells:
    """Rows by their labels, and what is added to them.

    Args:
        memory: Where they are.

    Attributes:
        recorder: Told of each request, too: row, milliseconds, bytes that came and went.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._numbers = memory.numbers
        self._limit = len(memory.numbers) // ROW
        self._lock = threading.RLock()
        self._rows = {row: number * ROW for number, row in memory.read_labels().items()}
        self._next = max(self._rows.values(), default=0) // ROW + 1
        self.recorder: Callable[[int, int, int, int], None] | None = None

    def row(self, kind: str, labels: Labels) -> int:
        """The place of a row, which is made where it is new; 0 where there is no room for another."""
        place = self._rows.get((kind, labels))
        if place is not None:
            return place
        with self._lock:
            place = self._rows.get((kind, labels))
            if place is None:
                if self._next >= self._limit:
                    return 0
                try:
                    self._memory.write_labels(self._next, kind, labels)
                except OSError:  # The disk is full: the request goes on, and is missed.
                    return 0
                place = self._next * ROW
                # It may be left of one that is gone, whose labels are lost.
                self._numbers[place : place + ROW] = memoryview(_EMPTY_ROW)
                self._rows[kind, labels] = place
                self._next += 1
        return place

    def count_request(self, row: Rows, milliseconds: int, received: int, sent: int) -> None:
        """A request ended.

        Args:
            row: Its place; 0 counts it as missed.
            milliseconds: That it took.
            received, sent: Bytes of the request, and of the response.
        """
        if isinstance(row, tuple):
            for one in row:
                self.count_request(one, milliseconds, received, sent)
            return
        numbers = self._numbers
        if not row:
            with self._lock:
                numbers[MISSED] += 1
            return
        took, first = row + 1 + bisect_left(BOUNDS, milliseconds), row + HISTOGRAM
        came, second = first + 1 + bisect_left(BOUNDS, received), first + HISTOGRAM
        went = second + 1 + bisect_left(BOUNDS, sent)
        with self._lock:
            # Lengths are what strangers say: sums go round, as counters that wrap do, and raise nothing.
            numbers[row] = numbers[row] + milliseconds & _FULL
            numbers[took] += 1
            numbers[first] = numbers[first] + received & _FULL
            numbers[came] += 1
            numbers[second] = numbers[second] + sent & _FULL
            numbers[went] += 1
        if self.recorder is not None:
            self.recorder(row, milliseconds, received, sent)

    def count_messages(self, row: Rows, requests: int, responses: int) -> None:
        """So many messages of a call went each way."""
        if isinstance(row, tuple):
            for one in row:
                self.count_messages(one, requests, responses)
            return
        if not row:
            return
        numbers = self._numbers
        with self._lock:
            numbers[row] += requests
            numbers[row + 1] += responses

    def meaning(self, row: int) -> tuple[str, Labels]:
        """Kind and labels of a row by its place."""
        with self._lock:
            return next(meaning for meaning, place in self._rows.items() if place == row)

    def own_rows(self) -> list[tuple[tuple[str, Labels], list[int]]]:
        """The numbers of every row of this process."""
        with self._lock:
            places = list(self._rows.items())
        return [(meaning, self._numbers[place : place + ROW].tolist()) for meaning, place in places]

    def rows(self) -> tuple[dict[tuple[str, Labels], list[int]], int]:
        """The numbers of every row, those of other processes added, and how many requests were missed.

        There are no more rows than one process has room for; requests of others are missed.
        """
        with self._lock:
            own = {place // ROW: row for row, place in self._rows.items()}
        total: dict[tuple[str, Labels], list[int]] = {}
        missed = 0
        for labels, numbers in ((own, self._numbers), *self._memory.others()):
            missed += numbers[MISSED]
            for number, row in labels.items():
                start = number * ROW
                seen = numbers[start : start + ROW].tolist()
                known = total.get(row)
                if known is not None:
                    total[row] = [sum(pair) for pair in zip(known, seen, strict=True)]
                elif len(total) < self._limit:
                    total[row] = seen
                elif row[0].startswith(HTTP):
                    missed += sum(seen[1:HISTOGRAM])
        return total, missed
