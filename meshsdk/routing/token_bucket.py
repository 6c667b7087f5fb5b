"""Tokens that come back at a steady pace (envoy.type.v3.TokenBucket)."""

from __future__ import annotations

from ..resources import LocalRateLimit

__all__ = ["TokenBucket"]


class TokenBucket:
    """The bucket of one rate limit; full at first.

    Args:
        limit: Its size, and how it is filled.
    """

    __slots__ = ("_filled_at", "_tokens", "limit")

    def __init__(self, limit: LocalRateLimit) -> None:
        self.limit = limit
        self._tokens = float(limit.max_tokens)
        self._filled_at: float | None = None

    def take(self, now: float) -> bool:
        """Take one token, where there is one.

        Args:
            now: In seconds, on any clock that only goes forward.
        """
        limit = self.limit
        if self._filled_at is not None:
            gained = (now - self._filled_at) * limit.tokens_per_fill / limit.fill_seconds
            self._tokens = min(float(limit.max_tokens), self._tokens + gained)
        self._filled_at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
