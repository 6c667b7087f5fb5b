"""What is told of how attempts end: to outlier detection, and to load reports."""

from __future__ import annotations

from ..balancing import Endpoint
from ..balancing.client_weights import take_load_report
from .attempt import Attempt
from .outcome import OUTLIER_FAILURES, TIMEOUTS, Failure, Outcome, http_status_of

__all__ = ["count_end", "report", "take_back"]


def report(attempt: Attempt, outcome: Outcome, now: float, *, ends_later: bool = False) -> None:
    """Tell how an attempt ended, and take an endpoint's own report of its load.

    Args:
        ends_later: Whether it succeeded is not known yet; `count_end` will say.
    """
    endpoint = attempt.endpoint
    monitor = endpoint.monitor
    if monitor is not None:
        if outcome.status is not None:
            monitor.responded(http_status_of(outcome), now)
        elif outcome.failure in OUTLIER_FAILURES:
            monitor.failed(now, timed_out=outcome.failure is not Failure.CONNECT and outcome.failure in TIMEOUTS)
    if outcome.failure is Failure.OVERFLOW:
        take_back(endpoint)  # The cluster has refused it.
    elif not ends_later:
        count_end(attempt, outcome)
    if outcome.status is not None:
        take_load_report(endpoint, outcome.header("endpoint-load-metrics"), now)


def take_back(endpoint: Endpoint) -> None:
    """An attempt that was counted has never reached the endpoint, and is not told of."""
    load = endpoint.cluster.load
    if load is not None:
        load.of(endpoint).issued -= 1


def count_end(attempt: Attempt, outcome: Outcome) -> None:
    """Count a success or an error of the endpoint's, where load is reported.

    Source: envoy.config.endpoint.v3.UpstreamEndpointStats: errors are 5xx and, of gRPC, the statuses that mean as much
    (source/common/router/router.cc).
    """
    load = attempt.endpoint.cluster.load
    if load is not None:
        counts = load.of(attempt.endpoint)
        if outcome.status is None or http_status_of(outcome) >= 500:
            counts.failed += 1
        else:
            counts.succeeded += 1
