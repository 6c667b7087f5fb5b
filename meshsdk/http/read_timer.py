"""Waiting for a peer with two limits and, most of the time, no timer to arm.

Each wait has a deadline of its own, but a timer that is already armed for an earlier time is left alone: when it
fires it looks whether the wait of that moment is overdue, and otherwise arms itself for that wait. A busy connection
so pays for one timer every few seconds instead of one for each request.
"""

from __future__ import annotations

import asyncio

from .errors import DeadlineExceededError, ReadTimeout, WriteTimeout

__all__ = ["ReadTimer"]


class ReadTimer:
    """One waiter at a time, woken by data or by its deadline."""

    __slots__ = ("_deadline", "_handle", "_is_mesh_deadline", "_loop", "_waiter", "_waits_for_writing")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None
        self._deadline: float | None = None
        self._is_mesh_deadline = False
        self._waits_for_writing = False
        self._handle: asyncio.TimerHandle | None = None

    async def wait(self, seconds: float | None, deadline: float | None, *, for_writing: bool = False) -> None:
        """Wait for `wake`.

        Args:
            seconds: The caller's limit for this wait.
            deadline: The mesh's limit, on the loop's clock.
            for_writing: The peer is to take what was sent, not to send.

        Raises:
            ReadTimeout, WriteTimeout: The caller's limit passed.
            DeadlineExceededError: The mesh's passed.
        """
        self._waits_for_writing = for_writing
        if seconds is not None:
            own = self._loop.time() + seconds
            self._is_mesh_deadline = deadline is not None and deadline < own
            deadline = deadline if self._is_mesh_deadline else own
        else:
            self._is_mesh_deadline = deadline is not None
        self._deadline = deadline
        if deadline is not None:
            handle = self._handle
            if handle is None or handle.when() > deadline:
                self._arm(deadline)
        self._waiter = waiter = self._loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None
            self._deadline = None

    def wake(self) -> None:
        """Something happened."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def wake_writer(self) -> None:
        """The peer takes more; nobody who waits for it to send anything is woken."""
        if self._waits_for_writing:
            self.wake()

    def cancel(self) -> None:
        """Disarm, when the connection is gone; a waiter is woken."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self.wake()

    def _arm(self, deadline: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._loop.call_at(deadline, self._on_time)

    def _on_time(self) -> None:
        self._handle = None
        deadline, waiter = self._deadline, self._waiter
        if deadline is None or waiter is None or waiter.done():
            return
        if self._loop.time() < deadline:
            self._arm(deadline)
        elif self._is_mesh_deadline:
            waiter.set_exception(DeadlineExceededError())
        elif self._waits_for_writing:
            waiter.set_exception(WriteTimeout("sending the request took too long"))
        else:
            waiter.set_exception(ReadTimeout("reading the response took too long"))
