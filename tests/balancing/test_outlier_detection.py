"""Ejection by rates, and its limits; consecutive failures are compared with Envoy in tests/differential."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from meshsdk import resources
from meshsdk.balancing import Cluster, Endpoint
from meshsdk.resources import (
    Address,
    EdsDiscovery,
    EndpointConfig,
    Endpoints,
    LocalityEndpoints,
    OutlierDetection,
)

Made = tuple[Cluster, list[Endpoint]]


def make(count: int = 10, chance: Callable[[], float] = lambda: 0.5, **settings: Any) -> Made:
    detection = OutlierDetection(**{"max_ejection_percent": 100, **settings})
    config = resources.Cluster("c", EdsDiscovery("c"), outlier_detection=detection)
    cluster = Cluster(config, chance)
    members = tuple(EndpointConfig(Address("10.0.0.1", port)) for port in range(1, count + 1))
    cluster.update(config, Endpoints("c", (LocalityEndpoints(members),)))
    return cluster, [endpoint for _, endpoint in cluster]


def answer(endpoint: Endpoint, status: int, times: int, now: float = 0.0) -> None:
    assert endpoint.monitor is not None
    for _ in range(times):
        endpoint.monitor.responded(status, now)


def interval(cluster: Cluster, now: float) -> None:
    assert cluster.outliers is not None
    cluster.outliers.on_interval(now)


def mixed(endpoint: Endpoint, failures: int, of: int) -> None:
    """Failures among successes, never several in a row."""
    for number in range(of):
        answer(endpoint, 500 if number < 2 * failures and number % 2 == 0 else 200, 1)


def test_an_endpoint_far_below_the_others_success_rate_is_ejected() -> None:
    cluster, members = make()
    for endpoint in members[1:]:
        answer(endpoint, 200, 100)
    mixed(members[0], 40, 100)
    interval(cluster, 10.0)
    assert [endpoint.is_ejected for endpoint in members] == [True] + [False] * 9


@pytest.mark.parametrize(
    "settings",
    [{"success_rate_request_volume": 101}, {"success_rate_minimum_hosts": 11}, {"enforcing_success_rate": 0}],
)
def test_success_rates_need_enough_requests_and_hosts(settings: dict[str, int]) -> None:
    cluster, members = make(**settings)
    for endpoint in members[1:]:
        answer(endpoint, 200, 100)
    mixed(members[0], 40, 100)
    interval(cluster, 10.0)
    assert not any(endpoint.is_ejected for endpoint in members)


def test_too_large_a_share_of_failures_ejects() -> None:
    cluster, members = make(enforcing_success_rate=0, enforcing_failure_percentage=100, failure_percentage_threshold=40)
    for endpoint in members[2:]:
        answer(endpoint, 200, 50)
    mixed(members[0], 20, 50)
    mixed(members[1], 19, 50)
    interval(cluster, 10.0)
    assert [endpoint.is_ejected for endpoint in members[:3]] == [True, False, False]


def test_counts_start_anew_with_each_interval() -> None:
    cluster, members = make()
    for endpoint in members[1:]:
        answer(endpoint, 200, 100)
    mixed(members[0], 30, 60)
    interval(cluster, 10.0)
    mixed(members[0], 30, 60)
    for endpoint in members[1:]:
        answer(endpoint, 200, 100)
    interval(cluster, 20.0)
    assert not members[0].is_ejected


def test_each_ejection_lasts_longer_than_the_one_before() -> None:
    cluster, [first, *_] = make(base_ejection_time_seconds=30, consecutive_5xx=5)
    now = 0.0
    for stay in (30, 60):
        answer(first, 500, 5, now)
        assert first.is_ejected
        interval(cluster, now + stay - 1)
        assert first.is_ejected
        now += stay
        interval(cluster, now)
        assert not first.is_ejected


def test_an_interval_in_good_standing_shortens_the_next_ejection() -> None:
    cluster, [first, *_] = make(base_ejection_time_seconds=30)
    answer(first, 500, 5, 0.0)
    interval(cluster, 30.0)
    interval(cluster, 40.0)
    answer(first, 500, 5, 40.0)
    interval(cluster, 70.0)
    assert not first.is_ejected


def test_an_ejection_never_lasts_longer_than_allowed() -> None:
    cluster, [first, *_] = make(base_ejection_time_seconds=30, max_ejection_time_seconds=40)
    now = 0.0
    for _ in range(4):
        answer(first, 500, 5, now)
        assert first.is_ejected
        now += 40
        interval(cluster, now)
        assert not first.is_ejected


def test_chance_spreads_the_return_of_endpoints() -> None:
    cluster, [first, *_] = make(base_ejection_time_seconds=30, max_ejection_time_jitter_seconds=10)
    answer(first, 500, 5, 0.0)
    interval(cluster, 34.9)
    assert first.is_ejected
    interval(cluster, 35.0)
    assert not first.is_ejected


def test_one_endpoint_may_always_be_ejected() -> None:
    _, members = make(2, max_ejection_percent=0, always_eject_one_host=True)
    answer(members[0], 500, 5)
    answer(members[1], 500, 5)
    assert [endpoint.is_ejected for endpoint in members] == [True, False]


def test_an_ejection_is_enforced_by_chance() -> None:
    draws = iter([0.5, 0.7, 0.3, 0.9])
    _, [first, second, *_] = make(chance=lambda: next(draws, 0.0), enforcing_consecutive_5xx=60)
    answer(first, 500, 5)
    answer(second, 500, 5)
    assert first.is_ejected != second.is_ejected


def test_failures_to_connect_may_be_counted_apart() -> None:
    _, [first, second, *_] = make(split_external_local_origin_errors=True, consecutive_local_origin_failure=3)
    for endpoint in (first, second):
        assert endpoint.monitor is not None
        for _ in range(2):
            endpoint.monitor.failed(0.0, timed_out=False)
    answer(second, 200, 1)
    for endpoint in (first, second):
        assert endpoint.monitor is not None
        endpoint.monitor.failed(0.0, timed_out=True)
    assert (first.is_ejected, second.is_ejected) == (True, False)


def test_failures_to_connect_count_as_server_errors_otherwise() -> None:
    _, [first, *_] = make(consecutive_gateway_failure=3, enforcing_consecutive_gateway_failure=100)
    assert first.monitor is not None
    for _ in range(3):
        first.monitor.failed(0.0, timed_out=True)
    assert first.is_ejected


def test_without_outlier_detection_everybody_comes_back() -> None:
    cluster, [first, *_] = make()
    answer(first, 500, 5)
    config = resources.Cluster("c", EdsDiscovery("c"))
    cluster.update(config, cluster.endpoints_config)
    assert not first.is_ejected
