"""Access logs that go to servers: MeshConfig's providers, both sides, and collectors that are slow, dead or gone."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import meshsdk
from meshsdk.access_log import logs as access_logs
from meshsdk.access_log.cel import compile_expression
from meshsdk.access_log.entry import Entry, Steady, size_of
from meshsdk.access_log.writer import Pace, Writer
from meshsdk.controlplane.folder import load
from meshsdk.routing import RequestHead

from ..conftest import service
from ..controlplane.test_access_logging import mesh_config, telemetry
from ..patience import PATIENCE
from ..processes import free_ports
from ..server.running import serving
from ..servers import EchoServer
from .applications import application, send, wsgi_application
from .log_collectors import Collector
from .scraping import World

ALS = {"name": "als", "envoyHttpAls": {"service": "collector.default.svc.cluster.local", "port": 4317}}
OTEL = {
    "name": "otel",
    "envoyOtelAls": {
        "service": "default/collector.default.svc.cluster.local",
        "port": 4317,
        "logFormat": {"text": "%REQ(:METHOD)% %RESPONSE_CODE%", "labels": {"flags": "%RESPONSE_FLAGS%"}},
    },
}


def collector_at(port: int) -> str:
    yaml = service("collector", port, port=4317)
    return yaml.replace("name: http", "name: grpc").replace("{http:", "{grpc:") + "---\n"


def named(name: str, **more: Any) -> str:
    return telemetry(json.dumps([{"providers": [{"name": name}], **more}]))


def told_by_als(folder: Path, port: int, collector: int) -> Path:
    """A folder whose requests to `reviews` are told to an access log service."""
    told = mesh_config(extensionProviders=[ALS]) + named("als")
    (folder / "mesh.yaml").write_text(collector_at(collector) + service("reviews", port) + told)
    return folder


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("make", [application, wsgi_application])
def test_both_sides_tell_the_provider_that_telemetry_names(world: World, kind: str, make: Any) -> None:
    with Collector() as collector:
        provider = {**ALS, "envoyHttpAls": {**ALS["envoyHttpAls"], "additionalRequestHeadersToLog": ["x-tenant"]}}
        world.configure(
            collector_at(collector.port)
            + service("reviews", world.port)
            + mesh_config(extensionProviders=[provider])
            + named("als")
        )
        server, client = world.server_mesh(), world.client_mesh()
        with serving(make(), server, world.port):
            response = send(client, kind, "POST", "http://reviews/", content=b"12345", headers={"x-tenant": "blue"})
            entries = collector.wait_for(lambda one: one.entries, 2)
    by_side = {entry.common_properties.upstream_cluster.partition("|")[0]: entry for entry in entries}
    assert set(by_side) == {"outbound", "inbound"}
    for entry in by_side.values():
        assert (entry.request.authority, entry.request.path) == ("reviews", "/")
        assert entry.request.request_body_bytes == 5
        assert entry.response.response_code.value == 200
        assert entry.response.response_body_bytes == len(response.content)
        assert dict(entry.request.request_headers) == {"x-tenant": "blue"}
        assert entry.common_properties.upstream_remote_address.socket_address.port_value == world.port
    remote = by_side["inbound"].common_properties.downstream_remote_address.socket_address
    assert (remote.address, by_side["inbound"].common_properties.access_log_type) == ("127.0.0.1", 6)
    assert {message.identifier.log_name for message in collector.messages} == {"http_envoy_accesslog"}


def test_opentelemetry_is_told_in_the_providers_format_and_filter(tmp_path: Path, stack: ExitStack) -> None:
    pytest.importorskip("cel_expr_python")
    with Collector() as collector, EchoServer("reviews") as server:
        server.statuses = [200, 503]
        (tmp_path / "mesh.yaml").write_text(
            collector_at(collector.port)
            + service("reviews", server.port)
            + mesh_config(extensionProviders=[OTEL])
            + named("otel", filter={"expression": "response.code >= 500"})
        )
        mesh = stack.enter_context(meshsdk.Mesh(config=tmp_path))
        for method in ("GET", "PUT"):
            send(mesh, "sync", method, "http://reviews/")
        [record] = collector.wait_for(lambda one: one.records, 1)
    assert record.body.string_value == "PUT 503"
    assert {one.key: one.value.string_value for one in record.attributes} == {"flags": "-"}


def test_a_request_that_cannot_be_told_keeps_no_other_back(
    tmp_path: Path, stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    with Collector() as collector, EchoServer("reviews") as server:
        mesh = stack.enter_context(meshsdk.Mesh(config=told_by_als(tmp_path, server.port, collector.port)))
        send(mesh, "sync", "GET", "http://reviews/1")
        logs = mesh._runtime.access_logs
        assert logs is not None
        [steady] = logs.known.values()
        # No protobuf holds half of a surrogate pair.
        odd = Steady(RequestHead("GET", "http", "reviews", "/odd"), 200, "", "\ud800")
        [configs] = {one.table.listener.access_logs for one in mesh._runtime.directory.targets.values() if one.table}
        for one in (odd, steady):
            logs.write(Entry(one, RequestHead("GET", "http", "reviews", "/2"), (), (), 0, 0, 1.0, 0.1, None), configs)
        found = collector.wait_for(lambda one: one.entries, 2)
        _until(lambda: logs.dropped == 1)
    assert {one.request.path for one in found} == {"/1", "/2"}
    assert len([one for one in caplog.messages if "cannot be told" in one]) == 1


def test_an_expression_that_cel_cannot_evaluate_does_not_hold() -> None:
    pytest.importorskip("cel_expr_python")
    holds = compile_expression("request.path != '/secret'", "filter")

    def entry(path: str) -> Entry:
        head = RequestHead("GET", "http", "reviews", path)
        return Entry(Steady(head, 200, "", ""), head, (), (), 0, 0, 1.0, 0.1, None)

    assert [holds(entry(path)) for path in ("/a", "/secret", "/\ud800")] == [True, False, False]


def test_a_provider_whose_server_nobody_knows_is_told_of(tmp_path: Path) -> None:
    lost = {"name": "lost", "envoyHttpAls": {"service": "nowhere.default.svc.cluster.local", "port": 1}}
    (tmp_path / "mesh.yaml").write_text(service("reviews", 1) + mesh_config(extensionProviders=[lost]) + named("lost"))
    problems = [problem.text for problem in load(tmp_path).problems]
    assert "MeshConfig: provider 'lost': there is no service 'nowhere.default.svc.cluster.local'" in problems


def test_requests_do_not_wait_for_a_collector_that_is_gone(tmp_path: Path, stack: ExitStack) -> None:
    [dead] = free_ports(1)
    with EchoServer("reviews") as server:
        mesh = stack.enter_context(meshsdk.Mesh(config=told_by_als(tmp_path, server.port, dead)))
        with mesh.client() as client:
            for _ in range(20):
                assert client.get("http://reviews/").status_code == 200
        logs = mesh._runtime.access_logs
        assert logs is not None
        _until(lambda: logs.dropped == 20)


def test_requests_do_not_wait_for_a_collector_that_hangs_and_what_waits_is_bounded(
    tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_logs, "_MAX_WAITING_ENTRIES", 30_000)
    with Collector() as collector, EchoServer("reviews") as server:
        collector.hangs.set()
        mesh = stack.enter_context(meshsdk.Mesh(config=told_by_als(tmp_path, server.port, collector.port)))
        with mesh.client() as client:
            client.get("http://reviews/")
            _until(lambda: bool(collector.metadata))
            # The writer has one in its hands, and waits for an answer.
            for _ in range(100):
                assert client.get("http://reviews/").status_code == 200
        logs = mesh._runtime.access_logs
        assert logs is not None
        assert 60 < logs.dropped < 100
        collector.hangs.clear()
        found = collector.wait_for(lambda one: one.entries, 101 - logs.dropped)
        assert len(found) == 101 - logs.dropped


def _until(holds: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def test_a_full_buffer_is_sent_before_its_time() -> None:
    batches: list[int] = []

    class Sink:
        def write(self, lines: Any) -> int:
            batches.append(len(lines))
            return len(lines)

        def close(self) -> None:
            pass

    head = RequestHead("GET", "http", "reviews", "/", [(b"x", b"y" * 100)])
    entry = Entry(Steady(head, 200, "", ""), head, (), (), 0, 0, 0.0, 0.0, None)
    writer: Writer[Entry] = Writer(Sink(), "test", Pace(seconds=3600, hurry_at=10 * size_of(entry)), size_of)
    # The first is sent as the thread begins.
    writer.write(entry)
    _until(lambda: batches == [1])
    for _ in range(9):
        writer.write(entry)
    assert batches == [1]
    for _ in range(5):
        writer.write(entry)
    _until(lambda: sum(batches) >= 11)
    writer.close()
    assert sum(batches) == 15
