"""The control thread: runs what is posted to it, in order, and timers.

One per Mesh. Everything on the control side happens here, one thing after the other, which is why that side needs no
lock. Whatever goes wrong in a callback is logged and counted; the thread goes on, since traffic depends on it.
"""

from __future__ import annotations

import heapq
import itertools
import queue
import threading
import time
from collections.abc import Callable

from ..log_lines import logger_of

__all__ = ["ControlLoop", "Timer"]

logger = logger_of("meshsdk.control")

Callback = Callable[[], object]

# A resource may name ten thousand years, and queues raise for so long a wait: then it is waited anew.
_LONGEST_WAIT = 3600.0


class Timer:
    """A callback that is due at some time, unless cancelled before."""

    __slots__ = ("callback", "due")

    def __init__(self, due: float, callback: Callback) -> None:
        self.due = due
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        """Make the timer do nothing. Control thread only."""
        self.callback = None


class ControlLoop:
    """A daemon thread with an inbox and timers.

    Args:
        name: The thread's name.
        after_batch: Called after each batch of callbacks; a burst of events is thus handled as one change.
        clock: Monotonic seconds.
    """

    def __init__(
        self, name: str, after_batch: Callback = lambda: None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._inbox: queue.SimpleQueue[Callback | None] = queue.SimpleQueue()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._after_batch = after_batch
        self._clock = clock
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.failures = 0

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def post(self, callback: Callback) -> None:
        """Have `callback` run on the control thread. From any thread; never blocks."""
        self._inbox.put(callback)

    def now(self) -> float:
        """The loop's clock, in seconds."""
        return self._clock()

    def call_later(self, delay_seconds: float, callback: Callback) -> Timer:
        """Have `callback` run after `delay_seconds`. Control thread only."""
        timer = Timer(self._clock() + delay_seconds, callback)
        heapq.heappush(self._timers, (timer.due, next(self._order), timer))
        return timer

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """Run what was posted before, then end the thread and wait for it."""
        self._inbox.put(None)
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while self._run_batch():
            self._guarded(self._after_batch)

    def _run_batch(self) -> bool:
        """Wait for something to do, then do all there is. False ends the thread."""
        try:
            callback = self._inbox.get(timeout=self._seconds_to_next_timer())
        except queue.Empty:
            self._run_due_timers()
            return True
        # Bounded, so that an endless stream of events cannot keep timers and changes waiting.
        for _ in range(1000):
            if callback is None:
                return False
            self._guarded(callback)
            try:
                callback = self._inbox.get_nowait()
            except queue.Empty:
                break
        else:
            self._inbox.put(callback)
        self._run_due_timers()
        return True

    def _seconds_to_next_timer(self) -> float | None:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return min(max(0.0, self._timers[0][0] - self._clock()), _LONGEST_WAIT) if self._timers else None

    def _run_due_timers(self) -> None:
        now = self._clock()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if timer.callback is not None:
                self._guarded(timer.callback)

    def _guarded(self, callback: Callback) -> None:
        try:
            callback()
        except Exception:
            self.failures += 1
            logger.exception("a callback of the control thread failed; the last good configuration stays in use")
