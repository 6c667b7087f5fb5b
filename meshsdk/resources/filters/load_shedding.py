"""Filters that refuse requests to keep a server from drowning: admission_control and adaptive_concurrency.

Sources: envoy.extensions.filters.http.admission_control.v3, envoy.extensions.filters.http.adaptive_concurrency.v3.
"""

from __future__ import annotations

from typing import Any

from envoy.extensions.filters.http.adaptive_concurrency.v3 import adaptive_concurrency_pb2
from envoy.extensions.filters.http.admission_control.v3 import admission_control_pb2
from msgspec import Struct

from ...errors import ResourceError
from ..notes import Notes
from ..values import optional, seconds, unpack
from .settings import FilterSetting

__all__ = [
    "AdaptiveConcurrency",
    "AdmissionControl",
    "parse_adaptive_concurrency",
    "parse_admission_control",
]


_ADMISSION_FIELDS = frozenset(
    "enabled success_criteria sampling_window aggression sr_threshold rps_threshold max_rejection_probability".split()
)
_CONCURRENCY_FIELDS = frozenset("gradient_controller_config enabled concurrency_limit_exceeded_status".split())

# What Envoy takes for a success where nothing is said: the statuses that are the caller's doing.
_GRPC_SUCCESSES = frozenset({0, 1, 2, 3, 5, 6, 9, 11, 12, 16})


class AdmissionControl(FilterSetting, Struct, frozen=True, gc=False):
    """Refuses the more requests the more of the last ones failed (AdmissionControl).

    Attributes:
        window_seconds: How far back it looks.
        aggression: 1 is linear; more refuses earlier.
        success_threshold: Share of successes at which nothing is refused.
        rps_threshold: Requests per second under which nothing is refused.
        max_probability: Of a refusal.
        http_successes: Ranges [start, end) of statuses.
        grpc_successes: Codes.
    """

    window_seconds: float = 30.0
    aggression: float = 1.0
    success_threshold: float = 0.95
    rps_threshold: int = 0
    max_probability: float = 0.8
    http_successes: tuple[tuple[int, int], ...] = ((0, 500),)
    grpc_successes: frozenset[int] = _GRPC_SUCCESSES
    is_enabled: bool = True


def parse_admission_control(container: Any, where: str, notes: Notes) -> AdmissionControl:
    """The AdmissionControl inside a google.protobuf.Any.

    Raises:
        ResourceError: A range or threshold makes no sense.
    """
    message = unpack(container, admission_control_pb2.AdmissionControl, where)
    notes.unless_acted_on(message, where, _ADMISSION_FIELDS)
    criteria = message.success_criteria
    if message.WhichOneof("evaluation_criteria") is None:
        raise ResourceError(f"{where}.success_criteria", "must be set")
    ranges = tuple((one.start, one.end) for one in criteria.http_criteria.http_success_status)
    if any(not 100 <= start < end <= 600 for start, end in ranges):
        raise ResourceError(f"{where}.success_criteria.http_criteria", "a range must lie in [100, 600)")
    codes = frozenset(criteria.grpc_criteria.grpc_success_status)
    if any(code > 16 for code in codes):
        raise ResourceError(f"{where}.success_criteria.grpc_criteria", "gRPC has no code above 16")
    threshold = _percent(message, "sr_threshold", 95.0)
    if threshold < 0.01:
        raise ResourceError(f"{where}.sr_threshold", "must be 1 % at least")
    window = seconds(message, "sampling_window")
    return AdmissionControl(
        window_seconds=max(1.0, float(int(window))) if window is not None else 30.0,
        aggression=max(1.0, message.aggression.default_value) if message.HasField("aggression") else 1.0,
        success_threshold=min(1.0, threshold),
        rps_threshold=message.rps_threshold.default_value,
        max_probability=_percent(message, "max_rejection_probability", 80.0),
        is_enabled=_is_enabled(message),
        http_successes=ranges if criteria.HasField("http_criteria") else ((0, 500),),
        grpc_successes=codes if criteria.HasField("grpc_criteria") else _GRPC_SUCCESSES,
    )


def _is_enabled(message: Any) -> bool:
    return bool(message.enabled.default_value.value) if message.HasField("enabled") else True


def _percent(message: Any, name: str, default: float) -> float:
    """A RuntimePercent as a share."""
    percent = getattr(message, name).default_value.value if message.HasField(name) else default
    return min(1.0, max(0.0, percent / 100.0))


class AdaptiveConcurrency(FilterSetting, Struct, frozen=True, gc=False):
    """Lets only so many requests run at once that they stay fast (GradientControllerConfig).

    Attributes:
        percentile: Which of the latencies of a window stands for them, as a share.
        update_seconds: How often the limit is reckoned anew.
        max_limit, min_limit: Its bounds; while the least latency is measured, it is the lower one.
        min_rtt_seconds: The least latency, where it is given and not measured.
        min_rtt_interval_seconds, min_rtt_requests: How often it is measured, and on how many requests.
        jitter: Share of the interval by which it may be longer.
        buffer: Share of the least latency that may be added to it without the limit falling.
        status: Of refusals.
    """

    percentile: float = 0.5
    update_seconds: float = 0.1
    max_limit: int = 1000
    min_limit: int = 3
    min_rtt_seconds: float | None = None
    min_rtt_interval_seconds: float = 60.0
    min_rtt_requests: int = 50
    jitter: float = 0.15
    buffer: float = 0.25
    status: int = 503
    is_enabled: bool = True


def parse_adaptive_concurrency(container: Any, where: str, notes: Notes) -> AdaptiveConcurrency:
    """The AdaptiveConcurrency inside a google.protobuf.Any.

    Raises:
        ResourceError: It does not say where the least latency comes from.
    """
    message = unpack(container, adaptive_concurrency_pb2.AdaptiveConcurrency, where)
    notes.unless_acted_on(message, where, _CONCURRENCY_FIELDS)
    path = f"{where}.gradient_controller_config"
    if not message.HasField("gradient_controller_config"):
        raise ResourceError(path, "must be set")
    config = message.gradient_controller_config
    limits, least = config.concurrency_limit_params, config.min_rtt_calc_params
    interval, fixed = seconds(least, "interval"), seconds(least, "fixed_value")
    if (interval is None) is (fixed is None):
        raise ResourceError(f"{path}.min_rtt_calc_params", "must have either interval or fixed_value")
    status = message.concurrency_limit_exceeded_status.code

    def share(holder: Any, name: str, default: float) -> float:
        return getattr(holder, name).value / 100.0 if holder.HasField(name) else default

    return AdaptiveConcurrency(
        percentile=share(config, "sample_aggregate_percentile", 0.5),
        update_seconds=seconds(limits, "concurrency_update_interval") or 0.1,
        max_limit=optional(limits, "max_concurrency_limit") or 1000,
        min_limit=optional(least, "min_concurrency") or 3,
        min_rtt_seconds=fixed,
        min_rtt_interval_seconds=interval or 0.0,
        min_rtt_requests=optional(least, "request_count") or 50,
        jitter=share(least, "jitter", 0.15),
        buffer=share(least, "buffer", 0.25),
        status=status if status >= 400 else 503,
        is_enabled=_is_enabled(message),
    )
