"""Limits on what a cluster is asked to carry at once (Envoy docs, upstream/circuit_breaking), and what became of that.

Counters are plain integers: each step is one operation under the interpreter's lock, and a limit that is passed by one
in a race does no harm. There is one breaker for each routing priority; they last as long as the cluster does.
"""

from __future__ import annotations

from ..resources import Thresholds

__all__ = ["CircuitBreaker"]

_NO_LIMIT = float("inf")


class CircuitBreaker:
    """Counters of one routing priority of a cluster, and their limits.

    Attributes:
        requests, pending, connections, retries: How many there are now.
        max_requests, …: How many there may be; infinity is no limit.
        connects, connect_failures, handshakes, retried, overflows: How many there have ever been, for metrics: of
            connections, of those by the cluster's TLS, of retries, and of what a limit has refused.
    """

    __slots__ = (
        "_budget_percent",
        "_min_retries",
        "connect_failures",
        "connections",
        "connects",
        "handshakes",
        "max_connections",
        "max_pending",
        "max_requests",
        "max_retries",
        "overflows",
        "pending",
        "requests",
        "retried",
        "retries",
    )

    def __init__(self, thresholds: Thresholds) -> None:
        self.requests = 0
        self.pending = 0
        self.connections = 0
        self.retries = 0
        self.connects = self.connect_failures = self.handshakes = 0
        self.retried = self.overflows = 0
        self.configure(thresholds)

    def configure(self, thresholds: Thresholds) -> None:
        """Take other limits; what is counted stays."""
        self.max_requests = _limit(thresholds.max_requests)
        self.max_pending = _limit(thresholds.max_pending_requests)
        self.max_connections = _limit(thresholds.max_connections)
        self.max_retries = _limit(thresholds.max_retries)
        self._budget_percent = thresholds.retry_budget_percent
        self._min_retries = thresholds.min_retry_concurrency

    def connected(self, *, is_secured: bool) -> None:
        """A connection was opened."""
        self.connects += 1
        self.handshakes += is_secured

    @property
    def may_retry(self) -> bool:
        """Whether one more retry is allowed (Thresholds.max_retries, or retry_budget in its place)."""
        if self._budget_percent is None:
            return self.retries < self.max_retries
        allowed = (self.requests + self.pending) * self._budget_percent / 100
        return self.retries < max(int(allowed), self._min_retries)


def _limit(value: int | None) -> float:
    return _NO_LIMIT if value is None else value
