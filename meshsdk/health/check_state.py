"""One endpoint's active health check as a state machine (Envoy docs, upstream/health_checking).

Source: Envoy source/extensions/health_checkers/common/health_checker_base_impl.cc.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from ..balancing import Endpoint
from ..resources import HealthCheck

__all__ = ["CheckResult", "CheckState"]


class CheckResult(Enum):
    """How one check ended.

    A failure of the endpoint's own making (a wrong answer) counts at once; one of the network's, or an answer of
    retriable_statuses, counts against the threshold.
    """

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    NETWORK_FAILURE = "network failure"


class CheckState:
    """Successes and failures in a row of one endpoint.

    Args:
        endpoint: Its flags are kept up to date.
        check: Thresholds and intervals.
    """

    def __init__(self, endpoint: Endpoint, check: HealthCheck) -> None:
        self.endpoint = endpoint
        self.check = check
        self._successes = 0
        self._failures = 0
        self._is_first = True
        self._changed = False

    def take(self, result: CheckResult, now: float) -> bool:
        """Take the result of a check; whether the endpoint's health is another now."""
        endpoint = self.endpoint
        before = (endpoint.fails_checks, endpoint.is_degraded_by_check, endpoint.is_checked)
        if result in (CheckResult.HEALTHY, CheckResult.DEGRADED):
            self._succeed(result, now)
        else:
            self._fail(result)
        endpoint.is_checked = True
        self._is_first = False
        self._changed = (endpoint.fails_checks, endpoint.is_degraded_by_check) != before[:2]
        return (endpoint.fails_checks, endpoint.is_degraded_by_check, endpoint.is_checked) != before

    def forget(self) -> None:
        """The endpoint is checked no more, and nothing is held against it."""
        self.endpoint.fails_checks = self.endpoint.is_degraded_by_check = False
        self.endpoint.is_checked = True

    def _succeed(self, result: CheckResult, now: float) -> None:
        endpoint = self.endpoint
        self._failures = 0
        self._successes += 1
        if endpoint.fails_checks and (self._is_first or self._successes >= self.check.healthy_threshold):
            endpoint.fails_checks = False
            endpoint.available_since = now
        endpoint.is_degraded_by_check = result is CheckResult.DEGRADED

    def _fail(self, result: CheckResult) -> None:
        self._successes = 0
        self._failures += 1
        counts_at_once = result is CheckResult.UNHEALTHY or self._is_first
        if counts_at_once or self._failures >= self.check.unhealthy_threshold:
            self.endpoint.fails_checks = True

    def next_delay(self, has_traffic: bool, random_fraction: Callable[[], float]) -> float:
        """Seconds until the next check."""
        check = self.check
        base = self._interval(has_traffic)
        jitter = check.interval_jitter * random_fraction()
        return base + jitter + base * check.interval_jitter_percent / 100 * random_fraction()

    def _interval(self, has_traffic: bool) -> float:
        check, fails = self.check, self.endpoint.fails_checks
        if not has_traffic:
            if not fails and check.no_traffic_healthy_interval is not None:
                return check.no_traffic_healthy_interval
            return check.no_traffic_interval
        if fails:
            usual = check.interval if check.unhealthy_interval is None else check.unhealthy_interval
            edge = check.unhealthy_edge_interval
        else:
            usual, edge = check.interval, check.healthy_edge_interval
        return edge if self._changed and edge is not None else usual
