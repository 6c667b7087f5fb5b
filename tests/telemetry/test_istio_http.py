"""Istio's standard metrics of HTTP requests, over real sockets, as the sidecars of both sides would count them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from meshsdk_flask import MeshWsgi
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as websocket

from meshsdk.telemetry.istio_metrics import REQUEST_LABELS

from ..certificates import SpiffeCa, spiffe
from ..conftest import destination_rule, service, virtual_service
from ..patience import PATIENCE
from ..server.running import identity, peer_authentication, policy, serving
from ..servers import EchoServer, ScriptedServer, read_head
from .applications import application, send, wsgi_application
from .scraping import REQUESTS, World

MUTUAL = "trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}"
HOST = "reviews.default.svc.cluster.local"


# What both sides know of each other, as an Istio of sidecars writes it.
SHARED = {
    "source_workload": "productpage-v1",
    "source_workload_namespace": "default",
    "source_app": "productpage",
    "source_version": "v1",
    "source_canonical_service": "productpage",
    "source_canonical_revision": "v1",
    "source_cluster": "Kubernetes",
    "destination_workload": "reviews-v2",
    "destination_workload_namespace": "default",
    "destination_app": "reviews",
    "destination_version": "v2",
    "destination_canonical_service": "reviews",
    "destination_canonical_revision": "v2",
    "destination_cluster": "Kubernetes",
    "destination_service": HOST,
    "destination_service_name": "reviews",
    "destination_service_namespace": "default",
    "request_protocol": "http",
    "response_code": "200",
    "response_flags": "-",
}
PLAIN = {"source_principal": "unknown", "destination_principal": "unknown"}
PROVEN = {"source_principal": spiffe("bookinfo-productpage"), "destination_principal": spiffe("bookinfo-reviews")}


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("make", [application, wsgi_application])
@pytest.mark.parametrize("is_mutual", [False, True], ids=["plaintext", "mTLS"])
def test_both_sides_count_a_request_with_the_labels_that_sidecars_give_it(
    world: World, tmp_path: Path, kind: str, make: Callable[[], Any], is_mutual: bool
) -> None:
    ca = SpiffeCa()
    mutual = destination_rule("reviews", MUTUAL) + peer_authentication("STRICT") if is_mutual else ""
    world.configure(service("reviews", world.port) + mutual)
    server = world.server_mesh(identity=identity(tmp_path, ca, "bookinfo-reviews"))
    client = world.client_mesh(identity=identity(tmp_path, ca, "bookinfo-productpage"))
    with serving(make(), server, world.port):
        response = send(client, kind, "POST", "http://reviews/", content=b"12345")
        of_client, of_server = world.of_client(), world.of_server()
    assert not any(name.startswith("x-envoy-peer") for name in response.headers)
    assert not any(name.startswith("x-envoy-peer") for name in response.json()["headers"])
    names = PROVEN if is_mutual else PLAIN
    assert of_client.one() == {
        "reporter": "source",
        **SHARED,
        **names,
        "connection_security_policy": "unknown",
    }
    assert of_server.one() == {
        "reporter": "destination",
        **SHARED,
        **names,
        "connection_security_policy": "mutual_tls" if is_mutual else "none",
    }
    for scraped in (of_client, of_server):
        assert scraped.value() == 1
        assert set(scraped.find(REQUESTS)[0][0]) == set(REQUEST_LABELS)


def test_a_page_has_every_metric_with_its_type_and_buckets(world: World) -> None:
    world.configure(service("reviews", world.port))
    server, client = world.server_mesh(), world.client_mesh()
    with serving(application(), server, world.port), client.client() as caller:
        for _ in range(3):
            caller.get("http://reviews/")
        page = world.of_client(3)
    # The parser leaves `_total` out of the names of counters.
    assert page.families["istio_requests"] == "counter"
    assert page.families["istio_build"] == "gauge"
    bounds = "0.5 1 5 10 25 50 100 250 500 1000 2500 5000 10000 30000 60000 300000 600000 1800000 3600000 +Inf".split()
    for name in ("istio_request_duration_milliseconds", "istio_request_bytes", "istio_response_bytes"):
        assert page.families[name] == "histogram"
        buckets = page.find(f"{name}_bucket")
        assert [labels["le"] for labels, _ in buckets] == bounds
        assert [value for _, value in buckets] == sorted(value for _, value in buckets)
        assert buckets[-1][1] == page.value(f"{name}_count") == 3
    assert page.value(REQUESTS) == 3
    assert page.one("istio_build") == {"component": "proxy", "tag": "unknown"}


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_sizes_are_those_on_the_wire_heads_included(world: World, kind: str) -> None:
    sizes: list[int] = []
    response = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n12345"

    def script(connection: socket.socket, number: int) -> None:
        connection.settimeout(PATIENCE)
        read = b""
        while not read.endswith(b"abc"):
            read += connection.recv(65536)
        sizes.append(len(read))
        connection.sendall(response)

    with ScriptedServer(script) as server:
        # A host outside the mesh is not told who calls.
        world.configure(service("reviews", server.port))
        mesh = world.client_mesh()
        send(mesh, kind, "POST", f"http://127.0.0.1:{server.port}/a?b=c", content=b"abc")
        page = world.of_client()
    assert page.value("istio_request_bytes_sum") == sizes[0]
    assert page.value("istio_response_bytes_sum") == len(response)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_bodies_that_are_streamed_are_counted_when_they_end(world: World, kind: str) -> None:
    with EchoServer("reviews") as server:
        world.configure(service("reviews", server.port))
        mesh = world.client_mesh()

        def parts() -> Iterator[bytes]:
            yield b"x" * 400_000
            yield b"y" * 400_000

        async def async_parts() -> Any:
            for part in parts():
                yield part

        async def run() -> None:
            async with mesh.async_client() as client, client.stream("POST", url, content=async_parts()) as response:
                assert not world.of_client(0).find(REQUESTS)
                await response.aread()

        url = "http://reviews/"
        if kind == "sync":
            with mesh.client() as client, client.stream("POST", url, content=parts()) as response:
                assert not world.of_client(0).find(REQUESTS), "it is not over"
                response.read()
        else:
            asyncio.run(run())
        page = world.of_client()
    assert page.value() == 1
    assert 800_000 < page.value("istio_request_bytes_sum") < 801_000
    assert 800_000 < page.value("istio_response_bytes_sum") < 805_000


TO_REVIEWS = "route: [{destination: {host: reviews}}]"
RETRIES = f"retries: {{attempts: 2, retryOn: '5xx,reset,connect-failure', backoff: 1ms}}, {TO_REVIEWS}"
NO_RETRIES = f"{TO_REVIEWS}, retries: {{attempts: 0}}"


def refuse(connection: socket.socket, number: int) -> None:
    read_head(connection)


def talk_nonsense(connection: socket.socket, number: int) -> None:
    read_head(connection)
    connection.sendall(b"nonsense\r\n\r\n")


def break_off(connection: socket.socket, number: int) -> None:
    read_head(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\nhalf")


def hang(connection: socket.socket, number: int) -> None:
    read_head(connection)
    connection.settimeout(PATIENCE)
    connection.recv(1)


ENDINGS: dict[str, tuple[Callable[[socket.socket, int], None] | None, str, str, str]] = {
    "closed": (refuse, NO_RETRIES, "503", "UC"),
    "malformed": (talk_nonsense, NO_RETRIES, "502", "UPE"),
    "broken off": (break_off, NO_RETRIES, "200", "UPE"),
    "retried and closed": (refuse, RETRIES, "503", "URX,UC"),
    "refused": (None, NO_RETRIES, "503", "UF"),
    "retried and refused": (None, RETRIES, "503", "URX,UF"),
    "route timeout": (
        hang,
        f"timeout: 0.3s, {NO_RETRIES}",
        "504",
        "UT",
    ),
    "per-try timeouts": (
        hang,
        "retries: {attempts: 1, perTryTimeout: 0.3s, retryOn: '5xx', backoff: 1ms}, timeout: 30s,"
        " route: [{destination: {host: reviews}}]",
        "504",
        "URX,UT",
    ),
    "fault": (
        None,
        "fault: {abort: {httpStatus: 555, percentage: {value: 100}}}, route: [{destination: {host: reviews}}]",
        "555",
        "FI",
    ),
    "delayed fault": (
        None,
        "fault: {delay: {fixedDelay: 0.01s, percentage: {value: 100}}}, retries: {attempts: 0},"
        " route: [{destination: {host: reviews}}]",
        "503",
        "DI,UF",
    ),
}


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("case", ENDINGS)
def test_a_request_is_counted_once_with_envoys_flags(world: World, kind: str, case: str) -> None:
    script, route, code, flags = ENDINGS[case]
    with ExitStack() as servers:
        port = servers.enter_context(ScriptedServer(script)).port if script is not None else 1
        world.configure(service("reviews", port) + virtual_service("reviews", f"[{{{route}}}]"))
        mesh = world.client_mesh()
        try:
            send(mesh, kind, "POST", "http://reviews/")
        except httpx.TransportError:
            pass
        page = world.of_client()
    assert page.value() == 1
    labels = page.one()
    assert (labels["response_code"], labels["response_flags"]) == (code, flags)
    assert labels["destination_service"] == HOST
    # By what configuration says of the endpoint, which has not said anything itself; a fault leads to none.
    assert labels["destination_workload"] == ("unknown" if case == "fault" else f"reviews-{port}")
    assert labels["destination_canonical_revision"] == "latest"


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_retry_that_helps_is_one_request_without_a_flag(world: World, kind: str) -> None:
    with EchoServer("reviews") as server:
        server.statuses = [503, 200]
        world.configure(service("reviews", server.port) + virtual_service("reviews", f"[{{{RETRIES}}}]"))
        assert send(world.client_mesh(), kind, "GET", "http://reviews/").status_code == 200
    page = world.of_client()
    assert page.value() == 1
    assert page.one()["response_flags"] == "-"


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_no_endpoint_and_no_route_are_counted(world: World, kind: str) -> None:
    never = "[{match: [{uri: {exact: /never}}], route: [{destination: {host: ratings}}]}]"
    world.configure(service("reviews") + "---\n" + service("ratings", 1) + virtual_service("ratings", never))
    mesh = world.client_mesh()
    assert send(mesh, kind, "GET", "http://reviews/").status_code == 503
    assert send(mesh, kind, "GET", "http://ratings/").status_code == 404
    page = world.of_client(2)
    assert page.one(response_flags="UH")["destination_service"] == HOST
    missing = page.one(response_flags="NR")
    assert (missing["response_code"], missing["destination_service"]) == ("404", "ratings")


def test_a_caller_that_leaves_is_counted_without_a_code(world: World) -> None:
    with ScriptedServer(hang) as server:
        world.configure(service("reviews", server.port))
        mesh = world.client_mesh()

        async def run() -> None:
            async with mesh.async_client() as client:
                task = asyncio.create_task(client.get("http://reviews/"))
                while not server.accepted:
                    await asyncio.sleep(0.01)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

        asyncio.run(run())
        with mesh.client(timeout=httpx.Timeout(PATIENCE, read=0.1)) as client, pytest.raises(httpx.ReadTimeout):
            client.get("http://reviews/")
    page = world.of_client(2)
    labels = page.one()
    assert (labels["response_code"], labels["response_flags"], page.value()) == ("0", "DC", 2)


REGISTRY_ONLY = (
    "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n"
    'data: {mesh: "outboundTrafficPolicy: {mode: REGISTRY_ONLY}"}\n'
)


def test_hosts_outside_the_mesh_go_by_istios_names(world: World) -> None:
    with EchoServer("outside") as server:
        world.configure(service("reviews", 1))
        mesh = world.client_mesh()
        answer = send(mesh, "sync", "GET", f"http://localhost:{server.port}/").json()
        assert not any(name.startswith("x-envoy-peer") for name in answer["headers"])
        labels = world.of_client().one()
    assert labels["destination_service_name"] == "PassthroughCluster"
    assert labels["destination_service"] == f"localhost:{server.port}"
    assert labels["destination_service_namespace"] == labels["destination_workload"] == "unknown"


def test_hosts_that_are_not_let_out_go_by_istios_names(world: World) -> None:
    world.configure(service("reviews", 1) + REGISTRY_ONLY)
    mesh = world.client_mesh()
    assert send(mesh, "sync", "GET", "http://example.test/").status_code == 502
    labels = world.of_client().one()
    assert (labels["destination_service_name"], labels["response_code"]) == ("BlackHoleCluster", "502")
    assert labels["response_flags"] == "-"


def test_hosts_that_are_denied_go_by_istios_names(world: World) -> None:
    world.configure(service("reviews", 1))
    mesh = world.client_mesh(unknown_hosts="deny")
    with pytest.raises(httpx.ConnectError):
        send(mesh, "async", "GET", "http://example.test/")
    labels = world.of_client().one()
    assert (labels["destination_service_name"], labels["response_code"]) == ("BlackHoleCluster", "502")


def test_what_policy_refuses_is_counted(world: World) -> None:
    deny = policy("{action: DENY, rules: [{to: [{operation: {paths: ['/secret']}}]}]}")
    world.configure(service("reviews", world.port) + deny)
    with serving(application(), world.server_mesh(), world.port):
        assert httpx.get(f"http://127.0.0.1:{world.port}/secret").status_code == 403
        labels = world.of_server().one()
    assert (labels["response_code"], labels["response_flags"]) == ("403", "-")


def test_websockets_and_callers_that_leave_are_counted(world: World) -> None:
    world.configure(
        service("reviews", world.port) + policy("{action: DENY, rules: [{to: [{operation: {paths: ['/no']}}]}]}")
    )
    left = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.close"})
            return
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()

    with serving(app, world.server_mesh(), world.port, lifespan="off"):
        address = f"127.0.0.1:{world.port}"
        with websocket(f"ws://{address}/yes") as connection, contextlib.suppress(ConnectionClosed):
            connection.recv()
        with pytest.raises(InvalidStatus), websocket(f"ws://{address}/no"):
            pass
        with httpx.stream("GET", f"http://{address}/"):
            pass
        assert left.wait(PATIENCE)
        page = world.of_server(3)
    endings = {(labels["response_code"], labels["response_flags"]) for labels, _ in page.find(REQUESTS)}
    assert endings == {("101", "-"), ("403", "-"), ("200", "DC")}


def test_chunks_that_come_are_counted(world: World) -> None:
    world.configure(service("reviews", world.port))
    with serving(application(), world.server_mesh(), world.port):
        httpx.post(f"http://127.0.0.1:{world.port}/", content=iter([b"x" * 1000, b"y" * 1000]))
        page = world.of_server()
    assert 2000 < page.value("istio_request_bytes_sum") < 2300


@pytest.mark.parametrize("server", ["served", "wsgi"])
def test_an_application_that_fails_is_counted_as_500(world: World, server: str) -> None:
    world.configure(service("reviews", world.port))
    mesh = world.server_mesh()

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            raise ValueError("on purpose")

    def failing_wsgi(environ: Any, start_response: Any) -> Any:
        raise ValueError("on purpose")

    if server == "served":
        with serving(failing, mesh, world.port, lifespan="off"):
            assert httpx.get(f"http://127.0.0.1:{world.port}/").status_code == 500
            labels = world.of_server().one()
    else:
        app = MeshWsgi(failing_wsgi, mesh=mesh, port=world.port)
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "SERVER_PROTOCOL": "HTTP/1.1", "HTTP_HOST": "a"}
        with pytest.raises(ValueError, match="on purpose"):
            app(environ, lambda *_: None)
        labels = world.of_server().one()
    assert (labels["response_code"], labels["response_flags"]) == ("500", "-")
