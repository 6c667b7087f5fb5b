"""How many copies of calls may be under way at once."""

from __future__ import annotations

import threading

__all__ = ["MirrorLimit"]

_MAX_COPIES = 256


class MirrorLimit:
    """Counts the copies of one channel; beyond the limit no more are sent, so that a slow mirror costs no memory."""

    def __init__(self) -> None:
        self._room = threading.BoundedSemaphore(_MAX_COPIES)

    def begin(self) -> bool:
        """Whether one more may be sent."""
        return self._room.acquire(blocking=False)

    def end(self, copy: object) -> None:
        """One is over; it is passed so that it is referred to until then."""
        self._room.release()
