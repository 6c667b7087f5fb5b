"""The xDS client against a real gRPC server that a test scripts: ACK, NACK, deletion, timers, reconnection."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.protobuf import any_pb2, duration_pb2, json_format

import meshsdk
from meshsdk.bootstrap import ChannelCredentials, Locality, Node, XdsServer
from meshsdk.resources import ResourceType
from meshsdk.xds import CachedResource, ControlLoop, ResourceCache, Status
from meshsdk.xds.ads_client import AdsClient
from meshsdk.xds.backoff import Backoff

from ..patience import PATIENCE
from ..processes import free_ports

CLUSTER, ENDPOINTS = ResourceType.CLUSTER, ResourceType.ENDPOINTS


def cluster(name: str, **fields: Any) -> any_pb2.Any:
    data = {"name": name, "type": "EDS", "eds_cluster_config": {"eds_config": {"ads": {}}}, **fields}
    return any_pb2.Any(
        type_url=CLUSTER.type_url, value=json_format.ParseDict(data, cluster_pb2.Cluster()).SerializeToString()
    )


def assignment(name: str) -> any_pb2.Any:
    packed = endpoint_pb2.ClusterLoadAssignment(cluster_name=name).SerializeToString()
    return any_pb2.Any(type_url=ENDPOINTS.type_url, value=packed)


class ScriptedAds(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]
    """Shows requests to the test, and sends what the test says.

    Attributes:
        beside: Answers the requests of further streams; without it they are served as the first one is.
    """

    def __init__(self, port: int = 0) -> None:
        self.requests: queue.Queue[Any] = queue.Queue()
        self.outbox: queue.Queue[Any] = queue.Queue()
        self.streams = 0
        self.beside: Callable[[Any], Any] | None = None
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    def StreamAggregatedResources(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        self.streams += 1
        if self.streams > 1 and self.beside is not None:
            yield from map(self.beside, requests)
            return
        outbox = self.outbox

        def read() -> None:
            try:
                for request in requests:
                    self.requests.put(request)
            except grpc.RpcError:
                pass
            outbox.put(None)

        threading.Thread(target=read, daemon=True).start()
        while (item := outbox.get()) is not None:
            yield item

    def send(self, kind: ResourceType, version: str, *resources: any_pb2.Any, nonce: str = "") -> None:
        self.outbox.put(
            discovery_pb2.DiscoveryResponse(
                type_url=kind.type_url, version_info=version, nonce=nonce or f"n{version}", resources=resources
            )
        )

    def request(self) -> Any:
        return self.requests.get(timeout=PATIENCE)

    def stop(self) -> None:
        self.outbox.put(None)
        self.outbox = queue.Queue()
        self._server.stop(0).wait()


class Client:
    """An AdsClient on its own control loop, driven from the test's thread."""

    def __init__(
        self, port: int, *, features: frozenset[str] = frozenset(), others: tuple[int, ...] = (), **options: Any
    ) -> None:
        self.cache = ResourceCache()
        self.loop = ControlLoop("test")
        self.loop.start()
        servers = [XdsServer(f"127.0.0.1:{one}", ChannelCredentials("insecure"), features) for one in (port, *others)]
        node = Node("me", "shop", Locality("eu"), {"GENERATOR": "grpc"})
        self.source = AdsClient(
            servers, node, self.cache, self.loop, make_backoff=lambda: Backoff(0.05, 0.2), **options
        )

    def subscribe(self, **wanted: set[str]) -> None:
        by_kind = {ResourceType[name.upper()]: frozenset(names) for name, names in wanted.items()}
        self.loop.post(lambda: self.source.subscribe(by_kind))

    def entry(self, kind: ResourceType, name: str, status: Status, version: str = "") -> CachedResource:
        """The cache's entry, once it has this status."""
        deadline = time.monotonic() + PATIENCE
        while True:
            entry = self.cache.get(kind, name)
            if entry is not None and entry.status is status and (not version or entry.version == version):
                return entry
            assert time.monotonic() < deadline, f"{name} is {entry}"
            time.sleep(0.005)

    def close(self) -> None:
        self.loop.post(self.source.close)
        self.loop.stop()


@pytest.fixture
def ads(stack: ExitStack) -> ScriptedAds:
    server = ScriptedAds()
    stack.callback(server.stop)
    return server


@pytest.fixture
def make_client(stack: ExitStack) -> Callable[..., Client]:
    def make(port: int, **options: Any) -> Client:
        client = Client(port, **options)
        stack.callback(client.close)
        return client

    return make


MakeClient = Callable[..., Client]


def test_the_node_is_introduced_once_and_a_good_response_is_acknowledged(
    ads: ScriptedAds, make_client: MakeClient
) -> None:
    client = make_client(ads.port)
    client.subscribe(cluster={"a"})
    first = ads.request()
    assert (first.node.id, first.node.locality.region, first.node.metadata["GENERATOR"]) == ("me", "eu", "grpc")
    assert (list(first.resource_names), first.version_info, first.response_nonce) == (["a"], "", "")
    ads.send(CLUSTER, "1", cluster("a"))
    ack = ads.request()
    assert (ack.version_info, ack.response_nonce, ack.HasField("node"), ack.HasField("error_detail")) == (
        "1",
        "n1",
        False,
        False,
    )
    assert client.entry(CLUSTER, "a", Status.ACKED).version == "1"


def test_a_bad_resource_is_refused_by_name_and_the_good_one_beside_it_is_used(
    ads: ScriptedAds, make_client: MakeClient
) -> None:
    client = make_client(ads.port)
    client.subscribe(cluster={"good", "bad"})
    ads.request()
    ads.send(CLUSTER, "1", cluster("good"), cluster("bad", connect_timeout="-1s"))
    nack = ads.request()
    assert nack.version_info == ""
    assert nack.response_nonce == "n1"
    assert "bad: Cluster.connect_timeout" in nack.error_detail.message
    assert "good" not in nack.error_detail.message
    assert client.entry(CLUSTER, "good", Status.ACKED).resource is not None
    assert "connect_timeout" in client.entry(CLUSTER, "bad", Status.NACKED).error


def test_after_a_nack_the_last_good_resource_and_version_stay(ads: ScriptedAds, make_client: MakeClient) -> None:
    client = make_client(ads.port)
    client.subscribe(cluster={"a"})
    ads.request()
    ads.send(CLUSTER, "1", cluster("a"))
    ads.request()
    good = client.entry(CLUSTER, "a", Status.ACKED).resource
    ads.send(CLUSTER, "2", cluster("a", connect_timeout="-1s"))
    assert ads.request().version_info == "1"
    entry = client.entry(CLUSTER, "a", Status.NACKED)
    assert entry.resource is good
    assert entry.version == "1"


@pytest.mark.parametrize(
    "packed",
    [any_pb2.Any(type_url=CLUSTER.type_url, value=b"\xff\xff"), any_pb2.Any(type_url="type/x.Y", value=b"")],
)
def test_what_cannot_even_be_read_is_refused_and_deletes_nothing(
    ads: ScriptedAds, make_client: MakeClient, packed: any_pb2.Any
) -> None:
    client = make_client(ads.port)
    client.subscribe(cluster={"a"})
    ads.request()
    ads.send(CLUSTER, "1", cluster("a"))
    ads.request()
    ads.send(CLUSTER, "2", packed)
    assert ads.request().HasField("error_detail")
    assert client.entry(CLUSTER, "a", Status.ACKED).resource is not None


def test_a_cluster_left_out_is_deleted_and_endpoints_left_out_are_not(
    ads: ScriptedAds, make_client: MakeClient
) -> None:
    client = make_client(ads.port)
    client.subscribe(cluster={"a", "b"}, endpoints={"e", "f"})
    ads.request(), ads.request()
    ads.send(CLUSTER, "1", cluster("a"), cluster("b"))
    ads.send(ENDPOINTS, "1", assignment("e"), assignment("f"))
    client.entry(ENDPOINTS, "f", Status.ACKED)
    ads.send(CLUSTER, "2", cluster("a"))
    ads.send(ENDPOINTS, "2", assignment("e"))
    assert client.entry(CLUSTER, "b", Status.DOES_NOT_EXIST).resource is None
    client.entry(ENDPOINTS, "e", Status.ACKED, "2")
    assert client.entry(ENDPOINTS, "f", Status.ACKED).resource is not None


def test_deletions_are_ignored_where_the_bootstrap_says_so(ads: ScriptedAds, make_client: MakeClient) -> None:
    client = make_client(ads.port, features=frozenset(["ignore_resource_deletion"]))
    client.subscribe(cluster={"a", "b"})
    ads.request()
    ads.send(CLUSTER, "1", cluster("a"), cluster("b"))
    ads.request()
    ads.send(CLUSTER, "2", cluster("a"))
    ads.request()
    assert client.entry(CLUSTER, "b", Status.DOES_NOT_EXIST).resource is not None
    ads.send(CLUSTER, "3", cluster("a"), cluster("b"))
    assert client.entry(CLUSTER, "b", Status.ACKED, "3").error == ""


def test_a_resource_that_never_comes_counts_as_missing_after_a_while(ads: ScriptedAds, make_client: MakeClient) -> None:
    client = make_client(ads.port, does_not_exist_seconds=0.3)
    client.subscribe(endpoints={"e"})
    assert "0.3 s" in client.entry(ENDPOINTS, "e", Status.DOES_NOT_EXIST).error
    ads.send(ENDPOINTS, "1", assignment("e"))
    assert client.entry(ENDPOINTS, "e", Status.ACKED).resource is not None


def test_a_change_of_subscription_carries_the_last_nonce_and_forgets_what_is_gone(
    ads: ScriptedAds, make_client: MakeClient
) -> None:
    client = make_client(ads.port)
    client.subscribe(cluster={"a"})
    ads.request()
    ads.send(CLUSTER, "1", cluster("a"))
    ads.request()
    client.subscribe(cluster={"b"})
    changed = ads.request()
    assert (list(changed.resource_names), changed.version_info, changed.response_nonce) == (["b"], "1", "n1")
    assert client.cache.get(CLUSTER, "a") is None


def test_after_a_broken_stream_the_client_comes_back_with_its_version_and_nothing_is_lost(
    make_client: MakeClient, stack: ExitStack
) -> None:
    [port] = free_ports(1)
    ads = ScriptedAds(port)
    stack.callback(ads.stop)
    client = make_client(port)
    client.subscribe(cluster={"a"})
    ads.request()
    ads.send(CLUSTER, "1", cluster("a"))
    ads.request()
    ads.stop()
    deadline = time.monotonic() + PATIENCE
    while not client.source.problem:
        assert time.monotonic() < deadline
    assert client.entry(CLUSTER, "a", Status.ACKED).resource is not None
    again = ScriptedAds(port)
    stack.callback(again.stop)
    first = again.request()
    assert (first.version_info, first.response_nonce, first.node.id) == ("1", "", "me")
    again.send(CLUSTER, "2", cluster("a"))
    client.entry(CLUSTER, "a", Status.ACKED, "2")
    assert client.source.problem == ""


def test_another_server_is_told_no_versions_of_the_first_ones(
    ads: ScriptedAds, make_client: MakeClient, stack: ExitStack
) -> None:
    other = ScriptedAds()
    stack.callback(other.stop)
    client = make_client(ads.port, others=(other.port,))
    client.subscribe(cluster={"a"})
    ads.request()
    ads.send(CLUSTER, "1", cluster("a"))
    client.entry(CLUSTER, "a", Status.ACKED)
    ads.stop()
    client.subscribe(cluster={"a", "b"})
    first = other.request()
    assert (list(first.resource_names), first.version_info) == (["a", "b"], "")


def test_a_type_that_was_not_asked_for_is_refused(ads: ScriptedAds, make_client: MakeClient) -> None:
    client = make_client(ads.port)
    client.subscribe(cluster={"a"})
    ads.request()
    ads.outbox.put(discovery_pb2.DiscoveryResponse(type_url="type.googleapis.com/x.Y", nonce="z"))
    refusal = ads.request()
    assert refusal.type_url == "type.googleapis.com/x.Y"
    assert refusal.HasField("error_detail")


def test_resources_wrapped_in_a_discovery_resource_are_taken(ads: ScriptedAds, make_client: MakeClient) -> None:
    client = make_client(ads.port)
    client.subscribe(cluster={"a"})
    ads.request()
    wrapper = any_pb2.Any()
    wrapper.Pack(discovery_pb2.Resource(name="a", resource=cluster("a")))
    ads.send(CLUSTER, "1", wrapper)
    assert client.entry(CLUSTER, "a", Status.ACKED).resource is not None


def test_a_resource_is_used_as_long_as_it_is_said_to_live(ads: ScriptedAds, make_client: MakeClient) -> None:
    client = make_client(ads.port)
    client.subscribe(cluster={"a", "b"})
    ads.request()

    def lasting(name: str, resource: any_pb2.Any | None, seconds: int, nanos: int = 0) -> any_pb2.Any:
        ttl = duration_pb2.Duration(seconds=seconds, nanos=nanos)
        packed = any_pb2.Any()
        packed.Pack(discovery_pb2.Resource(name=name, resource=resource, ttl=ttl))
        return packed

    ads.send(CLUSTER, "1", *(lasting(name, cluster(name), 0, 400_000_000) for name in ("a", "b")))
    client.entry(CLUSTER, "b", Status.ACKED)
    # A heartbeat says that a resource is there, and has none in it.
    ads.send(CLUSTER, "1", lasting("a", None, 0, 400_000_000), lasting("b", None, 3600))
    assert "the time for which" in client.entry(CLUSTER, "a", Status.DOES_NOT_EXIST).error
    client.entry(CLUSTER, "b", Status.ACKED)
    ads.send(CLUSTER, "2", cluster("a"), cluster("b"))
    client.entry(CLUSTER, "a", Status.ACKED)


def test_a_name_that_a_late_answer_lacks_is_asked_for_on_a_stream_of_its_own(
    ads: ScriptedAds, make_client: MakeClient
) -> None:
    asked: queue.Queue[list[str]] = queue.Queue()

    def answer(request: Any) -> Any:
        asked.put(list(request.resource_names))
        return discovery_pb2.DiscoveryResponse(type_url=request.type_url, nonce="x", resources=[cluster("late")])

    ads.beside = answer
    client = make_client(ads.port)
    client.subscribe(cluster={"a"})
    ads.request()
    client.subscribe(cluster={"a", "late", "missing"})
    ads.request()
    ads.send(CLUSTER, "1", cluster("a"))
    assert asked.get(timeout=PATIENCE) == ["late", "missing"]
    assert client.entry(CLUSTER, "missing", Status.DOES_NOT_EXIST).resource is None
    # What is there is taken from the stream that will bring its changes.
    assert client.entry(CLUSTER, "late", Status.REQUESTED)
    ads.send(CLUSTER, "2", cluster("a"), cluster("late"))
    assert client.entry(CLUSTER, "late", Status.ACKED).resource is not None
    ads.send(CLUSTER, "3", cluster("a"))
    assert client.entry(CLUSTER, "late", Status.DOES_NOT_EXIST).resource is None


def test_a_name_that_the_server_has_and_does_not_send_is_waited_for(
    ads: ScriptedAds, make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    ads.beside = lambda request: discovery_pb2.DiscoveryResponse(
        type_url=request.type_url, nonce="x", resources=[cluster("late")]
    )
    client = make_client(ads.port, does_not_exist_seconds=0.5)
    client.subscribe(cluster={"a"})
    ads.request()
    client.subscribe(cluster={"a", "late"})
    ads.request()
    ads.send(CLUSTER, "1", cluster("a"))
    deadline = time.monotonic() + PATIENCE
    while "late: the management server has it and does not send it" not in caplog.text:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert client.entry(CLUSTER, "late", Status.REQUESTED)


def test_a_server_that_cannot_be_read_is_asked_a_second_time_only_once(
    ads: ScriptedAds, make_client: MakeClient
) -> None:
    asked = []

    def answer(request: Any) -> Any:
        asked.append(list(request.resource_names))
        unreadable = any_pb2.Any(type_url="type/x.Y", value=b"")
        return discovery_pb2.DiscoveryResponse(type_url=request.type_url, nonce="x", resources=[unreadable])

    ads.beside = answer
    client = make_client(ads.port, does_not_exist_seconds=1.0)
    client.subscribe(cluster={"a"})
    ads.request()
    client.subscribe(cluster={"a", "late"})
    ads.request()
    ads.send(CLUSTER, "1", cluster("a"))
    assert "1 s" in client.entry(CLUSTER, "late", Status.DOES_NOT_EXIST).error
    assert asked == [["late"]]


def test_a_server_that_is_not_reached_says_of_nothing_that_it_is_missing(make_client: MakeClient) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as mute:  # Takes connections, and never says a word.
        client = make_client(mute.getsockname()[1], does_not_exist_seconds=0.1)
        client.subscribe(listener={"a"})
        time.sleep(0.3)
        entry = client.cache.get(ResourceType.LISTENER, "a")
        assert entry is not None
        assert entry.status is Status.REQUESTED


def test_a_server_that_sends_listeners_for_proxies_alone_is_told_of(
    ads: ScriptedAds, stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    ads.beside = lambda request: discovery_pb2.DiscoveryResponse(type_url=request.type_url, nonce="x")
    mesh = stack.enter_context(
        meshsdk.Mesh(
            bootstrap={
                "xds_servers": [{"server_uri": f"127.0.0.1:{ads.port}", "channel_creds": [{"type": "insecure"}]}],
                "node": {
                    "id": "sidecar~127.0.0.1~a.default~default.svc.cluster.local",
                    "metadata": {"GENERATOR": "other"},
                },
            }
        )
    )
    for version in ("1", "2"):
        names = ("0.0.0.0_9080", "virtualInbound", "virtualOutbound")
        ads.send(
            ResourceType.LISTENER,
            version,
            *(
                any_pb2.Any(
                    type_url=ResourceType.LISTENER.type_url, value=listener_pb2.Listener(name=name).SerializeToString()
                )
                for name in names
            ),
        )
    with pytest.raises(meshsdk.NoRouteError):
        mesh.wait_ready("reviews:9080", 30)
    ads.request(), ads.request(), ads.request()
    problem = mesh.status()["problem"]
    assert "0.0.0.0_9080, virtualInbound, virtualOutbound" in problem
    assert "Mesh(profile='sidecar')" in problem
    assert caplog.text.count("sends listeners for proxies") == 1


def test_closing_leaves_no_thread_behind(ads: ScriptedAds) -> None:
    before = {thread.name for thread in threading.enumerate()}
    client = Client(ads.port)
    client.subscribe(cluster={"a"})
    ads.request()
    client.close()
    left = {thread.name for thread in threading.enumerate() if thread.name.startswith(("meshsdk", "test"))}
    assert left <= before


def test_backoff_grows_to_its_maximum_with_jitter_and_starts_over() -> None:
    backoff = Backoff(1.0, 4.0, random_fraction=lambda: 0.5)
    assert [round(backoff.next_seconds(), 3) for _ in range(5)] == [1.0, 1.6, 2.56, 4.0, 4.0]
    backoff.reset()
    assert backoff.next_seconds() == 1.0
    assert 0.8 <= Backoff(1.0, 4.0).next_seconds() <= 1.2
