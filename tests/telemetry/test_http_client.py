"""Spans and metrics, with the real OpenTelemetry SDK in a process of its own: it can be set only once."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import service, virtual_service
from tests.http.routed import write_route
from tests.patience import PATIENCE
from tests.processes import CLEAN_ENVIRONMENT
from tests.servers import EchoServer, ScriptedServer, read_head

PROGRAM = """
import asyncio, json, sys
import httpx, meshsdk
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)
metrics.set_meter_provider(MeterProvider([reader]))

folder, kind, url = sys.argv[1:]
mesh = meshsdk.Mesh(config=folder)
try:
    if kind == "sync":
        with mesh.client() as client:
            client.get(url)
    else:
        async def run():
            async with mesh.async_client() as client:
                await client.get(url)
        asyncio.run(run())
except httpx.HTTPError:
    pass
mesh.close()
points = {
    metric.name: [
        {"attributes": dict(point.attributes), "count": getattr(point, "count", getattr(point, "value", 0))}
        for point in metric.data.data_points
    ]
    for resource in reader.get_metrics_data().resource_metrics
    for scope in resource.scope_metrics
    for metric in scope.metrics
}
print(json.dumps({"metrics": points, "spans": [
    {"id": span.context.span_id, "trace": format(span.context.trace_id, "032x"),
     "parent": span.parent.span_id if span.parent else None, "name": span.name, "kind": span.kind.name,
     "status": span.status.status_code.name, "attributes": dict(span.attributes)}
    for span in spans.get_finished_spans()]}))
"""


def observe(folder: Path, kind: str, url: str) -> dict[str, Any]:
    command = [sys.executable, "-c", PROGRAM, str(folder), kind, url]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=CLEAN_ENVIRONMENT)
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


RETRIES = "[{retries: {attempts: 2, retryOn: 5xx}, route: [{destination: {host: a}}]}]"


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_request_has_a_span_and_each_attempt_a_child_that_servers_continue(tmp_path: Path, kind: str) -> None:
    with EchoServer() as server:
        server.statuses = [503, 200]
        (tmp_path / "m.yaml").write_text(service("a", server.port) + virtual_service("a", RETRIES))
        found = observe(tmp_path, kind, "http://user:secret@a/x?y=1")
        seen = server.seen
    attempts, request = found["spans"][:2], found["spans"][2]
    assert request["parent"] is None
    assert all(span["kind"] == "CLIENT" and span["name"] == "GET" for span in found["spans"])
    assert [span["parent"] for span in attempts] == [request["id"]] * 2
    assert request["attributes"]["url.full"] == "http://a/x?y=1"
    assert request["attributes"]["server.address"] == "a"
    assert request["attributes"]["server.port"] == 80
    assert request["attributes"]["http.response.status_code"] == 200
    assert request["attributes"]["meshsdk.attempts"] == 2
    assert request["attributes"]["meshsdk.endpoint"] == f"127.0.0.1:{server.port}"
    assert request["attributes"]["meshsdk.cluster"] == "outbound|80||a.default.svc.cluster.local"
    assert attempts[0]["status"] == "ERROR"
    assert attempts[0]["attributes"]["error.type"] == "503"
    assert attempts[1]["attributes"]["http.request.resend_count"] == 1
    for span, got in zip(attempts, seen, strict=True):
        version, trace_id, span_id, flags = got["headers"]["traceparent"].split("-")
        assert (version, trace_id, span_id) == ("00", span["trace"], f"{span['id']:016x}")
        assert int(flags, 16) & 1, "the trace is sampled"
    (duration,) = found["metrics"]["http.client.request.duration"]
    assert duration["count"] == 1
    assert duration["attributes"]["http.response.status_code"] == 200
    (requests,) = found["metrics"]["meshsdk.client.requests"]
    assert requests["attributes"]["meshsdk.response_flag"] == "-"


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_local_reply_and_a_failure_are_told_by_their_flags(tmp_path: Path, kind: str) -> None:
    (tmp_path / "m.yaml").write_text(service("a"))
    (span,) = observe(tmp_path, kind, "http://a/")["spans"]
    assert span["attributes"]["meshsdk.response_flag"] == "UH"
    assert span["attributes"]["error.type"] == "503"
    (tmp_path / "m.yaml").write_text(service("a", 1) + virtual_service("a", "[{route: [{destination: {host: a}}]}]"))
    failed = observe(tmp_path, kind, "http://a/")["spans"][-1]
    assert failed["attributes"]["error.type"] == "httpx.ConnectError"
    assert failed["attributes"]["meshsdk.response_flag"] == "UF"
    assert failed["status"] == "ERROR"


def test_hedged_attempts_have_a_span_each_that_tells_of_its_own_end(tmp_path: Path) -> None:
    over = threading.Event()

    def script(connection: socket.socket, number: int) -> None:
        read_head(connection)
        if number == 0:
            over.wait(PATIENCE)
        else:
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    action = {
        "retry_policy": {"retry_on": "5xx", "per_try_timeout": "0.2s"},
        "hedge_policy": {"hedge_on_per_try_timeout": True},
    }
    with ScriptedServer(script) as server:
        write_route(tmp_path / "mesh", server.port, action)
        spans = observe(tmp_path / "mesh", "async", "http://subject.test/")["spans"]
        over.set()
    [request] = [span for span in spans if span["parent"] is None]
    attempts = {span["attributes"].get("http.request.resend_count", 0): span for span in spans if span["parent"]}
    assert sorted(attempts) == [0, 1]
    assert attempts[0]["attributes"]["error.type"] == "asyncio.exceptions.CancelledError"
    assert "http.response.status_code" not in attempts[0]["attributes"]
    assert attempts[1]["attributes"]["http.response.status_code"] == 200
    assert attempts[1]["status"] == "UNSET"
    assert request["attributes"]["http.response.status_code"] == 200
