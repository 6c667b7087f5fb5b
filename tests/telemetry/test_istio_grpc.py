"""Istio's standard metrics of gRPC calls, over real sockets, sync and asyncio, both reporters."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import grpc
import pytest

import meshsdk
from meshsdk.grpc.channels import measured_calls
from meshsdk.grpc.servers import measured_server
from meshsdk.telemetry.istio_metrics import MESSAGE_LABELS

from ..certificates import SpiffeCa, spiffe
from ..conftest import destination_rule, service, virtual_service
from ..grpc.conftest import MakeClient
from ..grpc_client import Status
from ..grpc_server import GrpcServer
from ..patience import PATIENCE
from ..processes import free_ports
from ..server.grpc_servers import aio_grpc_server, sync_grpc_server
from ..server.running import identity, peer_authentication, policy
from .scraping import World, scrape

MUTUAL = "trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}"
MESSAGES = ("istio_request_messages_total", "istio_response_messages_total")

SHARED = {
    "source_workload": "productpage-v1",
    "source_workload_namespace": "default",
    "source_app": "productpage",
    "source_version": "v1",
    "source_canonical_service": "productpage",
    "source_canonical_revision": "v1",
    "source_cluster": "Kubernetes",
    "destination_workload": "ratings-v2",
    "destination_workload_namespace": "default",
    "destination_app": "ratings",
    "destination_version": "v2",
    "destination_canonical_service": "ratings",
    "destination_canonical_revision": "v2",
    "destination_cluster": "Kubernetes",
    "destination_service": "ratings.default.svc.cluster.local",
    "destination_service_name": "ratings",
    "destination_service_namespace": "default",
    "request_protocol": "grpc",
    "response_code": "200",
    "grpc_response_status": "0",
    "response_flags": "-",
}
PLAIN = {"source_principal": "unknown", "destination_principal": "unknown"}

SERVERS = {"sync": sync_grpc_server, "aio": aio_grpc_server}


def ratings(*ports: int) -> str:
    return service("ratings", *ports, port=9080).replace("name: http", "name: grpc").replace("{http:", "{grpc:")


def serving(kind: str, mesh: meshsdk.Mesh, port: int, secure: bool) -> AbstractContextManager[None]:
    made: AbstractContextManager[None] = SERVERS[kind](mesh, port, secure)
    return made


def test_both_sides_count_a_call_with_the_labels_that_sidecars_give_it(
    world: World,
    kind: str,
    connect: MakeClient,
    clients: ExitStack,
) -> None:
    world.configure(ratings(world.port))
    server, client = world.mesh("ratings-v2", world.server_port), world.client_mesh()
    with serving(kind, server, world.port, secure=False), clients:
        seen = connect(client).call()
        assert not any("peer-metadata" in name for name in seen["metadata"])
        initial, _ = connect(client).metadata()
        assert not any("peer-metadata" in name for name, _ in initial)
    of_client, of_server = world.of_client(2), world.of_server(2)
    assert of_client.one() == {
        "reporter": "source",
        **SHARED,
        **PLAIN,
        "connection_security_policy": "unknown",
    }
    assert of_server.one() == {"reporter": "destination", **SHARED, **PLAIN, "connection_security_policy": "none"}
    for page in (of_client, of_server):
        assert page.value() == 2
        for name in MESSAGES:
            assert page.value(name) == 2
            assert set(page.find(name)[0][0]) == set(MESSAGE_LABELS), "and no other label"


def test_mutual_tls_is_told_by_both(
    world: World,
    tmp_path: Path,
    kind: str,
    connect: MakeClient,
    clients: ExitStack,
) -> None:
    ca = SpiffeCa()
    exact = f"trafficPolicy: {{tls: {{mode: ISTIO_MUTUAL, subjectAltNames: ['{spiffe('bookinfo-ratings')}']}}}}"
    world.configure(ratings(world.port) + destination_rule("ratings", exact) + peer_authentication("STRICT"))
    server = world.mesh("ratings-v2", world.server_port, identity=identity(tmp_path, ca, "bookinfo-ratings"))
    client = world.client_mesh(identity=identity(tmp_path, ca, "bookinfo-productpage"))
    with serving(kind, server, world.port, secure=True), clients:
        connect(client).call()
    names = {
        "source_principal": spiffe("bookinfo-productpage"),
        "destination_principal": spiffe("bookinfo-ratings"),
    }
    assert world.of_server().one() == {
        "reporter": "destination",
        **SHARED,
        **names,
        "connection_security_policy": "mutual_tls",
    }
    assert world.of_client().one() == {
        "reporter": "source",
        **SHARED,
        **names,
        "connection_security_policy": "unknown",
    }


def test_messages_of_all_kinds_of_calls_are_counted(
    world: World,
    kind: str,
    connect: MakeClient,
    clients: ExitStack,
) -> None:
    world.configure(ratings(world.port))
    server, client = world.mesh("ratings-v2", world.server_port), world.client_mesh()
    with serving(kind, server, world.port, secure=False), clients:
        caller = connect(client)
        assert len(caller.down(4)) == 4
        caller.up([b"a", b"b", b"c"])
        caller.both([b"a", b"b"])
    for page in (world.of_client(3), world.of_server(3)):
        assert page.value() == 3
        assert [page.value(name) for name in MESSAGES] == [1 + 3 + 2, 4 + 1 + 2], page.find(MESSAGES[0])
        assert page.value("istio_request_bytes_sum") > 0


def test_long_streams_are_told_of_while_they_last(
    world: World,
    kind: str,
    connect: MakeClient,
    clients: ExitStack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measured_calls, "_TELL_SECONDS", 0.0)
    monkeypatch.setattr(measured_server, "_TELL_SECONDS", 0.0)
    world.configure(ratings(world.port))
    server, client = world.mesh("ratings-v2", world.server_port), world.client_mesh()
    seen: list[list[float]] = []
    with serving("sync", server, world.port, secure=False), clients, client.channel("ratings:9080") as channel:

        def requests() -> Iterator[bytes]:
            yield b"a"
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline and not all(
                scrape(port).value(MESSAGES[1]) for port in (world.client_port, world.server_port)
            ):
                time.sleep(0.02)
            seen.append([scrape(port).value(MESSAGES[1]) for port in (world.client_port, world.server_port)])
            yield b"b"

        assert len(list(channel.stream_stream("/test.Echo/Both")(requests(), timeout=PATIENCE))) == 2
    assert seen == [[1, 1]]
    assert [world.of_client().value(name) for name in MESSAGES] == [2, 2]
    assert not world.of_client().value() > 1


def expect(world: World, code: str, status: str, flags: str) -> dict[str, str]:
    page = world.of_client()
    assert page.value() == 1
    labels = page.one()
    assert (labels["response_code"], labels.get("grpc_response_status", ""), labels["response_flags"]) == (
        code,
        status,
        flags,
    )
    return labels


FAULT = (
    "[{fault: {abort: {grpcStatus: UNAVAILABLE, percentage: {value: 100}}}, route: [{destination: {host: ratings}}]}]"
)
NEVER = "[{match: [{uri: {exact: /never}}], route: [{destination: {host: ratings}}]}]"


@pytest.mark.parametrize(
    ("yaml", "ending"),
    [
        (ratings(), ("200", "14", "UH")),
        (ratings(1), ("200", "14", "UF")),
        (ratings(1) + virtual_service("ratings", NEVER), ("200", "12", "NR")),
        (ratings(1) + virtual_service("ratings", FAULT), ("200", "14", "FI")),
    ],
    ids=["no endpoint", "nobody listens", "no route", "fault"],
)
def test_answers_in_a_servers_place_are_a_200_with_flags(
    world: World,
    connect: MakeClient,
    yaml: str,
    ending: tuple[str, str, str],
) -> None:
    world.configure(yaml)
    with pytest.raises(Status):
        connect(world.client_mesh()).call()
    expect(world, *ending)


def test_what_a_server_says_is_its_status(
    world: World,
    kind: str,
    connect: MakeClient,
    clients: ExitStack,
) -> None:
    world.configure(ratings(world.port))
    server, client = world.mesh("ratings-v2", world.server_port), world.client_mesh()
    with serving(kind, server, world.port, secure=False), clients, pytest.raises(Status):
        connect(client).call("/test.Echo/Fail", b"NOT_FOUND")
    expect(world, "200", "5", "-")
    labels = world.of_server().one()
    assert (labels["grpc_response_status"], labels["response_flags"]) == ("5", "-")


def test_a_deadline_of_the_callers_is_a_caller_that_leaves_and_one_of_the_routes_a_timeout(
    world: World,
    connect: MakeClient,
) -> None:
    with GrpcServer("one") as server:
        world.configure(ratings(server.port))
        client = world.client_mesh()
        with pytest.raises(Status):
            connect(client).call("/test.Echo/Sleep", b"2", timeout=0.2)
        expect(world, "0", "", "DC")
        world.configure(
            ratings(server.port)
            + virtual_service("ratings", "[{timeout: 0.2s, route: [{destination: {host: ratings}}]}]")
        )
        fresh = world.mesh("productpage-v1", port := free_ports(1)[0])
        with pytest.raises(Status):
            connect(fresh).call("/test.Echo/Sleep", b"2", timeout=20)
        labels = scrape(port).one()
    assert (labels["response_code"], labels["grpc_response_status"], labels["response_flags"]) == ("200", "4", "UT")


def test_what_policy_refuses_is_counted(world: World, kind: str, connect: MakeClient, clients: ExitStack) -> None:
    deny = policy("{action: DENY, rules: [{to: [{operation: {paths: ['/test.Echo/Say']}}]}]}")
    world.configure(ratings(world.port) + deny)
    server, client = world.mesh("ratings-v2", world.server_port), world.client_mesh()
    with serving(kind, server, world.port, secure=False), clients, pytest.raises(Status):
        connect(client).call()
    labels = world.of_server().one()
    assert (labels["response_code"], labels["grpc_response_status"], labels["request_protocol"]) == ("200", "7", "grpc")


def test_hosts_outside_the_mesh_go_by_istios_names(world: World, connect: MakeClient) -> None:
    with GrpcServer("outside") as server:
        world.configure(ratings(1))
        seen = connect(world.client_mesh(), f"localhost:{server.port}").call()
        assert not any("peer-metadata" in name for name in seen["metadata"])
    labels = expect(world, "200", "0", "-")
    assert labels["destination_service_name"] == "PassthroughCluster"
    assert labels["destination_service"] == f"localhost:{server.port}"


def test_interceptors_of_foreign_channels_count(world: World) -> None:
    with GrpcServer("one") as server:
        world.configure(ratings(server.port))
        mesh = world.client_mesh()
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as plain:
            channel = grpc.intercept_channel(plain, *mesh.client_interceptors("ratings:9080"))
            channel.unary_unary("/test.Echo/Say")(b"", timeout=PATIENCE)
    labels = expect(world, "200", "0", "-")
    assert labels["reporter"] == "source"
