"""Tokens that come back at a steady pace (envoy.type.v3.TokenBucket)."""

from __future__ import annotations

import math
from typing import Generic, Protocol, TypeVar

__all__ = ["BucketSize", "TokenBucket"]


class BucketSize(Protocol):
    """How many tokens a bucket holds, and how it is filled."""

    @property
    def max_tokens(self) -> int: ...

    @property
    def tokens_per_fill(self) -> int: ...

    @property
    def fill_seconds(self) -> float: ...


S = TypeVar("S", bound=BucketSize)


class TokenBucket(Generic[S]):
    """The bucket of one rate limit; full at first.

    Args:
        limit: Its size, and how it is filled.
    """

    __slots__ = ("_filled_at", "_tokens", "limit")

    def __init__(self, limit: S) -> None:
        self.limit = limit
        self._tokens = float(limit.max_tokens)
        self._filled_at: float | None = None

    def take(self, now: float, count: int = 1) -> bool:
        """Take tokens, where there are as many.

        Args:
            now: In seconds, on any clock that only goes forward.
            count: How many.
        """
        limit = self.limit
        if self._filled_at is not None:
            gained = (now - self._filled_at) * limit.tokens_per_fill / limit.fill_seconds
            self._tokens = min(float(limit.max_tokens), self._tokens + gained)
        self._filled_at = now
        if self._tokens < count:
            return False
        self._tokens -= count
        return True

    @property
    def remaining(self) -> int:
        """Whole tokens that were left when one was last asked for."""
        return int(self._tokens)

    @property
    def seconds_to_next(self) -> int:
        """How long it takes from then until there is one: whole seconds, 0 where one is left."""
        limit = self.limit
        missing = 1.0 - self._tokens
        return math.ceil(missing * limit.fill_seconds / limit.tokens_per_fill) if missing > 0 else 0
