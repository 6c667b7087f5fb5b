"""Filters that shed load, by a clock of the test's own."""

from __future__ import annotations

import math

import pytest

from meshsdk.inbound.filters.adaptive_concurrency import GradientController
from meshsdk.inbound.filters.admission_control import AdmissionController
from meshsdk.resources.filters.load_shedding import AdaptiveConcurrency, AdmissionControl


@pytest.mark.parametrize(
    ("settings", "successes", "failures", "expected"),
    [
        (AdmissionControl(), 100, 0, 0.0),
        (AdmissionControl(), 95, 5, 0.0),
        (AdmissionControl(), 0, 99, 0.8),
        (AdmissionControl(max_probability=1.0), 0, 99, 0.99),
        (AdmissionControl(success_threshold=1.0, max_probability=1.0), 50, 49, 49 / 100),
        (AdmissionControl(success_threshold=1.0, max_probability=1.0, aggression=2.0), 50, 49, math.sqrt(49 / 100)),
        (AdmissionControl(rps_threshold=100), 0, 99, 0.0),
        (AdmissionControl(rps_threshold=99), 0, 99, 0.8),
    ],
)
def test_the_probability_of_a_refusal_is_envoys(
    settings: AdmissionControl, successes: int, failures: int, expected: float
) -> None:
    controller = AdmissionController(settings)
    for number in range(successes + failures):
        controller.record(number < successes, 1000.0)
    assert controller.probability(1000.5) == pytest.approx(expected)


def test_what_is_older_than_the_window_is_forgotten() -> None:
    controller = AdmissionController(AdmissionControl(window_seconds=5.0))
    for _ in range(10):
        controller.record(False, 1000.0)
    assert controller.probability(1004.9) == 0.8
    assert controller.probability(1005.0) == 0.0
    controller.record(True, 1005.0)
    assert controller.probability(1005.0) == 0.0


def run(controller: GradientController, count: int, latency: float, now: float) -> float:
    """Requests one after the other; the time when the last one ends."""
    for _ in range(count):
        token = object()
        assert controller.begin(token, now)
        controller.end(token, now, now + latency, is_complete=True)
        now += latency
    return now


def test_the_limit_rises_while_requests_are_fast_and_falls_when_they_get_slow() -> None:
    controller = GradientController(AdaptiveConcurrency(min_rtt_requests=10, jitter=0.0), lambda: 0.0)
    assert controller.limit == 3
    now = run(controller, 10, 0.010, 1000.0)
    for _ in range(5):
        now = run(controller, 11, 0.010, now)
    risen = controller.limit
    assert risen >= 20
    for _ in range(3):
        now = run(controller, 3, 0.100, now)
    assert controller.limit < risen


def test_the_new_limit_is_the_gradients_with_room_for_bursts() -> None:
    controller = GradientController(AdaptiveConcurrency(min_rtt_seconds=0.010, min_limit=16), lambda: 0.0)
    run(controller, 5, 0.025, 1000.0)
    assert controller.begin(object(), 1001.0)
    # (10 ms + 25 %) / 25 ms is a half; of 16 that is 8, and the lower bound is 16.
    assert controller.limit == 16
    run(controller, 5, 0.010, 1002.0)
    assert controller.begin(object(), 1003.0)
    assert controller.limit == int(16 * 1.25 + math.sqrt(16 * 1.25))


def test_no_more_requests_than_the_limit_run_at_once_and_broken_off_ones_make_room() -> None:
    controller = GradientController(AdaptiveConcurrency(), lambda: 0.0)
    tokens = [object() for _ in range(4)]
    assert [controller.begin(token, 1000.0) for token in tokens] == [True, True, True, False]
    controller.end(tokens[0], 1000.0, 1000.1, is_complete=False)
    assert controller.begin(tokens[3], 1000.2)


def test_the_least_latency_is_measured_anew_after_its_interval() -> None:
    settings = AdaptiveConcurrency(min_rtt_requests=5, min_rtt_interval_seconds=10.0, jitter=0.0)
    controller = GradientController(settings, lambda: 0.0)
    now = run(controller, 5, 0.010, 1000.0)
    now = run(controller, 50, 0.010, now)
    before = controller.limit
    run(controller, 1, 0.010, now + 11)
    assert controller.limit == 3
    run(controller, 5, 0.010, now + 12)
    assert controller.limit >= before
