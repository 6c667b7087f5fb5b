"""Connections that wait for their peers, and who goes first when there is no room for more.

Whoever is being answered is not among them. Of the others the one that was heard of longest ago goes first: a peer that
means it says what it wants within milliseconds, and one that holds connections open for nothing is at the front soon.
"""

from __future__ import annotations

import contextlib
import math
import socket
import time
from collections.abc import Callable, Hashable

__all__ = ["Crowd"]

# A server whose every descriptor is a connection cannot open a file to answer from.
_RESERVED_SHARE = 20
_LEAST_RESERVED = 16
_MOST_RESERVED = 256
# Of those that wait: a process with more descriptors than that has no use for so many.
_MOST_WAITING = 16_384

_FEW = 8

# A connection that is ended gives its descriptor back in the event loop's next rounds.
_ROOM_SECONDS = 0.005


def _soft_limit() -> int:
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource  # There is none on Windows.

        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if soft != resource.RLIM_INFINITY:
            return int(soft)
    return 1 << 30


class Crowd:
    """Those who wait, in the order in which they were last heard of. Of one event loop."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, Callable[[], object]] = {}
        self._made_room = -math.inf
        limit = _soft_limit()
        self._last_descriptor = limit - min(max(limit // _RESERVED_SHARE, _LEAST_RESERVED), _MOST_RESERVED)

    def waits(self, one: Hashable, drop: Callable[[], object]) -> None:
        """A connection waits for its peer, which was heard of just now.

        Args:
            one: The connection.
            drop: Ends it.
        """
        self._waiting.pop(one, None)
        self._waiting[one] = drop

    def leaves(self, one: Hashable) -> None:
        """A connection is being answered, or gone."""
        self._waiting.pop(one, None)

    def admit(self, accepted: socket.socket) -> None:
        """Make room for a connection that was accepted, where descriptors run short or too many wait."""
        # The system gives away the lowest number that is free, so that a high one says how many are in use.
        if accepted.fileno() >= self._last_descriptor:
            # asyncio accepts all who queue before any is admitted, and where there is no descriptor left it pauses for
            # a second: room for a few would let in a few each second.
            self.make_room(max(_FEW, len(self._waiting) // 4))
        elif len(self._waiting) >= _MOST_WAITING:
            self.make_room(_FEW)

    def make_room(self, count: int) -> bool:
        """End the connections that were silent longest, unless that was done a moment ago and is not over yet.

        Returns:
            Whether there is going to be room.
        """
        now = time.monotonic()
        if now - self._made_room < _ROOM_SECONDS:
            return True
        self._made_room = now
        gone = list(self._waiting)[:count]
        for one in gone:
            self._waiting.pop(one)()
        return bool(gone)
