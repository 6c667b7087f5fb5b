"""Through random histories a client of profile sidecar knows what one knows that begins where they end.

Listeners, routes and clusters come, change and go, in both variants; hosts are asked for at any time.
"""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.core.v3 import base_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2
from hypothesis import example, given
from hypothesis import strategies as st

from meshsdk.discovery import Graph
from meshsdk.resources import ResourceType, resource_name
from meshsdk.xds import ResourceCache
from meshsdk.xds.delta import DeltaSession
from meshsdk.xds.packed import of_sidecars
from meshsdk.xds.session import Session
from meshsdk.xds.sotw import SotwSession
from tests.xds.test_ads_client import cluster
from tests.xds.test_whole import original

from .test_outbound import ANY, host, listener, of_bytes, of_http, routes, virtual_outbound

LISTENER, ROUTES, CLUSTER = ResourceType.LISTENER, ResourceType.ROUTE_CONFIGURATION, ResourceType.CLUSTER

Have = dict[ResourceType, dict[str, bytes]]


def _named(kind: ResourceType, *packed: bytes) -> dict[str, bytes]:
    return {resource_name(kind, one): one for one in packed}


_LISTENERS = _named(
    LISTENER,
    listener("0.0.0.0_80", "0.0.0.0", 80, of_http("80")),
    listener("10.0.0.1_80", "10.0.0.1", 80, of_bytes("outbound|80||b.default.svc")),
    virtual_outbound("PassthroughCluster"),
)
_BLOCKING = _named(LISTENER, virtual_outbound("BlackHoleCluster"))
_CLUSTERS = ("outbound|80||a", "outbound|80||b.default.svc")
_HOSTS = [host("a", cluster=_CLUSTERS[0]), host("a", cluster=_CLUSTERS[1]), host("b", cluster=_CLUSTERS[1])]
_ROOTS = ("a:80", "b:80", "other:80", "10.0.0.1:80", "other:81")


def _cluster(name: str, kind: str) -> bytes:
    made = {
        "eds": lambda: cluster(name),
        "slow": lambda: cluster(name, connect_timeout="9s"),
        "original": lambda: original(name),
    }
    return bytes(made[kind]().value)


_KINDS = st.sampled_from(["eds", "slow", "original"])

_steps = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from(_ROOTS)),
    st.tuples(st.just("forget"), st.sampled_from(_ROOTS)),
    st.tuples(st.just("listeners"), st.sets(st.sampled_from(sorted(_LISTENERS))), st.booleans()),
    st.tuples(st.just("routes"), st.sampled_from([(), (0,), (1,), (0, 2), (1, 2)])),
    st.tuples(st.just("clusters"), st.dictionaries(st.sampled_from(_CLUSTERS), _KINDS)),
)


_BEGUN: list[Any] = [("listeners", {"0.0.0.0_80"}, False), ("routes", (0,)), ("ask", "a:80")]


class Names:
    """Nothing is looked up."""

    def endpoints(self, name: str) -> None:
        return None

    def problem(self, name: str) -> str:
        return "nobody is there"

    def take_changed(self) -> set[str]:
        return set()


class Client:
    """A session and a graph, and a server that answers at once."""

    def __init__(self, make: type[Session]) -> None:
        self.cache = ResourceCache()
        self.cache.packed = of_sidecars()
        self.session = make(base_pb2.Node(), self.cache, takes_all=True)
        names: Any = Names()
        # Clusters that are withdrawn serve on for no time, as whoever is new never had them.
        self.graph = Graph(self.cache, names, withdrawn_seconds=0.0, complete=lambda name: f"{name}.default.svc")
        self.roots: dict[str, None] = {}
        self.have: Have = {kind: {} for kind in ResourceType}
        self.session.open()
        self._sent: Have = {kind: {} for kind in ResourceType}

    def bring(self, have: Have) -> None:
        """The server has this now, and tells of what is subscribed to."""
        self.have = have
        for kind in (CLUSTER, LISTENER):
            self._answer(kind, have[kind])
        self.settle()

    def settle(self) -> None:
        for _ in range(20):
            seen = self.cache.changes
            changed = self.cache.take_changed()
            resolution = self.graph.resolve(self.roots, 0.0, changed)
            for kind in ResourceType:
                self.session.subscribe(kind, resolution.wanted[kind])
            for kind in (ROUTES, ResourceType.ENDPOINTS):
                wanted = resolution.wanted[kind]
                there = {name: one for name, one in self.have[kind].items() if name in wanted}
                if there != self._sent[kind]:
                    self._answer(kind, there)
            if self.cache.changes == seen:
                self.snapshot = resolution.snapshot
                return
        raise AssertionError("it does not settle")

    def _answer(self, kind: ResourceType, there: dict[str, bytes]) -> None:
        before, self._sent[kind] = self._sent[kind], there
        packed = {name: any_pb2.Any(type_url=kind.type_url, value=one) for name, one in there.items()}
        if not self.session.is_incremental:
            whole = discovery_pb2.DiscoveryResponse(
                type_url=kind.type_url, version_info="v", nonce="n", resources=packed.values()
            )
            self.session.receive(whole)
            return
        new = [
            discovery_pb2.Resource(name=name, version="v", resource=packed[name])
            for name, one in there.items()
            if before.get(name) != one
        ]
        gone = before.keys() - there.keys()
        self.session.receive(
            discovery_pb2.DeltaDiscoveryResponse(
                type_url=kind.type_url, nonce="n", resources=new, removed_resources=gone
            )
        )

    def facts(self) -> Any:
        """What a client decides by."""
        listeners = {
            root: (view.does_not_exist, view.passes_through, view.routes)
            for root, view in self.snapshot.listeners.items()
        }
        wanted = {kind: {name for of, name, _ in self.cache if of is kind} for kind in (ROUTES, CLUSTER)}
        return listeners, {name: view.cluster for name, view in self.snapshot.clusters.items()}, wanted


@pytest.mark.parametrize("make", [SotwSession, DeltaSession])
@given(steps=st.lists(_steps, max_size=14))
@example(steps=[*_BEGUN, ("clusters", {_CLUSTERS[0]: "eds"}), ("clusters", {_CLUSTERS[0]: "original"})])
@example(steps=[*_BEGUN, ("clusters", {_CLUSTERS[0]: "original"}), ("clusters", {_CLUSTERS[0]: "eds"})])
def test_a_history_leads_to_what_a_new_client_knows(make: type[Session], steps: list[Any]) -> None:
    # Endpoints are there from the start, so that nothing waits for them.
    endpoints = {name: endpoint_pb2.ClusterLoadAssignment(cluster_name=name).SerializeToString() for name in _CLUSTERS}
    have: Have = {kind: {} for kind in ResourceType}
    have[ResourceType.ENDPOINTS] = endpoints
    have[ROUTES] = {"80": routes("80", ANY)}
    lived = Client(make)
    lived.bring(have)
    for step in steps:
        match step:
            case ("ask", root):
                lived.roots[root] = None
                lived.settle()
                continue
            case ("forget", root):
                lived.roots.pop(root, None)
                lived.settle()
                continue
            case ("listeners", names, blocks):
                have = {**have, LISTENER: {name: _LISTENERS[name] for name in names}}
                if blocks:
                    have[LISTENER] |= _BLOCKING
            case ("routes", hosts):
                have = {**have, ROUTES: {"80": routes("80", *(_HOSTS[place] for place in hosts), ANY)}}
            case ("clusters", kinds):
                have = {**have, CLUSTER: {name: _cluster(name, kind) for name, kind in kinds.items()}}
        lived.bring(have)
    fresh = Client(make)
    fresh.roots = dict(lived.roots)
    fresh.bring(have)
    assert lived.facts() == fresh.facts()
