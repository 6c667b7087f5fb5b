"""Resources that may be used for a time (`Resource.ttl`; Envoy docs, xds_protocol, "xDS TTL"). Control thread only.

Servers give them to what must not outlast them, and say again and again that it is good. So one timer is armed for a
resource, however often that is said, and looks when it fires whether the time is up.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from .cache import ResourceCache, ResourceKey, Status
from .loop import ControlLoop, Timer

__all__ = ["Lifetimes"]


class Lifetimes:
    """Takes resources out of the cache when their time is up.

    Args:
        cache: Where they are.
        loop: The control thread.
    """

    def __init__(self, cache: ResourceCache, loop: ControlLoop) -> None:
        self._cache = cache
        self._loop = loop
        self._ends: dict[ResourceKey, float] = {}
        self._timers: dict[ResourceKey, Timer] = {}

    def take(self, lifetimes: Mapping[ResourceKey, float | None]) -> None:
        """What servers have said: seconds from now on, or that there is no end."""
        for key, seconds in lifetimes.items():
            if seconds is None:
                self.forget(key)
                continue
            self._cache.fleeting.add(key)
            ends = self._loop.now() + max(seconds, 0.0)
            self._ends[key] = ends
            timer = self._timers.get(key)
            if timer is None or timer.due > ends:
                self._arm(key, ends)

    def forget(self, key: ResourceKey) -> None:
        """There is no end, or nobody asks for it any more."""
        if self._ends.pop(key, None) is not None:
            self._timers.pop(key).cancel()
            self._cache.fleeting.discard(key)

    def close(self) -> None:
        """Stop all timers."""
        for key in list(self._ends):
            self.forget(key)

    def _arm(self, key: ResourceKey, ends: float) -> None:
        timer = self._timers.get(key)
        if timer is not None:
            timer.cancel()
        self._timers[key] = self._loop.call_later(ends - self._loop.now(), partial(self._look, key))

    def _look(self, key: ResourceKey) -> None:
        ends = self._ends[key]
        if self._loop.now() < ends:
            del self._timers[key]
            self._arm(key, ends)
            return
        del self._ends[key], self._timers[key]
        self._cache.fleeting.discard(key)
        self._cache.remove(*key, Status.DOES_NOT_EXIST, "the time for which the management server gave it has passed")
