"""Picking endpoints: policies, weights, localities, priorities, panic. Seeds are printed on failure by the counts."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest

from meshsdk import resources
from meshsdk.balancing import Cluster
from meshsdk.balancing.context import AnyRequest
from meshsdk.node import Locality
from meshsdk.resources import (
    Address,
    EdsDiscovery,
    EndpointConfig,
    Endpoints,
    HealthStatus,
    LeastRequest,
    LocalityEndpoints,
    Random,
    RoundRobin,
)

Group = tuple[int, int | None, list[EndpointConfig]]


def endpoint(port: int, weight: int = 1, health: HealthStatus = HealthStatus.HEALTHY) -> EndpointConfig:
    return EndpointConfig(Address("10.0.0.1", port), health, weight)


def endpoints(*groups: Group) -> Endpoints:
    """Groups of (priority, weight, endpoints)."""
    return Endpoints(
        "c",
        tuple(
            LocalityEndpoints(tuple(members), Locality(zone=str(index)), weight, priority)
            for index, (priority, weight, members) in enumerate(groups)
        ),
    )


def cluster(*groups: Group, seed: int = 7, **config: Any) -> Cluster:
    made = resources.Cluster("c", EdsDiscovery("c"), **config)
    one = Cluster(made, random.Random(seed).random)
    one.update(made, endpoints(*groups))
    return one


def picks(one: Cluster, count: int = 10_000, seed: int = 11) -> Counter[int]:
    request = AnyRequest(random.Random(seed).random)
    found: Counter[int] = Counter()
    for _ in range(count):
        picked = one.pick(request)
        found[picked.address.port if picked is not None else 0] += 1
    return found


def assert_share(count: int, total: int, share: float) -> None:
    """Within five standard deviations."""
    assert abs(count - total * share) <= 5 * math.sqrt(total * share * (1 - share)) + 1


def test_round_robin_takes_turns_exactly() -> None:
    found = picks(cluster((0, None, [endpoint(p) for p in (1, 2, 3)])), 9_999)
    assert set(found.values()) == {3333}


def test_weighted_round_robin_keeps_the_weights_in_every_short_run() -> None:
    one = cluster((0, None, [endpoint(1, 3), endpoint(2, 1)]))
    for _ in range(100):
        assert picks(one, 4) == {1: 3, 2: 1}


@pytest.mark.parametrize("policy", [Random(), LeastRequest()])
def test_random_policies_are_even_when_nobody_is_busy(policy: resources.LbPolicy) -> None:
    found = picks(cluster((0, None, [endpoint(p) for p in (1, 2, 3, 4)]), lb_policy=policy))
    for port in (1, 2, 3, 4):
        assert_share(found[port], 10_000, 0.25)


def test_least_request_avoids_the_busy_endpoint() -> None:
    one = cluster((0, None, [endpoint(1), endpoint(2)]), lb_policy=LeastRequest())
    busy = next(member for _, member in one if member.address.port == 1)
    busy.active_requests = 10
    # The busy one is picked only when both choices fall on it.
    assert_share(picks(one)[1], 10_000, 0.25)


def test_weighted_least_request_weighs_by_load() -> None:
    one = cluster((0, None, [endpoint(1, 2), endpoint(2, 1)]), lb_policy=LeastRequest())
    assert_share(picks(one, 9_000)[1], 9_000, 2 / 3)


def test_unhealthy_endpoints_get_nothing_while_others_are_there() -> None:
    members = [endpoint(1), endpoint(2), endpoint(3, health=HealthStatus.UNHEALTHY)]
    assert picks(cluster((0, None, members)))[3] == 0


def test_below_the_panic_threshold_health_is_ignored() -> None:
    sick = [endpoint(port, health=HealthStatus.UNHEALTHY) for port in (2, 3)]
    members = [endpoint(1), *sick, endpoint(4, health=HealthStatus.DRAINING)]
    assert set(picks(cluster((0, None, members)))) == {1, 2, 3, 4}


def test_endpoints_that_drain_are_not_counted_as_missing() -> None:
    members = [endpoint(1), *(endpoint(port, health=HealthStatus.DRAINING) for port in (2, 3, 4))]
    assert set(picks(cluster((0, None, members), (1, None, [endpoint(5)])))) == {1}


def test_without_panic_a_dead_cluster_has_nobody_to_pick() -> None:
    members = [endpoint(1, health=HealthStatus.UNHEALTHY)]
    assert picks(cluster((0, None, members), healthy_panic_threshold=0.0), 10) == {0: 10}


def test_overprovisioning_spills_only_what_a_priority_cannot_take() -> None:
    # Envoy docs, load_balancing/priority: 50 percent healthy times 1.4 is 70 percent of the traffic.
    half = [endpoint(1), endpoint(2, health=HealthStatus.UNHEALTHY)]
    one = cluster((0, None, half), (1, None, [endpoint(3)]))
    assert_share(picks(one)[1], 10_000, 0.70)
    enough = [endpoint(p) for p in (1, 2, 3)] + [endpoint(4, health=HealthStatus.UNHEALTHY)]
    assert picks(cluster((0, None, enough), (1, None, [endpoint(9)])))[9] == 0


def test_degraded_endpoints_are_the_last_resort() -> None:
    members = [endpoint(1, health=HealthStatus.DEGRADED), endpoint(2)]
    found = picks(cluster((0, None, members)))
    assert_share(found[2], 10_000, 0.70)


def test_localities_share_by_their_weights() -> None:
    one = cluster((0, 3, [endpoint(1)]), (0, 1, [endpoint(2), endpoint(3)]), locality_weighted=True)
    assert_share(picks(one, 8_000)[1], 8_000, 0.75)


def test_a_locality_without_weight_gets_nothing_where_localities_are_weighed() -> None:
    one = cluster((0, 1, [endpoint(1)]), (0, None, [endpoint(2)]), locality_weighted=True)
    assert picks(one, 1_000) == {1: 1_000}


def test_an_endpoint_keeps_its_identity_and_statistics_over_updates() -> None:
    one = cluster((0, None, [endpoint(1), endpoint(2)]))
    before = {member.address.port: member for _, member in one}
    before[1].active_requests = 5
    one.update(one.config, endpoints((0, None, [endpoint(1, weight=9), endpoint(3)])))
    after = {member.address.port: member for _, member in one}
    assert after[1] is before[1]
    assert after[1].active_requests == 5
    assert after[1].weight == 9
    assert before[2].is_removed


def test_an_aggregate_fails_over_to_the_next_cluster() -> None:
    first = cluster((0, None, [endpoint(1, health=HealthStatus.UNHEALTHY)]))
    second = cluster((0, None, [endpoint(2)]))
    config = resources.Cluster("a", resources.AggregateDiscovery(("c1", "c2")), RoundRobin())
    aggregate = Cluster(config)
    aggregate.update_aggregate(config, [first, second])
    assert picks(aggregate, 100) == {2: 100}
