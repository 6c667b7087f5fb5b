"""Taking endpoints out that fail, and letting them back in (Envoy docs, upstream/outlier).

Theory of operation (source/common/upstream/outlier_detection_impl.cc). Each endpoint has a monitor that hears of every
result: so many failures in a row eject it at once. At each interval the cluster looks back on the last one: endpoints
whose success rate is far below the others', or that fail too often, are ejected, and those whose time is over come
back. An endpoint stays out for base_ejection_time times the number of its recent ejections.

No timer and no clock here: `on_interval` is called by the control thread, and the time is passed in. Results come from
any thread; what they count are single steps on integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from enum import Enum

from ..resources import OutlierDetection
from .endpoint import Endpoint

__all__ = ["EndpointMonitor", "OutlierDetector"]

RandomFraction = Callable[[], float]


class Ejection(Enum):
    """Why an endpoint is ejected; each has a setting that says how often that is enforced."""

    CONSECUTIVE_5XX = "enforcing_consecutive_5xx"
    CONSECUTIVE_GATEWAY_FAILURE = "enforcing_consecutive_gateway_failure"
    CONSECUTIVE_LOCAL_ORIGIN_FAILURE = "enforcing_consecutive_local_origin_failure"
    SUCCESS_RATE = "enforcing_success_rate"
    SUCCESS_RATE_LOCAL_ORIGIN = "enforcing_local_origin_success_rate"
    FAILURE_PERCENTAGE = "enforcing_failure_percentage"
    FAILURE_PERCENTAGE_LOCAL_ORIGIN = "enforcing_failure_percentage_local_origin"


class _Rate:
    """Results of one interval."""

    __slots__ = ("successes", "total")

    def __init__(self) -> None:
        self.total = self.successes = 0

    def take(self) -> tuple[int, int]:
        """Total and successes since the last time."""
        taken = self.total, self.successes
        self.total = self.successes = 0
        return taken


class EndpointMonitor:
    """What outlier detection remembers of one endpoint."""

    __slots__ = (
        "_detector",
        "_endpoint",
        "consecutive_5xx",
        "consecutive_gateway_failure",
        "consecutive_local_origin_failure",
        "ejected_at",
        "ejections",
        "external",
        "jitter_seconds",
        "local",
    )

    def __init__(self, detector: OutlierDetector, endpoint: Endpoint) -> None:
        self._detector = detector
        self._endpoint = endpoint
        self.external = _Rate()
        self.local = _Rate()
        self.ejections = 0
        self.ejected_at = 0.0
        self.jitter_seconds = 0.0
        self.reset()

    def reset(self) -> None:
        """Forget failures in a row."""
        self.consecutive_5xx = 0
        self.consecutive_gateway_failure = 0
        self.consecutive_local_origin_failure = 0

    def responded(self, status: int, now: float) -> None:
        """The endpoint answered; a gRPC status comes as the HTTP status that it means."""
        detector = self._detector
        if detector.config.split_external_local_origin_errors:
            self.local.total += 1
            self.local.successes += 1
            self.consecutive_local_origin_failure = 0
        self._count(status, now)

    def failed(self, now: float, *, timed_out: bool) -> None:
        """There was no answer: no connection, a reset, or a timeout."""
        detector = self._detector
        if not detector.config.split_external_local_origin_errors:
            self._count(504 if timed_out else 503, now)
            return
        self.local.total += 1
        self.consecutive_local_origin_failure += 1
        if self.consecutive_local_origin_failure == detector.config.consecutive_local_origin_failure:
            self.consecutive_local_origin_failure = 0
            detector.eject(self._endpoint, Ejection.CONSECUTIVE_LOCAL_ORIGIN_FAILURE, now)

    def _count(self, status: int, now: float) -> None:
        self.external.total += 1
        if status < 500:
            self.external.successes += 1
            self.consecutive_5xx = self.consecutive_gateway_failure = 0
            return
        detector = self._detector
        if status in (502, 503, 504):
            self.consecutive_gateway_failure += 1
            if self.consecutive_gateway_failure == detector.config.consecutive_gateway_failure:
                self.consecutive_gateway_failure = 0
                detector.eject(self._endpoint, Ejection.CONSECUTIVE_GATEWAY_FAILURE, now)
        else:
            self.consecutive_gateway_failure = 0
        self.consecutive_5xx += 1
        if self.consecutive_5xx == detector.config.consecutive_5xx:
            self.consecutive_5xx = 0
            detector.eject(self._endpoint, Ejection.CONSECUTIVE_5XX, now)


class OutlierDetector:
    """The outliers of one cluster.

    Args:
        config: When to eject.
        random_fraction: Uniform in [0, 1); decides whether an ejection is enforced.

    Attributes:
        on_change: Called, from any thread, when an endpoint was ejected or came back.
        ejected: How many are out now.
        ejections: How many there have ever been.
    """

    __slots__ = ("_monitors", "_random_fraction", "config", "ejected", "ejections", "on_change")

    def __init__(self, config: OutlierDetection, random_fraction: RandomFraction) -> None:
        self.config = config
        self.ejected = self.ejections = 0
        self.on_change: Callable[[], None] = _nothing
        self._random_fraction = random_fraction
        self._monitors: dict[Endpoint, EndpointMonitor] = {}

    def configure(self, config: OutlierDetection) -> None:
        """Take other settings; what is remembered stays."""
        self.config = config

    def monitor(self, endpoint: Endpoint) -> EndpointMonitor:
        """The monitor of an endpoint that is new here."""
        monitor = self._monitors[endpoint] = EndpointMonitor(self, endpoint)
        return monitor

    def eject(self, endpoint: Endpoint, reason: Ejection, now: float) -> None:
        """Take an endpoint out, where the limits and chance let it be."""
        config, monitor = self.config, self._monitors.get(endpoint)
        if monitor is None or endpoint.is_ejected or endpoint.is_removed:
            return
        # OutlierDetection.max_ejection_percent: of all endpoints, the one in question included.
        share = 100 * (self.ejected + 1) / max(len(self._monitors), 1)
        if share > config.max_ejection_percent and not (config.always_eject_one_host and not self.ejected):
            return
        if self._random_fraction() * 100 >= getattr(config, reason.value):
            return
        endpoint.is_ejected = True
        self.ejected += 1
        self.ejections += 1
        monitor.ejected_at = now
        monitor.jitter_seconds = self._random_fraction() * config.max_ejection_time_jitter_seconds
        base = config.base_ejection_time_seconds
        if monitor.ejections * base < config.max_ejection_time_seconds + base:
            monitor.ejections += 1
        self.on_change()

    def let_back(self, endpoint: Endpoint, now: float) -> None:
        """An ejected endpoint is well again."""
        monitor = self._monitors.get(endpoint)
        if monitor is not None and endpoint.is_ejected:
            endpoint.is_ejected = False
            endpoint.available_since = now
            self.ejected -= 1
            monitor.reset()
            self.on_change()

    def on_interval(self, now: float) -> None:
        """Look back on the last interval. Control thread only."""
        for endpoint in [one for one in self._monitors if one.is_removed]:
            self._forget(endpoint)
        for endpoint, monitor in list(self._monitors.items()):
            self._check_time(endpoint, monitor, now)
        external = {endpoint: monitor.external.take() for endpoint, monitor in self._monitors.items()}
        self._judge(external, Ejection.SUCCESS_RATE, Ejection.FAILURE_PERCENTAGE, now)
        local = {endpoint: monitor.local.take() for endpoint, monitor in self._monitors.items()}
        if self.config.split_external_local_origin_errors:
            self._judge(local, Ejection.SUCCESS_RATE_LOCAL_ORIGIN, Ejection.FAILURE_PERCENTAGE_LOCAL_ORIGIN, now)

    def stop(self, endpoints: Iterable[Endpoint]) -> None:
        """Let everybody back in: there is no outlier detection any more."""
        for endpoint in endpoints:
            endpoint.is_ejected = False
            endpoint.monitor = None

    def _forget(self, endpoint: Endpoint) -> None:
        del self._monitors[endpoint]
        if endpoint.is_ejected:
            self.ejected -= 1

    def _check_time(self, endpoint: Endpoint, monitor: EndpointMonitor, now: float) -> None:
        if not endpoint.is_ejected:
            # An interval without an ejection makes the next one shorter.
            monitor.ejections = max(0, monitor.ejections - 1)
            return
        config = self.config
        stay = min(config.base_ejection_time_seconds * monitor.ejections, config.max_ejection_time_seconds)
        if now - monitor.ejected_at >= stay + monitor.jitter_seconds:
            self.let_back(endpoint, now)

    def _judge(
        self, results: dict[Endpoint, tuple[int, int]], by_rate: Ejection, by_failures: Ejection, now: float
    ) -> None:
        """Eject by success rate and by failure percentage."""
        config = self.config
        rates = {
            endpoint: (100.0 * successes / total, total)
            for endpoint, (total, successes) in results.items()
            if total and not endpoint.is_ejected
        }
        compared = {one: rate for one, (rate, total) in rates.items() if total >= config.success_rate_request_volume}
        if compared and len(compared) >= config.success_rate_minimum_hosts:
            mean = sum(compared.values()) / len(compared)
            deviation = math.sqrt(sum((rate - mean) ** 2 for rate in compared.values()) / len(compared))
            threshold = mean - config.success_rate_stdev_factor / 1000 * deviation
            for endpoint, rate in compared.items():
                if rate < threshold:
                    self.eject(endpoint, by_rate, now)
        counted = {
            one: rate for one, (rate, total) in rates.items() if total >= config.failure_percentage_request_volume
        }
        if counted and len(counted) >= config.failure_percentage_minimum_hosts:
            for endpoint, rate in counted.items():
                if 100 - rate >= config.failure_percentage_threshold:
                    self.eject(endpoint, by_failures, now)


def _nothing() -> None:
    """Nobody listens."""
