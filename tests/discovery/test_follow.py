"""Changes of endpoints that are followed instead of walked for come to what a walk comes to."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from meshsdk import resources
from meshsdk.discovery import DnsResolver, Graph, Resolution
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
from meshsdk.xds import ControlLoop, ResourceCache, Status

from .test_graph import routes

L, R, C, E = ResourceType.LISTENER, ResourceType.ROUTE_CONFIGURATION, ResourceType.CLUSTER, ResourceType.ENDPOINTS
CLUSTERS = ("a", "b", "c")
# Two clusters may have the same endpoints.
SERVICES = ("x", "y")


def endpoints(name: str, port: int) -> Endpoints:
    found = (EndpointConfig(Address("10.0.0.1", port)),) if port else ()
    return Endpoints(name, (LocalityEndpoints(found),))


class Twins:
    """Two graphs over one cache: one follows where it can, the other always walks."""

    def __init__(self) -> None:
        self.cache = ResourceCache()
        dns = DnsResolver(ControlLoop("unused"), lambda: None)
        self.following, self.walking = Graph(self.cache, dns), Graph(self.cache, dns)
        self.roots = ["l0", "l1"]
        self.now = 0.0
        self.followed = 0
        for name in self.roots:
            self.put(L, name, Listener(name, route_name=name))

    def put(self, kind: ResourceType, name: str, resource: Any) -> None:
        self.cache.accept(kind, name, resource, "1", b"")

    def settle(self) -> None:
        """As the control side does: until nothing more comes of it."""
        while True:
            changed = self.cache.take_changed()
            followed = self.following.follow(changed)
            self.followed += followed is not None
            ours = followed if followed is not None else self.following.resolve(self.roots, self.now)
            theirs = self.walking.resolve(self.roots, self.now)
            assert said(ours) == said(theirs)
            before = self.cache.changes
            for kind, names in theirs.wanted.items():
                for name in names:
                    self.cache.request(kind, name)
            if self.cache.changes == before:
                return


def said(resolution: Resolution) -> object:
    snapshot = resolution.snapshot
    return (
        snapshot.listeners,
        snapshot.clusters,
        snapshot.servers,
        resolution.wanted,
        [cluster.name for cluster in resolution.dns_clusters],
        resolution.ends_at,
    )


ports = st.integers(0, 3)
steps = st.one_of(
    st.tuples(st.just("endpoints"), st.sampled_from(SERVICES), ports),
    st.tuples(st.just("endpoints"), st.sampled_from(SERVICES), ports),
    st.tuples(st.just("endpoints"), st.sampled_from(SERVICES), ports),
    st.tuples(st.just("no endpoints"), st.sampled_from(SERVICES), st.booleans()),
    st.tuples(st.just("bad endpoints"), st.sampled_from(SERVICES), st.none()),
    st.tuples(st.just("cluster"), st.sampled_from(CLUSTERS), st.sampled_from((*SERVICES, "DNS", "a+b"))),
    st.tuples(st.just("no cluster"), st.sampled_from(CLUSTERS), st.none()),
    st.tuples(st.just("routes"), st.sampled_from(("l0", "l1")), st.sets(st.sampled_from(CLUSTERS), min_size=1)),
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
        case "cluster" if more == "a+b":
            twins.put(C, name, resources.Cluster(name, AggregateDiscovery(("a", "b"))))
        case "cluster" if more == "DNS":
            by_name = resources.DnsDiscovery(endpoints("x", 1), logical=True)
            twins.put(C, name, resources.Cluster(name, EdsDiscovery("x"), fallback=by_name))
        case "cluster":
            twins.put(C, name, resources.Cluster(name, EdsDiscovery(more)))
        case "no cluster":
            twins.cache.remove(C, name, Status.DOES_NOT_EXIST, "gone")
        case "routes":
            twins.put(R, name, routes(*sorted(more)))
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


@given(st.lists(st.lists(steps, min_size=1, max_size=3), max_size=12))
def test_whatever_happens_both_say_the_same(history: list[list[tuple[str, Any, Any]]]) -> None:
    twins = ready()
    for together in history:
        for step in together:
            carry_out(twins, *step)
        twins.settle()


def test_a_changed_endpoint_is_followed_to_each_cluster_that_has_it() -> None:
    twins = ready()
    before = twins.following.follow(()) or twins.following.resolve(twins.roots, 0.0)
    twins.put(E, "x", endpoints("x", 2))
    after = twins.following.follow(twins.cache.take_changed())
    assert after is not None
    assert after.snapshot.changed == {"a", "c"}
    assert after.snapshot.version == before.snapshot.version + 1
    assert after.snapshot.listeners is before.snapshot.listeners, "nothing else is touched"
    assert after.snapshot.clusters["b"] is before.snapshot.clusters["b"]
    assert after.wanted is before.wanted


def test_what_changes_nothing_makes_no_snapshot() -> None:
    twins = ready()
    twins.cache.reject(E, "x", "bad")
    before = twins.following.follow(twins.cache.take_changed())
    assert before is not None
    assert before.snapshot.changed is None
    assert twins.followed == 0
