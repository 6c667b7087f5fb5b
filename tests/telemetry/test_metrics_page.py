"""The page of metrics: where it is had, what stands beside it, processes that share it, and its bounds."""

from __future__ import annotations

import asyncio
import shutil
import socket
import sys
import textwrap
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

import meshsdk
from meshsdk.errors import BootstrapError
from meshsdk.http.measured import Record
from meshsdk.telemetry import istio_metrics, peer_metadata
from meshsdk.telemetry.cells import BOUNDS, Cells, PrivateMemory
from meshsdk.telemetry.istio_metrics import IstioMetrics, Outcome
from meshsdk.telemetry.prometheus import exposition
from meshsdk.telemetry.service import Service, outside, service_of
from meshsdk.telemetry.workload import NOBODY, Workload, own_workload

from ..conftest import service
from ..patience import PATIENCE
from ..processes import wait_for_port
from ..servers import EchoServer
from .programs import START, run
from .real_prometheus import prometheus
from .scraping import Scraped, World, scrape

ROOT = Path(__file__).parents[2]


def metrics_of(series: int) -> IstioMetrics:
    return IstioMetrics(NOBODY, Service(), Record, make_memory=lambda: PrivateMemory(series + 1))


def test_beyond_the_bound_requests_are_missed_and_that_is_told() -> None:
    metrics = metrics_of(3)
    for number in range(5):
        row = metrics.sent(Service(f"host-{number}", "x"), NOBODY, "", Outcome("http", 200))
        metrics.cells.count_request(row, 1, 2, 3)
    page = Scraped(exposition(metrics).decode())
    assert page.value() == 3
    assert page.value("meshsdk_metrics_series") == 3
    assert page.value("meshsdk_metrics_missed_requests_total") == 2


def test_a_crawlers_hosts_have_a_bound_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(istio_metrics, "_MAX_OUTSIDE_HOSTS", 3)
    metrics = metrics_of(100)
    for number in range(9):
        row = metrics.sent(outside(f"host-{number}", "PassthroughCluster"), NOBODY, "", Outcome("http", 200))
        metrics.cells.count_request(row, 1, 2, 3)
    page = Scraped(exposition(metrics).decode())
    assert page.value(destination_service_name="PassthroughCluster") == 9
    assert page.value(destination_service="unknown") == 6


@settings(deadline=None, max_examples=50)
@given(st.text(), st.text(max_size=400))
def test_no_value_breaks_the_page(host: str, flags: str) -> None:
    metrics = metrics_of(3)
    row = metrics.sent(Service(host, host), Workload(name=host), "", Outcome("http", 200, flags=flags))
    metrics.cells.count_request(row, 1, 2, 3)
    text = exposition(metrics).decode()
    samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
    assert [one.value for one in samples if one.name == "istio_requests_total"] == [1]


@pytest.mark.parametrize("value", [0, 1, 2, 5, 6, 3_600_000, 3_600_001, 10**12])
def test_a_value_counts_in_the_bucket_of_the_first_bound_that_it_does_not_exceed(value: int) -> None:
    metrics = metrics_of(1)
    metrics.cells.count_request(metrics.sent(Service(), NOBODY, "", Outcome("http", 200)), value, value, value)
    page = Scraped(exposition(metrics).decode())
    counted = [float(labels["le"]) for labels, count in page.find("istio_request_bytes_bucket") if count]
    assert counted[0] == min([bound for bound in BOUNDS if value <= bound], default=float("inf"))
    assert page.value("istio_request_bytes_sum") == value


def test_threads_lose_no_request() -> None:
    import threading

    cells = Cells(PrivateMemory(4))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:

        def count() -> None:
            for number in range(20_000):
                cells.count_request(cells.row("http", ("a",)), number % 7, 2, 3)

        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    (numbers,) = cells.rows()[0].values()
    assert sum(numbers[1:21]) == 80_000
    assert numbers[21] == 160_000


def test_a_struct_is_written_and_read_as_protobuf_does() -> None:
    from google.protobuf import struct_pb2

    message = struct_pb2.Struct()
    message.update({"b": "text", "a": {"deep": {"er": "x" * 300}, "n": "ü"}, "c": 1.5, "d": None, "e": [1], "f": True})
    told = {"b": "text", "a": {"deep": {"er": "x" * 300}, "n": "ü"}}
    assert peer_metadata._Reader().read(message.SerializeToString()) == told
    ours = struct_pb2.Struct()
    ours.update(told)
    assert peer_metadata._struct(told) == ours.SerializeToString(deterministic=True)


def test_pods_come_and_go_and_workloads_stay_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_metadata, "MAX_IDS", 8)
    monkeypatch.setattr(peer_metadata, "MAX_STRANGERS", 2)
    peers = peer_metadata.Peers()
    told = [peer_metadata.own_headers("", {}, Workload(name))[1][1] for name in ("a", "b", "c")]
    for number in range(50):
        for place, metadata in enumerate(told):
            found = peers.find("", b"%d-%d" % (place, number), metadata)
            assert (found.name if found is not None else None) == ("a", "b", None)[place]
    found = peers.find("spiffe://cluster.local/ns/default/sa/c", b"2-0", told[2])
    assert found is not None, "whoever proves who it is is no stranger"
    assert len(peers._known) <= 8
    assert len(peers._known_strangers) <= 8


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_break_the_reading_of_a_struct(data: bytes) -> None:
    try:
        peer_metadata._Reader().read(data)
    except ValueError:
        pass


@pytest.mark.parametrize(
    ("metadata", "wanted"),
    [
        ({"WORKLOAD_NAME": "a", "NAME": "a-x-1"}, ("a", "a", "latest")),
        ({"NAME": "a-5d8-x7k2p", "LABELS": {"pod-template-hash": "5d8", "app": "b"}}, ("a", "b", "latest")),
        ({"NAME": "db-0", "LABELS": {"statefulset.kubernetes.io/pod-name": "db-0"}}, ("db", "db", "latest")),
        ({"NAME": "alone"}, ("alone", "alone", "latest")),
        ({"LABELS": {"app.kubernetes.io/name": "n", "app.kubernetes.io/version": "3"}}, ("n", "n", "3")),
        ({}, ("shop", "shop", "latest")),
    ],
)
def test_a_process_knows_its_workload(metadata: dict[str, Any], wanted: tuple[str, str, str]) -> None:
    own = own_workload(metadata, "default", "shop")
    assert (own.name, own.canonical_service, own.canonical_revision) == wanted


@pytest.mark.parametrize(
    ("cluster", "metadata", "wanted"),
    [
        ("outbound|80||a.b.svc.cluster.local", {}, Service("a.b.svc.cluster.local", "a", "b")),
        ("outbound|80|v1|a.b.svc.cluster.local", {}, Service("a.b.svc.cluster.local", "a", "b")),
        ("outbound|443||api.test.com", {}, Service("api.test.com", "api.test.com")),
        ("x", {"istio": {"services": [{"host": "h.n", "name": "h", "namespace": "n"}]}}, Service("h.n", "h", "n")),
        ("x", {"istio": {"services": [{"host": "h.n"}]}}, Service("h.n", "h")),
        ("x", {}, None),
    ],
)
def test_a_cluster_names_its_service(cluster: str, metadata: Any, wanted: Service | None) -> None:
    assert service_of(cluster, metadata) == wanted


def test_the_environment_names_the_port(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.configure(service("a"))
    monkeypatch.setenv("MESHSDK_METRICS_PORT", str(world.client_port))
    with meshsdk.Mesh(config=world.config):
        wait_for_port(world.client_port)
        assert scrape(world.client_port).value("istio_build") == 1
        assert scrape(world.client_port, "/metrics").value("istio_build") == 1
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"http://127.0.0.1:{world.client_port}/other")
    with socket.create_server(("127.0.0.1", world.client_port)):
        pass  # It was given back.
    monkeypatch.setenv("MESHSDK_METRICS_PORT", "http")
    with pytest.raises(BootstrapError, match="MESHSDK_METRICS_PORT"):
        meshsdk.Mesh(config=world.config)


def test_without_a_port_nothing_is_counted(world: World) -> None:
    world.configure(service("a"))
    with meshsdk.Mesh(config=world.config) as mesh:
        assert mesh._runtime.metrics is None
        with mesh.client() as client:
            client.get("http://a/")
        assert mesh._runtime.metrics is None


def test_the_page_can_be_mounted(world: World) -> None:
    with EchoServer("a") as server:
        world.configure(service("a", server.port))
        with meshsdk.Mesh(config=world.config) as mesh:
            asgi, wsgi = mesh.metrics_asgi(), mesh.metrics_wsgi()
            with mesh.client() as client:
                client.get("http://a/")
            with httpx.Client(transport=httpx.WSGITransport(app=wsgi)) as client:
                assert Scraped(client.get("http://x/").text).value() == 1

            async def run() -> str:
                async with httpx.AsyncClient(transport=httpx.ASGITransport(app=asgi)) as client:
                    return (await client.get("http://x/")).text

            assert Scraped(asyncio.run(run())).value() == 1


def test_the_applications_own_metrics_stand_beside_it(world: World) -> None:
    with EchoServer("a") as server:
        world.configure(service("a", server.port))
        script = """
            from prometheus_client import Counter, REGISTRY
            Counter("orders", "Orders").inc(3)
            send(1)
            page = scrape(port)
            assert page.value("orders_total") == 3 and page.value() == 1, page.text
            class Broken:
                def describe(self):
                    return []
                def collect(self):
                    raise ValueError("two\\nlines")
            REGISTRY.register(Broken())
            assert scrape(port).value() == 1
        """
        run(START + textwrap.dedent(script), str(world.config), str(world.client_port))


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="there is no prometheus here")
def test_prometheus_scrapes_it_and_answers_kialis_question(world: World) -> None:
    config = (
        "global: {scrape_interval: 200ms, scrape_timeout: 200ms}\nscrape_configs:\n- job_name: a\n  metrics_path:"
        f" /stats/prometheus\n  static_configs: [{{targets: ['127.0.0.1:{world.client_port}']}}]\n"
    )
    query = (
        'sum(rate(istio_requests_total{reporter="source",source_workload_namespace="default"} [5s]))'
        " by (source_workload,destination_service,response_code,response_flags) > 0"
    )
    with EchoServer("reviews") as server:
        world.configure(service("reviews", server.port))
        mesh = world.client_mesh()
        with prometheus(world.config.parent, config) as running, mesh.client() as client:
            deadline = time.monotonic() + PATIENCE
            while not (found := running.ask(query)) and time.monotonic() < deadline:
                client.get("http://reviews/")
                time.sleep(0.1)
    assert found[0].labels == {
        "source_workload": "productpage-v1",
        "destination_service": "reviews.default.svc.cluster.local",
        "response_code": "200",
        "response_flags": "-",
    }
