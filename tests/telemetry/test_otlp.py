"""Spans as a collector gets them: OpenTelemetry's own exporters, against a server of OTLP's shape."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.conftest import service, virtual_service
from tests.processes import CLEAN_ENVIRONMENT
from tests.servers import EchoServer

# xds-protos may have put an old copy of these modules in their place: docs/tracing.md says what to do.
pytest.importorskip("opentelemetry.exporter.otlp.proto.common.trace_encoder", exc_type=ImportError)
trace_service_pb2 = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")

Request = Any


@contextmanager
def _over_grpc(received: list[Request]) -> Iterator[int]:
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc

    class Servicer(trace_service_pb2_grpc.TraceServiceServicer):  # type: ignore[misc]
        def Export(self, request: Request, context: Any) -> Any:
            received.append(request)
            return trace_service_pb2.ExportTraceServiceResponse()

    server = grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


@contextmanager
def _over_http(received: list[Request]) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append(trace_service_pb2.ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


RETRIES = "[{retries: {attempts: 2, retryOn: 5xx}, route: [{destination: {host: a}}]}]"


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_collector_gets_each_span_with_its_parent_kind_status_and_tags(protocol: str, tmp_path: Path) -> None:
    received: list[Request] = []
    collector = _over_grpc if protocol == "grpc" else _over_http
    with EchoServer() as server, collector(received) as port:
        server.statuses = [503, 200]
        (tmp_path / "mesh.yaml").write_text(service("a", server.port) + virtual_service("a", RETRIES))
        command = [sys.executable, "-m", "tests.telemetry.traced_otlp", str(tmp_path), "http://a/", protocol, str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, env=CLEAN_ENVIRONMENT)
        assert done.returncode == 0, done.stderr
    resources = [resource for request in received for resource in request.resource_spans]
    assert {_attributes(one.resource)["service.name"] for one in resources} == {"shop.default"}
    spans = [span for resource in resources for scope in resource.scope_spans for span in scope.spans]
    scopes = {scope.scope.name for resource in resources for scope in resource.scope_spans}
    assert scopes == {"meshsdk"}
    [whole] = [span for span in spans if not span.parent_span_id]
    failed, good = sorted((span for span in spans if span.parent_span_id), key=lambda span: span.start_time_unix_nano)
    assert failed.parent_span_id == good.parent_span_id == whole.span_id
    assert len({span.trace_id for span in spans}) == 1
    assert {span.kind for span in spans} == {3}, "SPAN_KIND_CLIENT"
    assert (failed.status.code, good.status.code, whole.status.code) == (2, 0, 0)
    tags = _attributes(whole)
    assert tags["component"] == "proxy"
    assert tags["upstream_cluster"] == "outbound|80||a.default.svc.cluster.local"
    assert tags["guid:x-request-id"] == server.seen[0]["headers"]["x-request-id"]
    sent = [one["headers"]["traceparent"].split("-")[2] for one in server.seen]
    assert sent == [failed.span_id.hex(), good.span_id.hex()]


def _attributes(told: Any) -> dict[str, str]:
    return {pair.key: pair.value.string_value for pair in told.attributes}
