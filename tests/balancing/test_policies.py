"""Policies beyond turns and chance: slow start, reported weights, named hosts, subsets, loads that are bounded."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from meshsdk import resources
from meshsdk.balancing import Cluster, Endpoint
from meshsdk.balancing.client_weights import parse_report, take_report
from meshsdk.balancing.context import AnyRequest
from meshsdk.balancing.murmur_hash import murmur_hash_2
from meshsdk.node import Locality
from meshsdk.resources import Address, EdsDiscovery, EndpointConfig, Endpoints, HealthStatus, LocalityEndpoints
from meshsdk.resources.cluster.lb_policy import (
    ClientSideWeightedRoundRobin,
    ConsistentHashing,
    LbPolicy,
    LeastRequest,
    OverrideHost,
    PickFirst,
    RingHash,
    RoundRobin,
    SlowStart,
    Subset,
    SubsetFallback,
    SubsetSelector,
)
from meshsdk.resources.values import frozen


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def endpoint(port: int, health: HealthStatus = HealthStatus.HEALTHY, **lb: Any) -> EndpointConfig:
    return EndpointConfig(Address("10.0.0.1", port), health, metadata={"envoy.lb": lb})


def assignment(*groups: list[EndpointConfig], **fields: Any) -> Endpoints:
    """One locality and priority for each group."""
    return Endpoints(
        "c",
        tuple(
            LocalityEndpoints(tuple(group), Locality(zone=str(index)), None, index)
            for index, group in enumerate(groups)
        ),
        **fields,
    )


def cluster(policy: LbPolicy, *groups: list[EndpointConfig], clock: Clock | None = None, **fields: Any) -> Cluster:
    config = resources.Cluster("c", EdsDiscovery("c"), lb_policy=policy, **fields)
    one = Cluster(config, random.Random(3).random, clock or Clock())
    one.update(config, assignment(*groups))
    return one


class Asking(AnyRequest):
    """A request with headers."""

    def __init__(self, headers: dict[str, str]) -> None:
        super().__init__(random.Random(4).random)
        self.headers = headers

    def header(self, name: str) -> str | None:
        return self.headers.get(name)


def picks(one: Cluster, count: int = 1_000, **context: Any) -> Counter[int]:
    request = AnyRequest(random.Random(5).random, **context)
    return Counter(picked.address.port if (picked := one.pick(request)) is not None else 0 for _ in range(count))


def member(one: Cluster, port: int) -> Endpoint:
    return next(endpoint for _, endpoint in one if endpoint.address.port == port)


def test_a_new_endpoint_gets_its_full_share_only_after_its_window() -> None:
    clock = Clock()
    policy = RoundRobin(SlowStart(window_seconds=100.0))
    one = cluster(policy, [endpoint(1), endpoint(2)], clock=clock)
    clock.now += 1000
    one.update(one.config, assignment([endpoint(1), endpoint(2), endpoint(3)]))
    clock.now += 1
    assert 0 < picks(one)[3] < 100
    clock.now += 49
    assert 150 < picks(one)[3] < 250
    clock.now += 51
    assert 320 < picks(one)[3] < 345


def test_aggression_above_one_grows_fast_at_first() -> None:
    def share(aggression: float) -> int:
        clock = Clock()
        policy = RoundRobin(SlowStart(100.0, aggression, min_weight_percent=0.0))
        one = cluster(policy, [endpoint(1)], clock=clock)
        clock.now += 1000
        one.update(one.config, assignment([endpoint(1), endpoint(2)]))
        clock.now += 10
        return picks(one)[2]

    assert share(2.0) > 2 * share(1.0)


def test_an_endpoint_that_recovers_starts_slowly_too() -> None:
    clock = Clock()
    one = cluster(RoundRobin(SlowStart(100.0)), [endpoint(1), endpoint(2)], clock=clock)
    clock.now += 1000
    one.update(one.config, assignment([endpoint(1), endpoint(2, HealthStatus.UNHEALTHY)]))
    clock.now += 1000
    one.update(one.config, assignment([endpoint(1), endpoint(2)]))
    clock.now += 1
    assert picks(one)[2] < 150


def test_the_first_healthy_endpoint_is_picked_first() -> None:
    members = [endpoint(1, HealthStatus.UNHEALTHY), endpoint(2), endpoint(3)]
    assert set(picks(cluster(PickFirst(), members))) == {2}


def test_a_full_scan_always_finds_the_least_busy() -> None:
    one = cluster(LeastRequest(full_scan=True), [endpoint(port) for port in range(1, 50)])
    for _, busy in one:
        busy.active_requests = 3
    member(one, 17).active_requests = 2
    assert set(picks(one, 50)) == {17}


def test_reported_weights_share_the_traffic_after_the_blackout() -> None:
    clock = Clock()
    policy = ClientSideWeightedRoundRobin(blackout_seconds=10, update_seconds=1)
    one = cluster(policy, [endpoint(1), endpoint(2), endpoint(3)], clock=clock)

    def report(port: int, utilization: float) -> None:
        text = f"TEXT rps_fractional=100, application_utilization={utilization}"
        parsed = parse_report(text)
        assert parsed is not None
        take_report(policy, member(one, port), parsed, clock.now)

    report(1, 0.2)
    report(2, 0.8)
    clock.now += 2
    assert max(picks(one).values()) - min(picks(one).values()) <= 2
    clock.now += 10
    report(1, 0.2)
    report(2, 0.8)
    clock.now += 2
    found = picks(one, 8_750)
    # Weights 500 and 125, and their median for the endpoint that reports nothing.
    assert found[1] / found[2] == pytest.approx(4, rel=0.05)
    assert found[3] / found[2] == pytest.approx(2.5, rel=0.05)
    clock.now += 1_000
    assert max(picks(one).values()) - min(picks(one).values()) <= 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("TEXT rps_fractional=10, cpu_utilization=0.5", {"rps_fractional": 10.0, "cpu_utilization": 0.5}),
        ("TEXT named_metrics.x=1", {"named_metrics": {"x": 1.0}}),
        ('JSON {"cpu_utilization": 0.3}', {"cpu_utilization": 0.3}),
        ("JSON [1]", None),
        ("JSON {", None),
        ("nonsense", None),
        ("", None),
    ],
)
def test_load_reports_are_read_in_their_text_forms(text: str, expected: dict[str, Any] | None) -> None:
    assert parse_report(text) == expected


def test_a_header_may_name_the_endpoint() -> None:
    members = [endpoint(1), endpoint(2), endpoint(3, HealthStatus.UNHEALTHY)]
    one = cluster(OverrideHost(("x-host",), RoundRobin()), members)
    named = one.pick(Asking({"x-host": "10.0.0.1:9,10.0.0.1:2"}))
    assert named is not None
    assert named.address.port == 2
    for unusable in ("10.0.0.1:3", "10.0.0.1:77", "nonsense"):
        picked = one.pick(Asking({"x-host": unusable}))
        assert picked is not None
        assert picked.address.port in (1, 2)


def test_which_health_may_be_named_is_configurable() -> None:
    one = cluster(
        OverrideHost(("x-host",), RoundRobin()),
        [endpoint(1), endpoint(2, HealthStatus.DRAINING)],
        override_host_status=frozenset({HealthStatus.DRAINING}),
    )
    draining = one.pick(Asking({"x-host": "10.0.0.1:2"}))
    assert draining is not None
    assert draining.address.port == 2


def subset(**fields: Any) -> Subset:
    return Subset(RoundRobin(), selectors=(SubsetSelector(("v",)),), **fields)


def criteria(**values: Any) -> tuple[tuple[str, object], ...]:
    return tuple((key, frozen(values[key])) for key in sorted(values))


def test_a_list_may_stand_for_each_of_its_items() -> None:
    members = [endpoint(1, v=["a", "b"]), endpoint(2, v="b")]
    assert set(picks(cluster(subset(list_as_any=True), members), metadata_match=criteria(v="b"))) == {1, 2}
    assert set(picks(cluster(subset(), members), metadata_match=criteria(v="b"))) == {2}


def test_a_list_of_metadata_is_tried_in_order() -> None:
    members = [endpoint(1, v="a"), endpoint(2, v="b")]
    one = cluster(subset(fallback_list=True), members)
    wanted = criteria(fallback_list=[{"v": "missing"}, {"v": "b"}])
    assert set(picks(one, metadata_match=wanted)) == {2}


def test_redundant_keys_of_a_route_may_be_left_out() -> None:
    members = [endpoint(1, v="a"), endpoint(2, v="b")]
    wanted = criteria(other="x", v="b")
    assert set(picks(cluster(subset(allow_redundant_keys=True), members), metadata_match=wanted)) == {2}
    assert set(picks(cluster(subset(), members), metadata_match=wanted)) == {0}


def test_fallbacks_of_selectors() -> None:
    members = [endpoint(1, v="a", s="x"), endpoint(2, v="b", s="y")]

    def one(fallback: SubsetFallback, **fields: Any) -> set[int]:
        selector = SubsetSelector(("s", "v"), fallback, **fields)
        policy = Subset(RoundRobin(), selectors=(selector, SubsetSelector(("v",))), default=criteria(v="a"))
        return set(picks(cluster(policy, members), metadata_match=criteria(s="missing", v="b")))

    assert one(SubsetFallback.ANY_ENDPOINT) == {1, 2}
    assert one(SubsetFallback.DEFAULT_SUBSET) == {1}
    assert one(SubsetFallback.KEYS_SUBSET, fallback_keys=("v",)) == {2}
    assert one(SubsetFallback.NO_FALLBACK) == {0}


def test_in_panic_mode_any_endpoint_will_do() -> None:
    members = [endpoint(1, v="a")]
    policy = subset(fallback=SubsetFallback.DEFAULT_SUBSET, default=criteria(v="z"), panic_mode_any=True)
    assert set(picks(cluster(policy, members), metadata_match=criteria(v="b"))) == {1}


def test_an_overloaded_endpoint_is_passed_over_on_the_ring() -> None:
    policy = RingHash(common=ConsistentHashing(balance_factor=120))
    one = cluster(policy, [endpoint(port) for port in range(1, 6)])
    request = AnyRequest(random.random, hash_key=12345)
    first = one.pick(request)
    assert first is not None
    first.active_requests = one.breaker.requests = 10
    second = one.pick(request)
    assert second is not None
    assert second is not first
    assert one.pick(request) is second


def test_fail_traffic_on_panic_picks_nobody() -> None:
    members = [endpoint(1), *(endpoint(port, HealthStatus.UNHEALTHY) for port in (2, 3, 4))]
    assert set(picks(cluster(RoundRobin(), members, fail_traffic_on_panic=True))) == {0}


def test_endpoints_wait_for_their_first_check_without_being_missed() -> None:
    check = resources.HealthCheck(resources.HealthCheckKind.TCP, 1, 1, 1, 1)
    one = cluster(
        RoundRobin(), [endpoint(1)], [endpoint(9)], ignore_new_hosts_until_first_hc=True, health_checks=(check,)
    )
    for _, checked in one:
        checked.is_checked = True
    one.update(one.config, assignment([endpoint(1), endpoint(2), endpoint(3)], [endpoint(9)]))
    assert set(picks(one)) == {1}
    member(one, 2).is_checked = True
    one.refresh()
    assert set(picks(one)) == {1, 2}


def test_murmur_hash_is_that_of_the_standard_library_of_gnu() -> None:
    # Values of std::hash<std::string> in libstdc++.
    assert murmur_hash_2(b"") == 6142509188972423790
    assert murmur_hash_2(b"a") == 4993892634952068459
    assert murmur_hash_2(b"abcdefgh") == 8664279048047335611
