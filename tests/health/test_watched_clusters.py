"""Health of clusters that change: what becomes of what was found, and who hears of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from meshsdk import resources
from meshsdk.balancing import Cluster, Endpoint
from meshsdk.balancing.context import AnyRequest
from meshsdk.discovery import ClusterView, Snapshot
from meshsdk.exchange.directory import Directory
from meshsdk.health.watcher import HealthWatcher
from meshsdk.resources import (
    Address,
    AggregateDiscovery,
    EdsDiscovery,
    EndpointConfig,
    Endpoints,
    HealthCheck,
    HealthCheckKind,
    LocalityEndpoints,
    OutlierDetection,
)
from meshsdk.security import Secrets


class _Timer:
    def cancel(self) -> None:
        pass


class _Loop:
    """The control thread, whose work a test has done."""

    def __init__(self) -> None:
        self._posted: deque[Callable[[], None]] = deque()

    def post(self, work: Callable[[], None]) -> None:
        self._posted.append(work)

    def call_later(self, seconds: float, work: Callable[[], None]) -> _Timer:
        return _Timer()

    def run(self) -> None:
        while self._posted:
            self._posted.popleft()()


class World:
    """Clusters as snapshots have them, and their health looked after."""

    def __init__(self) -> None:
        self.loop = _Loop()
        self._directory = Directory()
        self._watcher = HealthWatcher(self.loop, Secrets(), lambda _: None)  # type: ignore[arg-type]
        self._views: dict[str, ClusterView] = {}
        self._version = 0

    def put(self, config: resources.Cluster, *ports: int) -> Cluster:
        """A cluster comes, or changes; one of endpoints has them at these ports."""
        members = tuple(EndpointConfig(Address("10.0.0.1", port)) for port in ports)
        endpoints = Endpoints(config.name, (LocalityEndpoints(members),)) if ports else None
        self._version += 1
        self._views = {**self._views, config.name: ClusterView(config, endpoints)}
        self._directory = self._directory.advance(Snapshot(self._version, clusters=self._views), 0.0)
        self._watcher.follow([config.name], self._directory.clusters)
        self.loop.run()
        return self._directory.clusters[config.name]


def of_endpoints(name: str, **fields: Any) -> resources.Cluster:
    return resources.Cluster(name, EdsDiscovery(name), **fields)


def of_clusters(name: str, *names: str) -> resources.Cluster:
    return resources.Cluster(name, AggregateDiscovery(names))


def members(cluster: Cluster) -> list[Endpoint]:
    return [endpoint for _, endpoint in cluster]


def ports(cluster: Cluster) -> set[int]:
    return {one.address.port for one in members(cluster)}


def picked(cluster: Cluster) -> set[int]:
    picks = (cluster.pick(AnyRequest(lambda: 0.5)) for _ in range(100))
    return {one.address.port for one in picks if one is not None}


def eject(endpoint: Endpoint) -> None:
    for _ in range(5):
        endpoint.monitor.responded(500, 0.0)


@pytest.mark.parametrize("again", [False, True])
def test_an_ejected_endpoint_gets_nothing_by_aggregates_of_aggregates_either(*, again: bool) -> None:
    world = World()
    detection = OutlierDetection()
    inner = world.put(of_endpoints("c", outlier_detection=detection), *range(1, 12))
    world.put(of_clusters("b", "c"))
    outer = world.put(of_clusters("a", "b"))
    if again:
        # Without, and with it once more before its interval has passed.
        world.put(of_endpoints("c"), *range(1, 12))
        inner = world.put(of_endpoints("c", outlier_detection=detection), *range(1, 12))
    first = members(inner)[0]
    assert picked(inner) == picked(outer) == set(range(1, 12))
    eject(first)
    world.loop.run()
    assert first.is_ejected
    assert picked(inner) == picked(outer) == set(range(1, 12)) - {first.address.port}


def test_a_cluster_becomes_an_aggregate_and_one_of_endpoints_again() -> None:
    world = World()
    world.put(of_endpoints("b"), 2)
    world.put(of_endpoints("a"), 1)
    old = members(world.put(of_endpoints("a"), 1))[0]
    aggregate = world.put(of_clusters("a", "b"))
    assert ports(aggregate) == {2}
    assert old.is_removed, "connections to it are closed"
    assert aggregate.endpoint("10.0.0.1:1") is None
    own = world.put(of_endpoints("a"), 1)
    assert ports(own) == {1}
    world.put(of_endpoints("b"), 2, 3)
    assert ports(own) == picked(own) == {1}


def test_checks_that_are_no_more_hold_nothing_against_anybody() -> None:
    world = World()
    check = HealthCheck(HealthCheckKind.TCP, 1.0, 1.0, 1, 1)
    cluster = world.put(of_endpoints("c", health_checks=(check,)), 1, 2)
    failing, waiting = members(cluster)
    failing.is_checked, failing.fails_checks = True, True
    cluster.refresh()
    assert not failing.is_healthy
    assert not waiting.is_healthy
    cluster = world.put(of_endpoints("c"), 1, 2)
    assert all(one.is_healthy for one in members(cluster))
    assert picked(cluster) == {1, 2}
