"""Shares and tiers, as they are written down for engines that pick for themselves, against meshsdk's own picks."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest

from meshsdk.balancing import Cluster
from meshsdk.balancing.allocation import allocate
from meshsdk.node import Locality
from meshsdk.resources import (
    Address,
    EdsDiscovery,
    EndpointConfig,
    Endpoints,
    HealthStatus,
    LbPolicy,
    LocalityEndpoints,
    Random,
    RoundRobin,
)
from meshsdk.resources import Cluster as ClusterConfig
from meshsdk.resources.cluster.lb_policy import PickFirst, RingHash

ROUND_ROBIN = RoundRobin()
HEALTHY, UNHEALTHY, DEGRADED = HealthStatus.HEALTHY, HealthStatus.UNHEALTHY, HealthStatus.DEGRADED


class Anybody:
    """A request that asks for nothing special."""

    hash_key = None
    metadata_match = ()
    pick_number = 0

    def __init__(self, seed: int) -> None:
        self.random_fraction = random.Random(seed).random

    def header(self, name: str) -> None:
        return None


def locality(
    *endpoints: tuple[int, int, HealthStatus], weight: int | None = None, priority: int = 0, zone: str = "a"
) -> LocalityEndpoints:
    made = tuple(EndpointConfig(Address("127.0.0.1", port), health, each) for port, each, health in endpoints)
    return LocalityEndpoints(made, Locality(zone=zone), weight, priority)


def cluster(*localities: LocalityEndpoints, policy: LbPolicy = ROUND_ROBIN, **settings: Any) -> Cluster:
    config = ClusterConfig("x", EdsDiscovery("x"), lb_policy=policy, **settings)
    made = Cluster(config, random.Random(7).random)
    made.update(config, Endpoints("x", localities))
    return made


CASES = {
    "equal": cluster(locality((1, 1, HEALTHY), (2, 1, HEALTHY), (3, 1, HEALTHY))),
    "endpoint weights": cluster(locality((1, 1, HEALTHY), (2, 3, HEALTHY), (3, 3, HEALTHY), (4, 10, HEALTHY))),
    "random ignores weights": cluster(locality((1, 1, HEALTHY), (2, 9, HEALTHY)), policy=Random()),
    "localities by weight": cluster(
        locality((1, 1, HEALTHY), (2, 1, HEALTHY), weight=1, zone="a"),
        locality((3, 1, HEALTHY), weight=3, zone="b"),
        locality_weighted=True,
    ),
    "localities without weighting": cluster(
        locality((1, 1, HEALTHY), (2, 1, HEALTHY), weight=1, zone="a"), locality((3, 1, HEALTHY), weight=9, zone="b")
    ),
    "a locality half away": cluster(
        locality((1, 1, HEALTHY), (2, 1, UNHEALTHY), (5, 1, UNHEALTHY), weight=1, zone="a"),
        locality((3, 1, HEALTHY), (4, 1, HEALTHY), weight=1, zone="b"),
        locality_weighted=True,
    ),
    "spilling to the next priority": cluster(
        locality((1, 1, HEALTHY), (2, 1, UNHEALTHY)), locality((3, 1, HEALTHY), priority=1)
    ),
    "degraded": cluster(locality((1, 1, DEGRADED), (2, 1, HEALTHY), (3, 1, UNHEALTHY))),
    "panic": cluster(locality((1, 1, UNHEALTHY), (2, 1, UNHEALTHY), (3, 1, UNHEALTHY), (4, 1, HEALTHY))),
}


@pytest.mark.parametrize("name", CASES)
def test_the_first_tier_has_the_shares_of_our_own_picks(name: str) -> None:
    one, picks = CASES[name], 20_000
    context = Anybody(11)
    seen = Counter(picked.address.port for _ in range(picks) if (picked := one.pick(context)) is not None)
    expected: dict[int, float] = {}
    first = allocate(one)[0]
    total = sum(share.weight for share in first)
    for share in first:
        for endpoint in share.endpoints:
            part = share.weight / total / len(share.endpoints)
            expected[endpoint.address.port] = expected.get(endpoint.address.port, 0.0) + part
    assert math.isclose(sum(expected.values()), 1.0)
    assert seen.keys() == expected.keys()
    for port, share in expected.items():
        # Five standard deviations of a binomial.
        assert abs(seen[port] - picks * share) <= 5 * math.sqrt(picks * share * (1 - share)) + 1, (name, port)


def test_priorities_that_get_nothing_now_are_the_next_tiers() -> None:
    one = cluster(
        locality((1, 1, HEALTHY)), locality((2, 1, HEALTHY), priority=1), locality((3, 1, HEALTHY), priority=2)
    )
    assert [[end.address.port for share in tier for end in share.endpoints] for tier in allocate(one)] == [
        [1],
        [2],
        [3],
    ]


def test_nobody_to_pick_is_no_tier() -> None:
    assert allocate(cluster()) == ()
    assert allocate(cluster(locality((1, 1, UNHEALTHY)), healthy_panic_threshold=0.0)) == ()
    assert allocate(cluster(locality((1, 1, UNHEALTHY)), fail_traffic_on_panic=True)) == ()


@pytest.mark.parametrize("policy", [RingHash(), PickFirst()])
def test_policies_that_choose_among_all_get_all_in_one_share(policy: LbPolicy) -> None:
    one = cluster(locality((1, 1, HEALTHY), (2, 5, HEALTHY)), policy=policy)
    ((share,),) = allocate(one)
    assert [endpoint.weight for endpoint in share.endpoints] == [1, 5]
