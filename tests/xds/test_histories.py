"""Client and server through random histories: what comes of one is what a client has that starts from nothing.

The model is what the server serves. A client that has seen resources come, break, go and come back, streams end and
servers restart, with messages under way the whole time, must end with the snapshot, the subscriptions and the cache of
one that begins then. It may know more in two cases, which the model grants it: a resource that the server has broken
serves on as it was last good, and one of routes or endpoints that is deleted does, in the state of the world, which has
no word for it (Envoy docs, xds_protocol, "Deleting resources").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from google.protobuf import json_format
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from meshsdk.resources import ResourceType
from meshsdk.status import clusters_of
from meshsdk.xds import CachedResource, ResourceCache, Status

from ..grpc.xds import TYPES
from .in_process import CLOCK, OTHERS, OURS, Client, Key, Server, Wire, in_process

L, R, C, E = ResourceType.LISTENER, ResourceType.ROUTE_CONFIGURATION, ResourceType.CLUSTER, ResourceType.ENDPOINTS
NAMES: dict[ResourceType, tuple[str, ...]] = {
    L: ("l0", "l1", "l2"),
    R: ("r0", "r1"),
    C: ("c0", "c1", "c2"),
    E: ("e0", "e1"),
}
ALL = {(kind, name) for kind, names in NAMES.items() for name in names}
ABSENT = (Status.DOES_NOT_EXIST, Status.TIMEOUT)


@pytest.fixture(autouse=True)
def _in_process() -> Iterator[None]:
    with in_process():
        yield


def listener(name: str, number: int) -> Any:
    """Leads to one of the routes."""
    router = {"name": "router", "typed_config": {"@type": f"{TYPES}envoy.extensions.filters.http.router.v3.Router"}}
    manager = {
        "@type": f"{TYPES}envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x",
        "rds": {"route_config_name": f"r{number % 2}", "config_source": {"ads": {}}},
        "http_filters": [router],
    }
    return json_format.ParseDict({"name": name, "api_listener": {"api_listener": manager}}, listener_pb2.Listener())


def routes(name: str, number: int) -> Any:
    """Lead to one or two of the clusters."""
    leads = [
        {"match": {"prefix": f"/{at}"}, "route": {"cluster": f"c{(number + at) % 3}"}} for at in range(1 + number % 2)
    ]
    hosts = [{"name": "all", "domains": ["*"], "routes": leads}]
    return json_format.ParseDict({"name": name, "virtual_hosts": hosts}, route_pb2.RouteConfiguration())


def cluster(name: str, number: int) -> Any:
    """Has endpoints of one of two services, in two forms; or is made of others."""
    if number == 4 and name == "c2":
        data: dict[str, Any] = {
            "lb_policy": "CLUSTER_PROVIDED",
            "cluster_type": {
                "name": "envoy.clusters.aggregate",
                "typed_config": {
                    "@type": f"{TYPES}envoy.extensions.clusters.aggregate.v3.ClusterConfig",
                    "clusters": ["c0", "c1"],
                },
            },
        }
    else:
        eds = {"service_name": f"e{number % 2}", "eds_config": {"ads": {}}}
        data = {"type": "EDS", "eds_cluster_config": eds, "connect_timeout": f"{1 + number // 2}s"}
    return json_format.ParseDict({"name": name, **data}, cluster_pb2.Cluster())


def endpoints(name: str, number: int) -> Any:
    """None, or some."""
    addresses = [
        {"endpoint": {"address": {"socket_address": {"address": "10.0.0.1", "port_value": 1 + number + at}}}}
        for at in range(number)
    ]
    localities = [{"locality": {"zone": "a"}, "load_balancing_weight": 1, "lb_endpoints": addresses}]
    data = {"cluster_name": name, "endpoints": localities if number else []}
    return json_format.ParseDict(data, endpoint_pb2.ClusterLoadAssignment())


MAKE = {L: listener, R: routes, C: cluster, E: endpoints}


def broken(kind: ResourceType, name: str) -> Any:
    """One that breaks a rule, and can be read."""
    made = MAKE[kind](name, 1)
    if kind is L:
        made.api_listener.Clear()
        made.api_listener.api_listener.type_url = f"{TYPES}no.such.Manager"
    elif kind is R:
        made.virtual_hosts[0].routes[0].match.safe_regex.regex = "("
    elif kind is C:
        made.lb_policy = cluster_pb2.Cluster.RING_HASH
        made.ring_hash_lb_config.minimum_ring_size.value = 9_000_000
    else:
        made.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value = 70_000
    return made


keys = st.sampled_from(sorted(ALL, key=lambda key: (key[0].name, key[1])))
numbers = st.integers(0, 4)


class Histories(RuleBasedStateMachine):
    """One history."""

    is_incremental = False
    sessions: Any = OURS

    def __init__(self) -> None:
        super().__init__()
        self.world: dict[Key, bytes] = {}
        self.good: dict[Key, set[bytes]] = {}
        self.bad: set[Key] = set()
        # What some published state did not have.
        self.was_absent: set[Key] = set()
        self.server = Wire.server = Server(self.world, self.sessions)
        self.client = Client(is_incremental=self.is_incremental)

    @initialize(number=numbers)
    def begin(self, number: int) -> None:
        """With all there is, most of the time."""
        for kind, names in NAMES.items():
            for name in names:
                self._put(kind, name, number)
        self.publish(False)
        self.client.want("l0")

    def _put(self, kind: ResourceType, name: str, number: int) -> None:
        packed = MAKE[kind](name, number).SerializeToString(deterministic=True)
        self.world[kind, name] = packed
        self.good.setdefault((kind, name), set()).add(packed)
        self.bad.discard((kind, name))

    # What the server serves; several changes may go out together.

    @rule(key=keys, what=st.sampled_from(("put", "put", "put", "delete", "break")), number=numbers)
    def change(self, key: Key, what: str, number: int) -> None:
        if what == "put":
            self._put(*key, number)
            return
        self.bad.discard(key)
        self.world.pop(key, None)
        if what == "break":
            self.world[key] = broken(*key).SerializeToString(deterministic=True)
            self.bad.add(key)

    @rule(says_what=st.booleans())
    def publish(self, says_what: bool = False) -> None:
        self.server.publish(self.world, says_what=says_what)
        self.was_absent |= ALL - self.world.keys()

    # What the client asks for.

    @rule(name=st.sampled_from(NAMES[L]), runs=st.booleans())
    def want(self, name: str, runs: bool) -> None:
        self.client.want(name)
        if runs:
            self.client.loop.run()

    @rule(name=st.sampled_from(NAMES[L]), runs=st.booleans())
    def drop(self, name: str, runs: bool) -> None:
        self.client.drop(name)
        if runs:
            self.client.loop.run()

    @rule(steps=st.lists(st.one_of(st.sampled_from(NAMES[L]), st.integers(0, 3)), min_size=6, max_size=16))
    def hosts_are_asked_for_a_moment_apart(self, steps: list[str | int]) -> None:
        """Names come and go while requests and responses cross each other."""
        for step in steps:
            if isinstance(step, str):
                (self.client.drop if step in self.client.roots else self.client.want)(step)
                self.client.loop.run()
            elif step < 2:
                self.requests_arrive(1)
            else:
                self.responses_arrive(1, True)
            self.nothing_is_gone_that_was_always_there()

    # What happens between them.

    @rule(count=st.integers(1, 4))
    def requests_arrive(self, count: int) -> None:
        for _ in range(count):
            for wire in list(self.server.wires):
                wire.arrive_at_server()

    @rule(count=st.integers(1, 4), runs=st.booleans())
    def responses_arrive(self, count: int, runs: bool) -> None:
        for _ in range(count):
            for wire in list(self.server.wires):
                wire.arrive_at_client()
            if runs:
                self.client.loop.run()

    @rule(seconds=st.sampled_from((0.03, 1.0, 16.0)))
    def time_passes(self, seconds: float) -> None:
        CLOCK.now += seconds
        self.client.loop.run()

    @precondition(lambda self: any(wire.to_client for wire in self.server.wires))
    @rule()
    def a_response_is_sent_twice(self) -> None:
        for wire in self.server.wires:
            if wire.to_client:
                wire.to_client.insert(1, wire.to_client[0])

    @precondition(lambda self: any(len(wire.to_client) > 1 for wire in self.server.wires))
    @rule()
    def types_overtake_each_other(self) -> None:
        for wire in self.server.wires:
            waiting = wire.to_client
            if len(waiting) > 1 and waiting[0].type_url != waiting[1].type_url:
                waiting[0], waiting[1] = waiting[1], waiting[0]

    @rule()
    def a_stream_breaks(self) -> None:
        for wire in list(self.server.wires):
            wire.reset()

    @rule(comes_back=st.sampled_from((True, True, False)))
    def the_server_goes(self, comes_back: bool) -> None:
        self.server.stop()
        self.server.is_up = comes_back

    # What must be, whatever was.

    @invariant()
    def nothing_is_gone_that_was_always_there(self) -> None:
        for key, entry in entries_of(self.client.control.cache).items():
            # What is late counts as missing until it comes (gRFC A88).
            is_late = "did not send it in" in entry.error
            assert entry.status is not Status.DOES_NOT_EXIST or is_late or key in self.was_absent, key

    @rule()
    def all_settles(self) -> None:
        self.server.is_up = True
        self.publish(True)
        self.client.settle(self.server)
        control = self.client.control
        if not self.client.roots:
            return
        assert self.client.loop.failures == 0
        cache = entries_of(control.cache)
        kept = self._kept(cache)
        fresh = self._fresh({**self.world, **kept})
        try:
            assert shown(control) == shown(fresh.control)
            mine, theirs = cache, entries_of(fresh.control.cache)
            assert mine.keys() == theirs.keys()
            for key, entry in mine.items():
                self._compare(key, entry, theirs[key], key in kept)
        finally:
            fresh.close()
        assert self.server.subscriptions() == names_of(cache)
        assert len(self.server.wires) == 1, "one stream to the server, and none beside it"
        assert control.problem == ""
        assert control.source is not None
        assert control.source.is_connected

    def _kept(self, cache: Mapping[Key, CachedResource]) -> dict[Key, bytes]:
        """What the client may know that the server does not serve."""
        kept: dict[Key, bytes] = {}
        for key, entry in cache.items():
            if entry.resource is None or entry.packed == self.world.get(key):
                continue
            is_undeletable = key not in self.world and not key[0].is_complete_in_every_response
            assert key in self.bad or is_undeletable, f"{key} is not what is served"
            assert entry.packed in self.good[key]
            kept[key] = entry.packed
        return kept

    def _is_unheard_of(self, key: Key) -> bool:
        """Whether it is deleted, and the client cannot be told."""
        return key not in self.world and not self.is_incremental and not key[0].is_complete_in_every_response

    def _compare(self, key: Key, entry: CachedResource, fresh: CachedResource, is_kept: bool) -> None:
        if entry.status in ABSENT and entry.resource is None:
            assert fresh.status in ABSENT, key
        elif entry.status is Status.NACKED and self._is_unheard_of(key):
            assert fresh.status is Status.ACKED if is_kept else fresh.status in ABSENT, key
        elif is_kept and key in self.bad:
            assert entry.status is Status.NACKED, key
            assert entry.error, key
        elif is_kept and self.is_incremental:
            assert entry.status is Status.DOES_NOT_EXIST, key
        else:
            assert entry.status is fresh.status, key
        assert entry.packed == fresh.packed, key
        if self.is_incremental and not is_kept:
            assert entry.version == fresh.version, key

    def _fresh(self, world: dict[Key, bytes]) -> Client:
        own, server = Wire.server, Server(world, self.sessions)
        Wire.server = server
        try:
            client = Client(is_incremental=self.is_incremental)
            for name in self.client.roots:
                client.want(name)
            client.settle(server)
            return client
        finally:
            Wire.server = own

    def teardown(self) -> None:
        try:
            self.all_settles()
        finally:
            self.client.close()


class IncrementalHistories(Histories):
    is_incremental = True


class HistoriesLikeIstiod(Histories):
    sessions = OTHERS


class IncrementalHistoriesLikeGo(IncrementalHistories):
    sessions = OTHERS


ALL_HISTORIES = (Histories, IncrementalHistories, HistoriesLikeIstiod, IncrementalHistoriesLikeGo)


def entries_of(cache: ResourceCache) -> dict[Key, CachedResource]:
    return {(kind, name): entry for kind, name, entry in cache}


def names_of(cache: Mapping[Key, CachedResource]) -> dict[ResourceType, frozenset[str]]:
    return {kind: names for kind in ResourceType if (names := frozenset(name for of, name in cache if of is kind))}


def shown(control: Any) -> object:
    """What requests are decided by, as values; a problem's words tell of the way here."""
    graph = control._graph._published
    return (
        {
            name: (view.listener, view.routes, bool(view.problem), view.does_not_exist)
            for name, view in graph.listeners.items()
        },
        {name: (view.cluster, view.endpoints, bool(view.problem)) for name, view in graph.clusters.items()},
        {name: [one["address"] for one in endpoints] for name, endpoints in clusters_of(control.directory).items()},
    )


@pytest.mark.parametrize("histories", ALL_HISTORIES)
def test_a_history_comes_to_what_a_client_has_that_starts_from_nothing(histories: Any) -> None:
    # `make soak` has ten times as many, and others.
    is_short = settings.default is not None and settings.default.derandomize
    run_state_machine_as_test(
        histories, settings=settings(max_examples=30 if is_short else 1000, stateful_step_count=40)
    )


def moment(*steps: str | int) -> tuple[str, dict[str, Any]]:
    return "hosts_are_asked_for_a_moment_apart", {"steps": steps}


def change(kind: ResourceType, name: str, what: str, number: int = 0) -> tuple[str, dict[str, Any]]:
    return "change", {"key": (kind, name), "what": what, "number": number}


SETTLES: tuple[str, dict[str, Any]] = ("all_settles", {})
# Each has had a client end elsewhere.
FOUND = {
    "an answer of between lacks a listener that was dropped and wanted again": (
        Histories,
        [("time_passes", {"seconds": 0.03}), moment(0, "l0", 0, "l2", 0, "l0", 3, 3)],
    ),
    "a server does not notice that endpoints were dropped, since it has sent others": (
        Histories,
        [
            change(C, "c2", "put", 0),
            SETTLES,
            change(C, "c2", "put", 1),
            change(E, "e1", "put", 2),
            ("publish", {"says_what": True}),
            change(C, "c2", "put", 0),
            change(E, "e1", "put", 3),
            ("publish", {"says_what": True}),
        ],
    ),
    "a server passes over a name that a refusal is the first to carry": (
        HistoriesLikeIstiod,
        [SETTLES, change(L, "l0", "break"), ("publish", {"says_what": True}), moment("l1", 0, 3)],
    ),
    "two refusals hide a name": (
        HistoriesLikeIstiod,
        [
            SETTLES,
            change(L, "l0", "break"),
            ("publish", {"says_what": False}),
            change(L, "l0", "put", 2),
            ("publish", {"says_what": False}),
            change(L, "l0", "break"),
            ("publish", {"says_what": False}),
            moment("l1", 0, 3, 3, 3),
        ],
    ),
    "what was refused is good again while the server is away": (
        IncrementalHistories,
        [
            SETTLES,
            change(R, "r0", "break"),
            SETTLES,
            ("the_server_goes", {"comes_back": False}),
            change(R, "r0", "put", 1),
        ],
    ),
    "a server has nothing new to say after it was away": (
        IncrementalHistories,
        [SETTLES, ("the_server_goes", {"comes_back": True})],
    ),
}


@pytest.mark.parametrize("found", FOUND)
def test_a_history_that_went_wrong_once_goes_right(found: str) -> None:
    histories, steps = FOUND[found]
    state = histories()
    state.begin(1)
    for name, arguments in steps:
        getattr(state, name)(**arguments)
        state.nothing_is_gone_that_was_always_there()
    state.teardown()
