"""How long to wait before connecting again."""

from __future__ import annotations

import random
from collections.abc import Callable

__all__ = ["Backoff"]


class Backoff:
    """Exponential back-off with jitter (gRPC doc/connection-backoff.md: factor 1.6, jitter 20 percent).

    Args:
        base_seconds: The first delay.
        max_seconds: The longest.
        random_fraction: Uniform in [0, 1).
    """

    def __init__(
        self,
        base_seconds: float = 0.5,
        max_seconds: float = 30.0,
        random_fraction: Callable[[], float] = random.random,
    ) -> None:
        self._base_seconds = base_seconds
        self._max_seconds = max_seconds
        self._random_fraction = random_fraction
        self._next_seconds = base_seconds

    def next_seconds(self) -> float:
        """The delay before the next attempt; each call makes the following one longer."""
        delay = self._next_seconds
        self._next_seconds = min(delay * 1.6, self._max_seconds)
        return delay * (0.8 + 0.4 * self._random_fraction())

    def reset(self) -> None:
        """Start from the base again: the last attempt succeeded."""
        self._next_seconds = self._base_seconds
