"""The engine's own metrics: clusters, configuration and certificates, on the page that a scrape is told."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

import meshsdk
from meshsdk.security import Credentials
from meshsdk.server import engine_metrics

from ..ads import AdsServer
from ..certificates import SpiffeCa, provider, spiffe, write_identity
from ..conftest import destination_rule, service, virtual_service
from ..grpc.xds import cluster, endpoints, listener
from ..patience import PATIENCE, eventually
from ..processes import wait_for_port
from ..server.running import identity, peer_authentication, serving
from ..servers import EchoServer, ScriptedServer, read_head
from .applications import application, send
from .scraping import Scraped, World, scrape

REVIEWS = "outbound|80||reviews.default.svc.cluster.local"
NO_RETRIES = "[{retries: {attempts: 0}, route: [{destination: {host: reviews}}]}]"


def of_cluster(page: Scraped, cluster: str = REVIEWS) -> dict[str, float]:
    """A cluster's numbers, by their names; of limits, those of the default priority."""
    prefix = "meshsdk_cluster_"
    return {
        name.removeprefix(prefix): value
        for name, labels, value in page.samples
        if name.startswith(prefix) and labels["cluster"] == cluster and labels.get("priority", "default") == "default"
    }


@contextmanager
def slow_server() -> Iterator[tuple[ScriptedServer, threading.Event, threading.Semaphore]]:
    """One that answers when it is told, and says when it was asked."""
    may_answer, asked = threading.Event(), threading.Semaphore(0)

    def script(connection: socket.socket, number: int) -> None:
        read_head(connection)
        asked.release()
        may_answer.wait(PATIENCE)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    with ScriptedServer(script) as server:
        try:
            yield server, may_answer, asked
        finally:
            may_answer.set()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_cluster_says_what_is_under_way_and_what_there_was(world: World, kind: str) -> None:
    with slow_server() as (server, may_answer, asked), ThreadPoolExecutor(1) as pool:
        world.configure(service("reviews", server.port))
        mesh = world.client_mesh()
        wait_for_port(world.client_port)
        assert not of_cluster(world.of_client(0))
        answer = pool.submit(send, mesh, kind, "GET", "http://reviews/")
        assert asked.acquire(timeout=PATIENCE)
        during = of_cluster(world.of_client(0))
        may_answer.set()
        assert answer.result().text == "ok"
        after = of_cluster(world.of_client())
    assert during["endpoints"] == during["endpoints_healthy"] == 1
    assert during["requests_active"] == during["connections_active"] == during["connects_total"] == 1
    assert after["requests_active"] == after["connections_active"] == 0
    assert after["connects_total"] == 1
    for name in ("requests_pending", "retries_active", "endpoints_ejected"):
        assert after[name] == 0
    for name in ("connect_failures", "tls_handshakes", "retries", "overflows", "ejections"):
        assert after[f"{name}_total"] == 0
    # istiod's way to say that there is no limit.
    assert not any(name.endswith("_limit") for name in after)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_failures_retries_and_ejections_are_counted(world: World, kind: str) -> None:
    outliers = "trafficPolicy: {outlierDetection: {consecutive5xxErrors: 3, interval: 300s, maxEjectionPercent: 100}}"
    retried = (
        "[{retries: {attempts: 2, retryOn: 'connect-failure', backoff: 1ms}, route: [{destination: {host: reviews}}]}]"
    )
    world.configure(service("reviews", 1) + destination_rule("reviews", outliers) + virtual_service("reviews", retried))
    with pytest.raises(httpx.ConnectError):
        send(world.client_mesh(), kind, "GET", "http://reviews/")
    numbers = of_cluster(world.of_client(0))
    assert (numbers["connect_failures_total"], numbers["retries_total"]) == (3, 2)
    assert (numbers["ejections_total"], numbers["endpoints_ejected"]) == (1, 1)
    assert (numbers["endpoints"], numbers["endpoints_healthy"]) == (1, 0)
    assert numbers["retries_active"] == numbers["requests_active"] == numbers["connections_active"] == 0


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_what_a_circuit_breaker_refuses_is_counted_beside_its_limits(world: World, kind: str) -> None:
    limits = "trafficPolicy: {connectionPool: {tcp: {maxConnections: 5}, http: {http2MaxRequests: 1, maxRetries: 2}}}"
    with slow_server() as (server, may_answer, asked), ThreadPoolExecutor(1) as pool:
        world.configure(
            service("reviews", server.port)
            + destination_rule("reviews", limits)
            + virtual_service("reviews", NO_RETRIES)
        )
        mesh = world.client_mesh()
        first = pool.submit(send, mesh, kind, "GET", "http://reviews/")
        assert asked.acquire(timeout=PATIENCE)
        for _ in range(2):
            assert send(mesh, kind, "GET", "http://reviews/").status_code == 503
        numbers = of_cluster(world.of_client(0))
        may_answer.set()
        assert first.result().status_code == 200
    assert numbers["overflows_total"] == 2
    assert (numbers["requests_limit"], numbers["connections_limit"], numbers["retries_limit"]) == (1, 5, 2)
    assert "requests_pending_limit" not in numbers


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_handshakes_and_the_certificate_are_told_of(world: World, tmp_path: Path, kind: str) -> None:
    ca = SpiffeCa()
    mutual = destination_rule("reviews", "trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}") + peer_authentication("STRICT")
    world.configure(service("reviews", world.port) + mutual)
    server = world.server_mesh(identity=identity(tmp_path, ca, "bookinfo-reviews"))
    client = world.client_mesh(identity=identity(tmp_path, ca, "bookinfo-productpage"))
    wait_for_port(world.client_port)
    assert not world.of_client(0).find("meshsdk_certificate_expiry_timestamp_seconds"), "nobody has asked for it yet"
    with serving(application(), server, world.port):
        assert send(client, kind, "GET", "http://reviews/").status_code == 200
        page = world.of_client(0)
    numbers = of_cluster(page)
    assert (numbers["connects_total"], numbers["tls_handshakes_total"]) == (1, 1)
    said = client.status()["identity"]
    for name, told in (("expires_at", "expiry"), ("issued_at", "issued")):
        value = page.value(f"meshsdk_certificate_{told}_timestamp_seconds")
        assert datetime.fromtimestamp(value, UTC).isoformat() == said[name]
    assert page.value("meshsdk_certificate_problem") == 0


def test_the_certificate_of_an_agents_files_is_told_of_and_followed(world: World, tmp_path: Path) -> None:
    ca = SpiffeCa()
    write_identity(tmp_path, ca.issue(spiffe("bookinfo-productpage")), ca.pem)
    with AdsServer() as server:
        bootstrap = {**server.bootstrap, "certificate_providers": provider(tmp_path)}
        with meshsdk.Mesh(bootstrap=bootstrap, metrics_port=world.client_port):
            wait_for_port(world.client_port)
            first = scrape(world.client_port)
            Path(provider(tmp_path)["default"]["config"]["certificate_file"]).write_text("nonsense")
            broken = scrape(world.client_port)
    assert first.value("meshsdk_certificate_expiry_timestamp_seconds") > time.time()
    assert first.value("meshsdk_certificate_problem") == 0
    assert not broken.find("meshsdk_certificate_expiry_timestamp_seconds")
    assert broken.value("meshsdk_certificate_problem") == 1


class BrokenIdentity:
    """An application's own."""

    @property
    def problem(self) -> str:
        raise ValueError("on purpose")

    def credentials(self) -> Credentials:
        raise ValueError("on purpose")

    def close(self) -> None:
        """Nothing to stop."""


def test_an_identity_that_fails_takes_no_other_metric_with_it(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.configure(service("reviews", 1))
    world.client_mesh(identity=BrokenIdentity())
    wait_for_port(world.client_port)
    for _ in range(2):
        page = world.of_client(0)
        assert page.value("meshsdk_certificate_problem") == 1
        assert page.value("istio_build") == 1
    assert len([one for one in caplog.records if "until when it is good" in one.message]) == 1


def test_the_configuration_says_how_fresh_it_is(world: World) -> None:
    began = time.time()
    with EchoServer("a") as backend:
        routes = [{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]
        good = (listener("a", routes), cluster("a"), endpoints("a", [[backend.port]]))
        with (
            AdsServer(*good) as server,
            meshsdk.Mesh(bootstrap=server.bootstrap, metrics_port=world.client_port) as mesh,
            mesh.client() as client,
        ):
            wait_for_port(world.client_port)
            assert not scrape(world.client_port).find("meshsdk_xds_connected"), "a scrape begins nothing"
            assert client.get("http://a/").status_code == 200
            page = scrape(world.client_port)
            assert page.value("meshsdk_xds_connected") == 1
            assert page.value("meshsdk_configuration_problem") == 0
            assert page.value("meshsdk_xds_resources", status="acked") == 3
            assert page.value("meshsdk_xds_updates_total", type="endpoints") == 1
            assert page.value("meshsdk_configuration_version") > 0
            for name in ("xds_heard", "configuration_changed"):
                assert began <= page.value(f"meshsdk_{name}_timestamp_seconds") <= time.time()
            server.publish(good[0], cluster("a", connect_timeout="-1s"), good[2])
            eventually(lambda: scrape(world.client_port).value("meshsdk_xds_rejections_total", type="cluster") == 1)
            page = scrape(world.client_port)
            assert page.value("meshsdk_xds_resources", type="cluster", status="nacked") == 1
            assert client.get("http://a/").status_code == 200
            server.__exit__(None, None, None)
            eventually(lambda: scrape(world.client_port).value("meshsdk_xds_connected") == 0)
            page = scrape(world.client_port)
            assert page.value("meshsdk_xds_failures_total") >= 1
            assert page.value("meshsdk_configuration_problem") == 1
            assert page.value("meshsdk_clusters") == 1, "the last good one serves on"


def test_a_folder_with_an_error_is_a_problem(world: World) -> None:
    world.configure(service("reviews", 1))
    mesh = world.client_mesh()
    mesh.wait_ready("reviews", PATIENCE)
    page = world.of_client(0)
    assert (page.value("meshsdk_xds_connected"), page.value("meshsdk_configuration_problem")) == (1, 0)
    world.configure(service("reviews", 1) + virtual_service("reviews", "nonsense"))
    eventually(lambda: world.of_client(0).value("meshsdk_configuration_problem") == 1)


def test_clusters_beyond_the_bound_are_summed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_metrics, "MAX_CLUSTERS", 2)
    with EchoServer("x") as server:
        world.configure("---\n".join(service(f"s{number}", server.port) for number in range(5)))
        mesh = world.client_mesh()
        with mesh.client() as client:
            for number in reversed(range(5)):
                client.get(f"http://s{number}/")
            page = world.of_client(0)
    assert page.value("meshsdk_clusters") == 5
    told = {labels["cluster"]: value for labels, value in page.find("meshsdk_cluster_connects_total")}
    assert told == {
        "outbound|80||s0.default.svc.cluster.local": 1,
        "outbound|80||s1.default.svc.cluster.local": 1,
        "(others)": 3,
    }


def test_a_page_does_not_wait_for_the_control_thread(world: World) -> None:
    world.configure(service("reviews", 1))
    mesh = world.client_mesh()
    mesh.wait_ready("reviews", PATIENCE)
    may_go_on = threading.Event()
    mesh._runtime.post(lambda: may_go_on.wait(PATIENCE) and None)
    try:
        assert world.of_client(0).value("meshsdk_clusters") == 1
        assert not may_go_on.is_set()
    finally:
        may_go_on.set()
