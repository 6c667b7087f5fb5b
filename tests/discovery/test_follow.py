"""Changes that are followed come to what looking for everything again comes to."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshsdk import resources
from meshsdk.discovery import CLUSTER_ROOT, Changes, DnsResolver, Graph, Resolution, Snapshot
from meshsdk.resources import (
    Address,
    AggregateDiscovery,
    EdsDiscovery,
    EndpointConfig,
    Endpoints,
    Listener,
    LocalityEndpoints,
    ResourceType,
)
from meshsdk.xds import CachedResource, ControlLoop, ResourceCache, Status

from .test_graph import routes

L, R, C, E = ResourceType.LISTENER, ResourceType.ROUTE_CONFIGURATION, ResourceType.CLUSTER, ResourceType.ENDPOINTS
CLUSTERS = ("a", "b", "c")
# Two clusters may have the same endpoints.
SERVICES = ("x", "y")


def endpoints(name: str, port: int) -> Endpoints:
    found = (EndpointConfig(Address("10.0.0.1", port)),) if port else ()
    return Endpoints(name, (LocalityEndpoints(found),))


class Twins:
    """Two graphs over one cache: one is told what has changed, the other looks for everything each time."""

    def __init__(self) -> None:
        self.cache = ResourceCache()
        dns = DnsResolver(ControlLoop("unused"), lambda: None)
        self.following, self.walking = Graph(self.cache, dns), Graph(self.cache, dns)
        self.roots = ["l0", "l1"]
        self.has_new_roots = True
        self.forgets = False
        self.now = 0.0
        for name in self.roots:
            self.put(L, name, Listener(name, route_name=name))

    def put(self, kind: ResourceType, name: str, resource: Any) -> None:
        self.cache.accept(kind, name, resource, "1", b"")

    def settle(self) -> None:
        """As the control side does: until nothing more comes of it."""
        while True:
            changed = self.cache.take_changed()
            before = self.following.resolve(None, self.now, ()).snapshot
            roots = self.roots if self.has_new_roots else None
            self.has_new_roots = False
            ours = self.following.resolve(roots, self.now, changed)
            theirs = self.walking.resolve(self.roots, self.now)
            assert said(ours) == said(theirs)
            told_all_that_changed(before, ours.snapshot)
            requests = self.cache.changes
            for kind in ResourceType:
                for name in theirs.wanted[kind]:
                    self.cache.request(kind, name)
            self.forget_unwanted(theirs)
            if self.cache.changes == requests:
                return

    def forget_unwanted(self, resolution: Resolution) -> None:
        """As a subscription does that ends."""
        for kind, name, _ in list(self.cache):
            if kind in (C, E) and name not in resolution.wanted[kind] and self.forgets:
                self.cache.forget(kind, name)


def told_all_that_changed(before: Snapshot, after: Snapshot) -> None:
    """The names that a snapshot says are other ones are those, and no others."""
    changes = after.changes if after is not before else Changes()
    assert changes is not None
    for told, old, new in (
        (changes.listeners, before.listeners, after.listeners),
        (changes.clusters, before.clusters, after.clusters),
        (changes.servers, before.servers, after.servers),
    ):
        both: set[str] = {*old, *new}
        assert told == {name for name in both if old.get(name) is not new.get(name)}


def said(resolution: Resolution) -> object:
    snapshot = resolution.snapshot
    return (
        dict(snapshot.listeners),
        dict(snapshot.clusters),
        dict(snapshot.servers),
        resolution.wanted,
        sorted(cluster.name for cluster in resolution.dns_clusters),
        resolution.ends_at,
    )


ports = st.integers(0, 3)
steps = st.one_of(
    st.tuples(st.just("endpoints"), st.sampled_from(SERVICES), ports),
    st.tuples(st.just("endpoints"), st.sampled_from(SERVICES), ports),
    st.tuples(st.just("endpoints"), st.sampled_from(SERVICES), ports),
    st.tuples(st.just("no endpoints"), st.sampled_from(SERVICES), st.booleans()),
    st.tuples(st.just("bad endpoints"), st.sampled_from(SERVICES), st.none()),
    st.tuples(st.just("cluster"), st.sampled_from(CLUSTERS), st.sampled_from((*SERVICES, "DNS", "a+b", "c+x"))),
    st.tuples(st.just("no cluster"), st.sampled_from(CLUSTERS), st.none()),
    st.tuples(st.just("routes"), st.sampled_from(("l0", "l1")), st.sets(st.sampled_from(CLUSTERS), min_size=1)),
    st.tuples(st.just("bad routes"), st.sampled_from(("l0", "l1")), st.none()),
    st.tuples(st.just("listener"), st.sampled_from(("l0", "l1")), st.sampled_from(("l0", "l1", ""))),
    st.tuples(st.just("root"), st.sampled_from(("l0", "l1", f"{CLUSTER_ROOT}c")), st.booleans()),
    st.tuples(st.just("time"), st.none(), st.sampled_from((1.0, 20.0))),
)


def carry_out(twins: Twins, what: str, name: Any, more: Any) -> None:
    match what:
        case "endpoints":
            twins.put(E, name, endpoints(name, more))
        case "no endpoints":
            twins.cache.remove(E, name, Status.DOES_NOT_EXIST if more else Status.TIMEOUT, "gone")
        case "bad endpoints":
            twins.cache.reject(E, name, "bad")
        case "cluster" if "+" in more:
            twins.put(C, name, resources.Cluster(name, AggregateDiscovery(tuple(more.split("+")))))
        case "cluster" if more == "DNS":
            by_name = resources.DnsDiscovery(endpoints("x", 1), logical=True)
            twins.put(C, name, resources.Cluster(name, EdsDiscovery("x"), fallback=by_name))
        case "cluster":
            twins.put(C, name, resources.Cluster(name, EdsDiscovery(more)))
        case "no cluster":
            twins.cache.remove(C, name, Status.DOES_NOT_EXIST, "gone")
        case "routes":
            twins.put(R, name, routes(*sorted(more)))
        case "bad routes":
            twins.cache.reject(R, name, "bad")
        case "listener" if not more:
            twins.cache.remove(L, name, Status.DOES_NOT_EXIST, "gone")
        case "listener":
            twins.put(L, name, Listener(name, route_name=more))
        case "root":
            others = [root for root in twins.roots if root != name]
            twins.roots, twins.has_new_roots = [*others, name] if more else others, True
        case "time":
            twins.now += more


def ready() -> Twins:
    twins = Twins()
    for name, service in zip(CLUSTERS, ("x", "y", "x"), strict=True):
        twins.put(C, name, resources.Cluster(name, EdsDiscovery(service)))
    for service in SERVICES:
        twins.put(E, service, endpoints(service, 1))
    twins.put(R, "l0", routes("a", "b"))
    twins.put(R, "l1", routes("c"))
    twins.settle()
    return twins


@given(st.lists(st.lists(steps, min_size=1, max_size=3), max_size=12), st.booleans())
def test_whatever_happens_following_and_walking_say_the_same(
    history: list[list[tuple[str, Any, Any]]], forgets: bool
) -> None:
    twins = ready()
    twins.forgets = forgets
    for together in history:
        for step in together:
            carry_out(twins, *step)
        twins.settle()


def test_a_changed_endpoint_is_followed_to_each_cluster_that_has_it() -> None:
    twins = ready()
    before = twins.following.resolve(None, 0.0, ())
    twins.put(E, "x", endpoints("x", 2))
    after = twins.following.resolve(None, 0.0, twins.cache.take_changed())
    assert after.snapshot.changes == Changes(clusters=frozenset(("a", "c")))
    assert after.snapshot.version == before.snapshot.version + 1
    assert after.snapshot.listeners is before.snapshot.listeners, "nothing else is touched"
    assert after.snapshot.clusters["b"] is before.snapshot.clusters["b"]
    assert after.wanted[E] is before.wanted[E]


def test_what_nothing_depends_on_changes_nothing() -> None:
    twins = ready()
    before = twins.following.resolve(None, 0.0, ())
    twins.put(E, "elsewhere", endpoints("elsewhere", 2))
    assert twins.following.resolve(None, 0.0, twins.cache.take_changed()).snapshot is before.snapshot


class Counting(ResourceCache):
    """A cache that counts how often it is looked into."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0

    def get(self, kind: ResourceType, name: str) -> CachedResource | None:
        self.looks += 1
        return super().get(kind, name)


@pytest.mark.parametrize("kind", [L, R, C, E])
def test_a_change_costs_what_it_changes_in_a_mesh_of_a_thousand_services(kind: ResourceType) -> None:
    cache = Counting()
    graph = Graph(cache, DnsResolver(ControlLoop("unused"), lambda: None))
    names = [f"s{index}" for index in range(1000)]
    makes: dict[ResourceType, Any] = {
        L: lambda name: Listener(name, route_name=name),
        R: routes,
        C: lambda name: resources.Cluster(name, EdsDiscovery(name)),
        E: lambda name: endpoints(name, 1),
    }
    for each, make in makes.items():
        for name in names:
            cache.accept(each, name, make(name), "1", b"")
    graph.resolve(names, 0.0)
    cache.take_changed()
    cache.looks = 0
    cache.accept(kind, "s7", makes[kind]("s7"), "2", b"")
    after = graph.resolve(None, 0.0, cache.take_changed()).snapshot
    assert after.changes == (Changes(frozenset(["s7"])) if kind in (L, R) else Changes(clusters=frozenset(["s7"])))
    assert cache.looks <= 2


class Failing(ResourceCache):
    """A cache that fails once, at some look into it."""

    def __init__(self) -> None:
        super().__init__()
        self.looks_left = -1

    def get(self, kind: ResourceType, name: str) -> CachedResource | None:
        self.looks_left -= 1
        if self.looks_left == 0:
            raise RuntimeError("a fault of ours")
        return super().get(kind, name)


@pytest.mark.parametrize("looks", range(1, 12))
def test_a_pass_that_fails_leaves_nothing_behind_once_all_is_looked_for_again(looks: int) -> None:
    cache = Failing()
    graph = Graph(cache, DnsResolver(ControlLoop("unused"), lambda: None))
    for name, cluster in (("l0", "a"), ("l1", "b")):
        cache.accept(L, name, Listener(name, route_name=name), "1", b"")
        cache.accept(R, name, routes(cluster), "1", b"")
        cache.accept(C, cluster, resources.Cluster(cluster, EdsDiscovery(cluster)), "1", b"")
        cache.accept(E, cluster, endpoints(cluster, 1), "1", b"")
    graph.resolve(["l0", "l1"], 0.0)
    cache.take_changed()
    cache.accept(R, "l0", routes("c"), "2", b"")
    cache.accept(C, "c", resources.Cluster("c", EdsDiscovery("c")), "1", b"")
    cache.accept(E, "c", endpoints("c", 1), "1", b"")
    cache.looks_left = looks
    with contextlib.suppress(RuntimeError):
        graph.resolve(["l0"], 0.0, cache.take_changed())
    cache.looks_left = -1
    after = graph.resolve(["l0"], 0.0)
    fresh = Graph(cache, DnsResolver(ControlLoop("unused"), lambda: None)).resolve(["l0"], 0.0)
    assert said(after) == said(fresh)
