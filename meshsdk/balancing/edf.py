"""Earliest deadline first: weighted turns (Envoy source/common/upstream/edf_scheduler.h).

Each entry is due again 1/weight after its last turn; the one that is due first goes. Turns are spread evenly, not in
runs. Popping and pushing are each one atomic step of CPython's heapq, so threads need no lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeVar

__all__ = ["EdfScheduler"]

T = TypeVar("T")


class EdfScheduler(Generic[T]):
    """Turns among weighted entries.

    Args:
        entries: What takes turns; those of weight 0 never do.
        weight: The weight of an entry, asked again at each of its turns.
    """

    __slots__ = ("_heap", "_order", "_weight")

    def __init__(self, entries: Iterable[T], weight: Callable[[T], float]) -> None:
        self._order = count()
        self._weight = weight
        self._heap = [(1 / weight(entry), next(self._order), entry) for entry in entries if weight(entry) > 0]
        heapify(self._heap)

    def pick(self) -> T | None:
        """The entry whose turn it is; None where there is none."""
        try:
            deadline, _, entry = heappop(self._heap)
        except IndexError:
            return None
        heappush(self._heap, (deadline + 1 / self._weight(entry), next(self._order), entry))
        return entry

    def advance(self, turns: int) -> None:
        """Skip turns, so that many processes with the same configuration do not all begin with the same entry."""
        for _ in range(turns):
            self.pick()

    def __len__(self) -> int:
        return len(self._heap)
