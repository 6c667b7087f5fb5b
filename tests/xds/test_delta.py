"""The incremental client against a real gRPC server that a test scripts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2, duration_pb2

import meshsdk
from meshsdk.resources import ResourceType
from meshsdk.testing import ControlPlane
from meshsdk.xds import Status

from ..patience import PATIENCE
from ..processes import free_ports
from .test_ads_client import CLUSTER, Client, MakeClient, ScriptedAds, assignment, cluster
from .test_ads_client import make_client as make_client

ENDPOINTS = ResourceType.ENDPOINTS
FEATURES = frozenset(["meshsdk.incremental"])


class ScriptedDelta(ScriptedAds):
    """The same, incremental."""

    def DeltaAggregatedResources(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        yield from super().StreamAggregatedResources(requests, context)

    def StreamAggregatedResources(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        """Streams of a second question."""
        if self.beside is not None:
            yield from map(self.beside, requests)

    def send_delta(self, kind: ResourceType, nonce: str, *resources: Any, removed: tuple[str, ...] = ()) -> None:
        self.outbox.put(
            discovery_pb2.DeltaDiscoveryResponse(
                type_url=kind.type_url, nonce=nonce, resources=resources, removed_resources=removed
            )
        )


def named(name: str, resource: any_pb2.Any | None, version: str = "1", **fields: Any) -> discovery_pb2.Resource:
    return discovery_pb2.Resource(name=name, version=version, resource=resource, **fields)


@pytest.fixture
def ads(stack: ExitStack) -> ScriptedDelta:
    server = ScriptedDelta()
    stack.callback(server.stop)
    return server


@pytest.fixture
def client(ads: ScriptedDelta, make_client: MakeClient) -> Client:
    return make_client(ads.port, features=FEATURES)


def test_names_are_told_once_and_then_what_has_changed_of_them(ads: ScriptedDelta, client: Client) -> None:
    client.subscribe(cluster={"a", "b"})
    first = ads.request()
    assert (first.node.id, first.node.metadata["GENERATOR"]) == ("me", "grpc")
    assert (list(first.resource_names_subscribe), list(first.resource_names_unsubscribe)) == (["a", "b"], [])
    assert not first.initial_resource_versions
    ads.send_delta(CLUSTER, "n1", named("a", cluster("a")), named("b", cluster("b")))
    ack = ads.request()
    assert (ack.response_nonce, ack.HasField("node"), ack.HasField("error_detail")) == ("n1", False, False)
    assert not ack.resource_names_subscribe
    client.subscribe(cluster={"b", "c"})
    change = ads.request()
    assert (list(change.resource_names_subscribe), list(change.resource_names_unsubscribe)) == (["c"], ["a"])
    assert client.cache.get(CLUSTER, "a") is None


def test_a_resource_has_a_version_of_its_own_and_the_others_stay_as_they_are(
    ads: ScriptedDelta, client: Client
) -> None:
    client.subscribe(cluster={"a", "b"})
    ads.request()
    ads.send_delta(CLUSTER, "n1", named("a", cluster("a"), "a1"), named("b", cluster("b"), "b1"))
    before = client.entry(CLUSTER, "b", Status.ACKED)
    ads.send_delta(CLUSTER, "n2", named("a", cluster("a", connect_timeout="3s"), "a2"))
    client.entry(CLUSTER, "a", Status.ACKED, version="a2")
    assert client.cache.get(CLUSTER, "b") is before


def test_what_is_removed_is_gone_and_a_name_that_never_was_is_known_to_be_none(
    ads: ScriptedDelta, client: Client
) -> None:
    client.subscribe(cluster={"a", "never"}, endpoints={"e"})
    ads.request()
    ads.send_delta(CLUSTER, "n1", named("a", cluster("a")), removed=("never",))
    ads.send_delta(ENDPOINTS, "n2", named("e", assignment("e")))
    client.entry(CLUSTER, "never", Status.DOES_NOT_EXIST)
    client.entry(ENDPOINTS, "e", Status.ACKED)
    ads.send_delta(CLUSTER, "n3", removed=("a", "nobody asked for it"))
    ads.send_delta(ENDPOINTS, "n4", removed=("e",))
    assert client.entry(CLUSTER, "a", Status.DOES_NOT_EXIST).was_there
    # It goes with the cluster that names it.
    assert client.entry(ENDPOINTS, "e", Status.DOES_NOT_EXIST).resource is not None
    client.subscribe(cluster={"a"})
    ads.send_delta(CLUSTER, "n5", named("a", cluster("a"), "2"))
    client.entry(CLUSTER, "a", Status.ACKED)
    assert client.cache.get(ENDPOINTS, "e") is None
    assert client.cache.get(CLUSTER, "nobody asked for it") is None


def test_a_bad_resource_is_refused_and_the_good_one_beside_it_is_used(ads: ScriptedDelta, client: Client) -> None:
    client.subscribe(cluster={"a", "b"})
    ads.request()
    ads.send_delta(CLUSTER, "n1", named("a", cluster("a"), "a1"), named("b", cluster("b"), "b1"))
    ads.request()
    bad = cluster("a", connect_timeout="-1s")
    ads.send_delta(CLUSTER, "n2", named("a", bad, "a2"), named("b", cluster("b", connect_timeout="2s"), "b2"))
    refusal = ads.request()
    assert refusal.response_nonce == "n2"
    assert "connect_timeout" in refusal.error_detail.message
    entry = client.entry(CLUSTER, "a", Status.NACKED)
    assert (entry.version, entry.resource is not None) == ("a1", True)
    client.entry(CLUSTER, "b", Status.ACKED, version="b2")


def test_after_a_broken_stream_the_server_is_told_what_is_known(ads: ScriptedDelta, client: Client) -> None:
    client.subscribe(cluster={"a", "b", "c"})
    ads.request()
    ads.send_delta(CLUSTER, "n1", named("a", cluster("a"), "a1"), named("b", cluster("b"), "b1"), removed=("c",))
    ads.request()
    ads.send_delta(CLUSTER, "n2", named("b", cluster("b", connect_timeout="-1s"), "b2"))
    ads.request()
    ads.outbox.put(None)
    again = ads.request()
    assert again.node.id == "me"
    assert list(again.resource_names_subscribe) == ["a", "b", "c"]
    assert dict(again.initial_resource_versions) == {"a": "a1", "b": ""}, "what was refused must come again"
    # Nothing comes, since nothing has changed; and all is as it was.
    ads.send_delta(CLUSTER, "n3", named("c", cluster("c"), "c1"))
    client.entry(CLUSTER, "c", Status.ACKED)
    client.entry(CLUSTER, "a", Status.ACKED, version="a1")


def test_what_was_refused_and_is_the_last_good_one_again_is_taken_after_a_broken_stream(
    ads: ScriptedDelta, client: Client
) -> None:
    client.subscribe(cluster={"a"})
    ads.request()
    ads.send_delta(CLUSTER, "n1", named("a", cluster("a"), "1"))
    ads.send_delta(CLUSTER, "n2", named("a", cluster("a", connect_timeout="-1s"), "2"))
    client.entry(CLUSTER, "a", Status.NACKED)
    ads.outbox.put(None)
    while not (request := ads.request()).node.id:
        pass
    assert dict(request.initial_resource_versions) == {"a": ""}, "with 1, a server that has it would say nothing"
    ads.send_delta(CLUSTER, "n3", named("a", cluster("a"), "1"))
    assert client.entry(CLUSTER, "a", Status.ACKED).error == ""


@pytest.mark.parametrize("xds_variant", ["incremental"])
def test_a_server_that_has_nothing_new_to_say_after_an_outage_is_connected(
    control_plane: ControlPlane, mesh: meshsdk.Mesh, xds_variant: str
) -> None:
    control_plane.register("web", 1, port=9080)
    settled = threading.Event()
    mesh._runtime.when_settled(["web.default.svc.cluster.local:9080"], settled.set)
    assert settled.wait(PATIENCE)
    source = mesh._runtime.source
    assert source is not None

    def wait_until(is_connected: bool) -> None:
        deadline = time.monotonic() + PATIENCE
        while source.is_connected is not is_connected or bool(source.problem) is is_connected:
            assert time.monotonic() < deadline, source.problem
            time.sleep(0.01)

    wait_until(True)
    control_plane.stop()
    wait_until(False)
    control_plane.forget_answers()
    control_plane.start()
    wait_until(True)
    assert control_plane.acks == [], "it has said nothing"


def test_another_server_is_told_no_versions_of_the_first_ones(ads: ScriptedDelta, stack: ExitStack) -> None:
    other = ScriptedDelta()
    stack.callback(other.stop)
    client = Client(ads.port, features=FEATURES, others=(other.port,))
    stack.callback(client.close)
    client.subscribe(cluster={"a"})
    ads.request()
    ads.send_delta(CLUSTER, "n1", named("a", cluster("a"), "1"))
    client.entry(CLUSTER, "a", Status.ACKED)
    ads.stop()
    client.subscribe(cluster={"a", "b"})
    first = other.request()
    assert (list(first.resource_names_subscribe), dict(first.initial_resource_versions)) == (["a", "b"], {})


def test_a_resource_goes_by_its_aliases_too(ads: ScriptedDelta, client: Client) -> None:
    client.subscribe(cluster={"short"})
    ads.request()
    ads.send_delta(CLUSTER, "n1", named("long", cluster("long"), aliases=["short", "other"]))
    client.entry(CLUSTER, "short", Status.ACKED)
    assert client.cache.get(CLUSTER, "long") is None


def test_a_resource_is_used_as_long_as_it_is_said_to_live_and_a_heartbeat_gives_it_longer(
    ads: ScriptedDelta, client: Client
) -> None:
    client.subscribe(cluster={"a", "b", "c"})
    ads.request()

    def lasting(seconds: float) -> duration_pb2.Duration:
        return duration_pb2.Duration(nanos=int(seconds * 1e9) % 10**9, seconds=int(seconds))

    began = time.monotonic()
    ads.send_delta(
        CLUSTER,
        "n1",
        named("a", cluster("a"), ttl=lasting(0.4)),
        named("b", cluster("b"), ttl=lasting(0.4)),
        named("c", cluster("c"), ttl=lasting(0.4)),
    )
    client.entry(CLUSTER, "a", Status.ACKED)
    # A heartbeat has no resource in it; what comes without an end has none any more.
    ads.send_delta(CLUSTER, "n2", named("b", None, ttl=lasting(3600)), named("c", None))
    entry = client.entry(CLUSTER, "a", Status.DOES_NOT_EXIST)
    assert "the time for which" in entry.error
    assert time.monotonic() - began >= 0.4
    for name in ("b", "c"):
        client.entry(CLUSTER, name, Status.ACKED)
    assert client.cache.get(CLUSTER, "b").resource is not None  # type: ignore[union-attr]


def test_a_time_to_live_longer_than_any_wait_is_just_long(ads: ScriptedDelta, client: Client) -> None:
    client.subscribe(cluster={"a", "b"})
    ads.request()
    # The longest that a Duration may be: ten thousand years.
    ads.send_delta(CLUSTER, "n1", named("a", cluster("a"), ttl=duration_pb2.Duration(seconds=315_576_000_000)))
    ads.request()
    # Time enough for the control thread to begin its wait, whatever else it does.
    for number in range(5):
        ads.send_delta(CLUSTER, f"n{number + 2}", named("b", cluster("b"), f"b{number}"))
        client.entry(CLUSTER, "b", Status.ACKED, version=f"b{number}")
    client.entry(CLUSTER, "a", Status.ACKED)


def test_a_server_that_says_nothing_of_a_name_is_asked_in_the_other_variant(ads: ScriptedDelta, client: Client) -> None:
    asked: list[Any] = []

    def beside(request: Any) -> Any:
        asked.append(request)
        return discovery_pb2.DiscoveryResponse(type_url=request.type_url, nonce="x", version_info="1")

    ads.beside = beside
    client.subscribe(cluster={"a"})
    ads.request()
    ads.send_delta(CLUSTER, "n1", named("a", cluster("a")))
    client.entry(CLUSTER, "a", Status.ACKED)
    client.subscribe(cluster={"a", "never"})
    client.entry(CLUSTER, "never", Status.DOES_NOT_EXIST)
    assert list(asked[0].resource_names) == ["never"]


def test_deletions_are_ignored_where_the_bootstrap_says_so(ads: ScriptedDelta, make_client: MakeClient) -> None:
    client = make_client(ads.port, features=FEATURES | {"ignore_resource_deletion"})
    client.subscribe(cluster={"a", "b"})
    ads.request()
    ads.send_delta(CLUSTER, "n1", named("a", cluster("a")))
    client.entry(CLUSTER, "a", Status.ACKED)
    ads.send_delta(CLUSTER, "n2", named("b", cluster("b")), removed=("a",))
    client.entry(CLUSTER, "b", Status.ACKED)
    assert client.entry(CLUSTER, "a", Status.DOES_NOT_EXIST).resource is not None


def test_a_type_that_was_not_asked_for_is_refused(ads: ScriptedDelta, client: Client) -> None:
    client.subscribe(cluster={"a"})
    ads.request()
    ads.outbox.put(discovery_pb2.DeltaDiscoveryResponse(type_url="type.googleapis.com/what.Ever", nonce="n1"))
    refusal = ads.request()
    assert (refusal.type_url, refusal.response_nonce) == ("type.googleapis.com/what.Ever", "n1")
    assert "was not asked for" in refusal.error_detail.message


def test_a_server_that_does_not_speak_it_is_told_of_with_what_to_do(make_client: MakeClient, stack: ExitStack) -> None:
    [port] = free_ports(1)
    server = ScriptedAds(port)
    stack.callback(server.stop)
    client = make_client(port, features=FEATURES)
    client.subscribe(cluster={"a"})
    deadline = time.monotonic() + PATIENCE
    while "server_features" not in client.source.problem:
        assert time.monotonic() < deadline, client.source.problem
        time.sleep(0.01)
    assert "UNIMPLEMENTED" in client.source.problem
