"""What gRFCs A40, A53, A57 and A88 say of errors, each by a server that a test scripts."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2
from google.rpc import code_pb2, status_pb2

from meshsdk.resources import ResourceType
from meshsdk.xds import CachedResource, Status

from ..patience import PATIENCE
from ..processes import free_ports
from .test_ads_client import CLUSTER, ENDPOINTS, Client, MakeClient, ScriptedAds, assignment, cluster
from .test_ads_client import ads as ads
from .test_ads_client import make_client as make_client
from .test_delta import ScriptedDelta, named

FAILS = frozenset(["fail_on_data_errors"])
TELLS = frozenset(["resource_timer_is_transient_error"])
VARIABLE = "GRPC_EXPERIMENTAL_XDS_DATA_ERROR_HANDLING"


def bad(name: str) -> any_pb2.Any:
    return cluster(name, connect_timeout="-1s")


def error(name: str, code: int, message: str = "no such thing") -> Any:
    return discovery_pb2.ResourceError(
        resource_name=discovery_pb2.ResourceName(name=name),
        error_detail=status_pb2.Status(code=code, message=message),
    )


def send_errors(ads: ScriptedAds, kind: ResourceType, version: str, *errors: Any, resources: Any = ()) -> None:
    ads.outbox.put(
        discovery_pb2.DiscoveryResponse(
            type_url=kind.type_url,
            version_info=version,
            nonce=f"n{version}",
            resources=resources,
            resource_errors=errors,
        )
    )


def with_one_cluster(ads: ScriptedAds, make_client: MakeClient, features: frozenset[str]) -> Client:
    client = make_client(ads.port, features=features)
    client.subscribe(cluster={"a"})
    ads.request()
    ads.send(CLUSTER, "1", cluster("a"))
    client.entry(CLUSTER, "a", Status.ACKED)
    ads.request()
    return client


# A88: what is in use already, and a data error.


def deleted(ads: ScriptedAds) -> Status:
    ads.send(CLUSTER, "2")
    return Status.DOES_NOT_EXIST


def refused(ads: ScriptedAds) -> Status:
    ads.send(CLUSTER, "2", bad("a"))
    return Status.NACKED


def not_found(ads: ScriptedAds) -> Status:
    send_errors(ads, CLUSTER, "2", error("a", code_pb2.NOT_FOUND))
    return Status.RECEIVED_ERROR


def forbidden(ads: ScriptedAds) -> Status:
    send_errors(ads, CLUSTER, "2", error("a", code_pb2.PERMISSION_DENIED))
    return Status.RECEIVED_ERROR


def unavailable(ads: ScriptedAds) -> Status:
    send_errors(ads, CLUSTER, "2", error("a", code_pb2.UNAVAILABLE))
    return Status.RECEIVED_ERROR


@pytest.mark.parametrize("happen", [deleted, refused, not_found, forbidden])
def test_a88_a_data_error_takes_away_what_is_in_use_where_fail_on_data_errors_is_a_feature(
    happen: Any, ads: ScriptedAds, make_client: MakeClient
) -> None:
    client = with_one_cluster(ads, make_client, FAILS)
    entry = client.entry(CLUSTER, "a", happen(ads))
    assert entry.resource is None
    assert entry.error
    ads.request()
    ads.send(CLUSTER, "3", cluster("a"))
    assert client.entry(CLUSTER, "a", Status.ACKED, "3").resource is not None


@pytest.mark.parametrize("happen", [deleted, refused, not_found, forbidden, unavailable])
def test_a88_a_data_error_changes_nothing_where_it_is_none_and_is_told_of(
    happen: Any, ads: ScriptedAds, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "true")
    client = with_one_cluster(ads, make_client, frozenset())
    entry = client.entry(CLUSTER, "a", happen(ads))
    assert entry.resource is not None
    assert entry.error
    ads.request()
    ads.send(CLUSTER, "3", cluster("a"))
    assert client.entry(CLUSTER, "a", Status.ACKED, "3").error == ""


def test_a88_other_errors_of_the_server_are_transient_even_so(ads: ScriptedAds, make_client: MakeClient) -> None:
    client = with_one_cluster(ads, make_client, FAILS)
    assert client.entry(CLUSTER, "a", unavailable(ads)).resource is not None


def test_a88_without_the_variable_a_deletion_counts_as_it_did(
    ads: ScriptedAds, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    client = with_one_cluster(ads, make_client, frozenset())
    assert client.entry(CLUSTER, "a", deleted(ads)).resource is None


def test_a88_fail_on_data_errors_has_ignore_resource_deletion_ignored(
    ads: ScriptedAds, make_client: MakeClient
) -> None:
    client = with_one_cluster(ads, make_client, FAILS | {"ignore_resource_deletion"})
    assert client.entry(CLUSTER, "a", deleted(ads)).resource is None


def test_a53_a_deletion_is_ignored_until_the_resource_comes_again(ads: ScriptedAds, make_client: MakeClient) -> None:
    client = with_one_cluster(ads, make_client, frozenset(["ignore_resource_deletion"]))
    entry = client.entry(CLUSTER, "a", deleted(ads))
    assert (entry.resource is not None, entry.version) == (True, "1")
    assert "what it sent last stays in use" in entry.error
    ads.send(CLUSTER, "3", cluster("a"))
    client.entry(CLUSTER, "a", Status.ACKED, "3")


def test_a88_errors_of_the_server_end_the_wait_and_say_why(ads: ScriptedAds, make_client: MakeClient) -> None:
    client = make_client(ads.port)
    client.subscribe(endpoints={"gone", "secret", "good"}, cluster={"a"})
    ads.request(), ads.request()
    send_errors(
        ads,
        ENDPOINTS,
        "1",
        error("gone", code_pb2.NOT_FOUND),
        error("secret", code_pb2.PERMISSION_DENIED, "not for you"),
        error("good", code_pb2.NOT_FOUND),
        error("nobody asked for it", code_pb2.NOT_FOUND),
        resources=[assignment("good")],
    )
    gone, secret = (client.entry(ENDPOINTS, name, Status.RECEIVED_ERROR) for name in ("gone", "secret"))
    assert (gone.resource, gone.is_missing, secret.is_missing) == (None, True, False)
    assert "PERMISSION_DENIED: not for you" in secret.error
    # A server that says both has the resource.
    client.entry(ENDPOINTS, "good", Status.ACKED)
    assert client.cache.get(ENDPOINTS, "nobody asked for it") is None
    assert not ads.request().HasField("error_detail")


def test_a88_errors_come_incrementally_as_well(make_client: MakeClient, stack: ExitStack) -> None:
    ads = ScriptedDelta()
    stack.callback(ads.stop)
    client = make_client(ads.port, features=FAILS | {"meshsdk.incremental"})
    client.subscribe(cluster={"a"})
    ads.request()
    ads.send_delta(CLUSTER, "n1", named("a", cluster("a")))
    client.entry(CLUSTER, "a", Status.ACKED)
    ads.outbox.put(
        discovery_pb2.DeltaDiscoveryResponse(
            type_url=CLUSTER.type_url, nonce="n2", resource_errors=[error("a", code_pb2.NOT_FOUND)]
        )
    )
    assert client.entry(CLUSTER, "a", Status.RECEIVED_ERROR).resource is None


@pytest.mark.parametrize(
    ("features", "status", "is_missing"),
    [(frozenset(), Status.DOES_NOT_EXIST, True), (TELLS, Status.TIMEOUT, False)],
    ids=["a data error", "transient"],
)
def test_a88_the_resource_timer_means_what_the_server_is_known_for(
    features: frozenset[str], status: Status, is_missing: bool, ads: ScriptedAds, make_client: MakeClient
) -> None:
    client = make_client(ads.port, features=features, does_not_exist_seconds=0.3)
    client.subscribe(endpoints={"e"})
    entry = client.entry(ENDPOINTS, "e", status)
    assert (entry.resource, entry.is_missing) == (None, is_missing)


@pytest.mark.parametrize(("features", "seconds"), [(frozenset(), 15.0), (TELLS, 30.0)])
def test_a88_the_resource_timer_is_longer_where_the_server_says_what_is_missing(
    features: frozenset[str], seconds: float, ads: ScriptedAds, make_client: MakeClient
) -> None:
    client = make_client(ads.port, features=features)
    client.subscribe(endpoints={"e"})
    ads.request()
    assert timers_of(client) == [pytest.approx(seconds, abs=5.0)]


def timers_of(client: Client) -> list[float]:
    """How long the timers of resources have to run, once there are any."""
    deadline = time.monotonic() + PATIENCE
    connection = client.source._connections[0]
    while not connection._timers:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return [timer.due - client.loop.now() for timer in connection._timers.values()]


# A57: failures of a server.


def end_stream(ads: ScriptedAds) -> None:
    """The next stream has an outbox of its own."""
    outbox, ads.outbox = ads.outbox, queue.Queue()
    outbox.put(None)


class LateDoor:
    """A port that is connected to and says nothing, until it hands everything on to a server."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._target = port
        self._open = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def open(self) -> None:
        self._open.set()

    def _serve(self) -> None:
        while True:
            try:
                inner, _ = self._socket.accept()
            except OSError:
                return
            self._open.wait()
            outer = socket.create_connection(("127.0.0.1", self._target))
            for one, other in ((inner, outer), (outer, inner)):
                threading.Thread(target=_pump, args=(one, other), daemon=True).start()

    def close(self) -> None:
        self._open.set()
        self._socket.close()


def _pump(one: socket.socket, other: socket.socket) -> None:
    try:
        while data := one.recv(65536):
            other.sendall(data)
    except OSError:
        pass
    for end in (one, other):
        end.close()


@pytest.fixture
def late(ads: ScriptedAds) -> Iterator[LateDoor]:
    door = LateDoor(ads.port)
    yield door
    door.close()


def test_a57_the_resource_timer_begins_when_the_request_has_gone_out(
    ads: ScriptedAds, late: LateDoor, make_client: MakeClient
) -> None:
    client = make_client(late.port, does_not_exist_seconds=PATIENCE)
    client.subscribe(endpoints={"e"})
    connection = client.source._connections[0]
    deadline = time.monotonic() + PATIENCE
    while connection._stream is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert not connection._timers
    late.open()
    ads.request()
    assert timers_of(client) == [pytest.approx(PATIENCE, abs=10.0)]


def test_a57_a_stream_that_ends_before_a_response_is_a_failure_and_one_that_ends_later_is_none(
    ads: ScriptedAds, make_client: MakeClient
) -> None:
    client = make_client(ads.port)
    connection = client.source._connections[0]
    client.subscribe(cluster={"a"})
    ads.request()
    ads.send(CLUSTER, "1", cluster("a"))
    client.entry(CLUSTER, "a", Status.ACKED)
    ads.request()
    end_stream(ads)
    first = ads.request()  # Of the next stream.
    assert (first.node.id, connection.is_failing) == ("me", False)
    end_stream(ads)
    ads.request()
    assert connection.is_failing
    ads.send(CLUSTER, "2", cluster("a"))
    client.entry(CLUSTER, "a", Status.ACKED, "2")
    assert not connection.is_failing


def test_a57_the_wait_between_attempts_grows_until_a_response_comes(make_client: MakeClient, stack: ExitStack) -> None:
    [port] = free_ports(1)
    client = make_client(port)
    backoff = client.source._connections[0]._backoff
    client.subscribe(cluster={"a"})
    deadline = time.monotonic() + PATIENCE
    while client.source.failures < 4:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert backoff._next_seconds == pytest.approx(0.2)  # The longest that this client waits.
    server = ScriptedAds(port)
    stack.callback(server.stop)
    server.request()
    server.send(CLUSTER, "1", cluster("a"))
    client.entry(CLUSTER, "a", Status.ACKED)
    assert backoff._next_seconds == pytest.approx(0.05)


# A40: what is told of resources of one response, of which one is bad.


def test_a40_each_resource_of_a_refused_response_is_told_of_by_itself(
    ads: ScriptedAds, make_client: MakeClient
) -> None:
    client = make_client(ads.port)
    client.subscribe(cluster={"a", "b"}, endpoints={"e"})
    ads.request(), ads.request()
    ads.send(CLUSTER, "1", cluster("a"), cluster("b"))
    client.entry(CLUSTER, "b", Status.ACKED, "1")
    ads.send(CLUSTER, "2", cluster("a", connect_timeout="3s"), bad("b"))
    a, b = client.entry(CLUSTER, "a", Status.ACKED, "2"), client.entry(CLUSTER, "b", Status.NACKED)
    # What is used is told, also of the one whose last update was refused, with why.
    assert (a.version, a.error, b.version) == ("2", "", "1")
    assert "connect_timeout" in b.error
    assert isinstance(b, CachedResource)
    assert b.packed == cluster("b").value
    client.entry(ENDPOINTS, "e", Status.REQUESTED)
    ads.send(CLUSTER, "3", cluster("a"), cluster("b"))
    assert client.entry(CLUSTER, "b", Status.ACKED, "3").error == ""
