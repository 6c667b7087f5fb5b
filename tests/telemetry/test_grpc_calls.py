"""What OpenTelemetry sees of gRPC calls, on both sides; each in a process of its own, as providers are set once."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

from tests.patience import PATIENCE
from tests.processes import CLEAN_ENVIRONMENT

ROOT = Path(__file__).parents[2]

SETUP = """
    import asyncio, json, sys, pathlib, threading, time
    from opentelemetry import metrics, trace, baggage
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([reader]))
    import grpc, meshsdk
    from tests.conftest import service
    from tests.grpc_server import GrpcServer
    folder = pathlib.Path(sys.argv[1])
    (folder / "mesh.yaml").write_text("# nothing yet")
    server_mesh = meshsdk.Mesh(config=folder)
    server = GrpcServer("one", interceptors=[server_mesh.server_interceptor()])
    (folder / "mesh.yaml").write_text(service("ratings", server.port, port=9080))
    mesh = meshsdk.Mesh(config=folder)

    def wait_for(count):
        deadline = time.monotonic() + 40
        while len(exporter.get_finished_spans()) < count:
            assert time.monotonic() < deadline, [span.name for span in exporter.get_finished_spans()]
            time.sleep(0.01)

    def show(**more):
        server.stop()
        provider.force_flush()
        spans = [
            {
                "name": span.name, "kind": span.kind.name, "id": span.context.span_id, "trace": span.context.trace_id,
                "parent": span.parent.span_id if span.parent else None, "status": span.status.status_code.name,
                "attributes": dict(span.attributes), "scope": span.instrumentation_scope.name,
                "start": span.start_time, "end": span.end_time,
            }
            for span in exporter.get_finished_spans()
        ]
        points = [
            {"name": metric.name, "unit": metric.unit, "attributes": dict(point.attributes),
             "count": getattr(point, "count", None), "value": getattr(point, "value", None)}
            for resource in reader.get_metrics_data().resource_metrics
            for scope in resource.scope_metrics for metric in scope.metrics for point in metric.data.data_points
        ]
        print(json.dumps({"spans": spans, "metrics": points, "port": server.port, **more}))
"""


def run(script: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(SETUP) + textwrap.dedent(script), folder],
            env=CLEAN_ENVIRONMENT,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    shown: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return shown


def of_kind(shown: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [span for span in shown["spans"] if span["kind"] == kind]


def test_a_call_is_one_span_on_each_side_by_the_conventions() -> None:
    shown = run("""
        with mesh.channel("ratings:9080") as channel:
            with trace.get_tracer("app").start_as_current_span("work"):
                channel.unary_unary("/test.Echo/Say")(b"", timeout=20)
        show()
    """)
    (client,), (server,) = of_kind(shown, "CLIENT"), of_kind(shown, "SERVER")
    (work,) = of_kind(shown, "INTERNAL")
    assert client["name"] == server["name"] == "test.Echo/Say"
    assert (client["parent"], server["parent"]) == (work["id"], client["id"])
    assert client["trace"] == server["trace"] == work["trace"]
    by_conventions = {
        "rpc.system.name": "grpc",
        "rpc.method": "test.Echo/Say",
        "rpc.response.status_code": "OK",
        "server.address": "ratings",
        "server.port": 9080,
        "meshsdk.cluster": "outbound|9080||ratings.default.svc.cluster.local",
        "meshsdk.endpoint": f"127.0.0.1:{shown['port']}",
    }
    tags = {name: value for name, value in client["attributes"].items() if name not in by_conventions}
    assert {**by_conventions, **tags} == client["attributes"]
    assert len(tags.pop("guid:x-request-id")) == 36
    assert tags.pop("user_agent") == "-"
    assert {name: value for name, value in tags.items() if not name.startswith("istio.")} == {
        "component": "proxy",
        "downstream_cluster": "-",
        "grpc.authority": "ratings:9080",
        "grpc.content_type": "application/grpc",
        "grpc.path": "/test.Echo/Say",
        "grpc.status_code": "0",
        "http.method": "POST",
        "http.protocol": "HTTP/2",
        "http.status_code": "200",
        "http.url": "http://ratings:9080/test.Echo/Say",
        "request_size": "0",
        "response_flags": "-",
        "upstream_cluster": "outbound|9080||ratings.default.svc.cluster.local",
        "upstream_cluster.name": "outbound|9080||ratings.default.svc.cluster.local",
    }
    assert server["attributes"]["network.peer.address"] == "127.0.0.1"
    assert server["attributes"]["rpc.response.status_code"] == "OK"


def test_a_streams_span_lasts_as_long_as_the_stream() -> None:
    shown = run("""
        with mesh.channel("ratings:9080") as channel:
            has_begun = threading.Event()
            def requests():
                yield b"0"
                has_begun.wait(20)
                time.sleep(0.3)
                yield b"1"
            responses = channel.stream_stream("/test.Echo/Both")(requests(), timeout=20)
            next(responses)
            has_begun.set()
            assert len(list(responses)) == 1
            assert channel.stream_unary("/test.Echo/Up")(iter([b"a"]), timeout=20) == b"a"
            responses = channel.unary_stream("/test.Echo/Down")(b"100000", timeout=20)
            next(responses)
            responses.cancel()
            wait_for(6)
        show()
    """)
    spans = {(span["name"], span["kind"]): span for span in shown["spans"]}
    for kind in ("CLIENT", "SERVER"):
        both = spans[("test.Echo/Both", kind)]
        assert both["end"] - both["start"] >= 250_000_000
        assert both["attributes"]["rpc.response.status_code"] == "OK"
    assert spans[("test.Echo/Down", "CLIENT")]["attributes"]["rpc.response.status_code"] == "CANCELLED"


def test_errors_are_errors_by_side() -> None:
    shown = run("""
        with mesh.channel("ratings:9080") as channel:
            for code in (b"NOT_FOUND", b"INTERNAL"):
                try:
                    channel.unary_unary("/test.Echo/Fail")(code, timeout=20)
                except grpc.RpcError:
                    pass
        show()
    """)
    statuses = [
        (
            span["kind"],
            span["attributes"]["rpc.response.status_code"],
            span["status"],
            span["attributes"].get("error.type"),
        )
        for span in shown["spans"]
    ]
    assert sorted(statuses, key=str) == [
        ("CLIENT", "INTERNAL", "ERROR", "INTERNAL"),
        ("CLIENT", "NOT_FOUND", "ERROR", "NOT_FOUND"),
        ("SERVER", "INTERNAL", "ERROR", "INTERNAL"),
        # A client's own error is none of the server's.
        ("SERVER", "NOT_FOUND", "UNSET", None),
    ]


def test_durations_and_calls_are_counted() -> None:
    shown = run("""
        with mesh.channel("ratings:9080") as channel:
            for _ in range(5):
                channel.unary_unary("/test.Echo/Say")(b"", timeout=20)
        show()
    """)
    by_name = {point["name"]: point for point in shown["metrics"]}
    assert by_name["rpc.client.call.duration"]["count"] == 5
    assert by_name["rpc.client.call.duration"]["unit"] == "s"
    assert by_name["rpc.server.call.duration"]["count"] == 5
    assert by_name["meshsdk.client.calls"]["value"] == 5
    assert by_name["meshsdk.client.calls"]["attributes"]["meshsdk.cluster"].startswith("outbound|9080||ratings")
    # gRPC's own (gRFC A66).
    client, server = by_name["grpc.client.call.duration"], by_name["grpc.server.call.duration"]
    assert client["attributes"] == {
        "grpc.method": "test.Echo/Say",
        "grpc.target": "xds:///ratings:9080",
        "grpc.status": "OK",
    }
    assert server["attributes"] == {"grpc.method": "test.Echo/Say", "grpc.status": "OK"}
    assert client["count"] == server["count"] == by_name["grpc.server.call.started"]["value"] == 5


def test_asyncio_calls_are_traced_alike_and_contexts_do_not_mix() -> None:
    shown = run("""
        async def main():
            async with mesh.aio_channel("ratings:9080") as channel:
                async def one(number):
                    with trace.get_tracer("app").start_as_current_span(f"work {number}"):
                        await asyncio.sleep(0.01 * (number % 3))
                        await channel.unary_unary("/test.Echo/Say")(b"", timeout=20)
                        call = channel.unary_stream("/test.Echo/Down")(b"3", timeout=20)
                        assert len([one async for one in call]) == 3
                await asyncio.gather(*map(one, range(10)))
        asyncio.run(main())
        show()
    """)
    works = {span["id"]: span for span in of_kind(shown, "INTERNAL")}
    clients = {span["id"]: span for span in of_kind(shown, "CLIENT")}
    assert len(works) == 10
    assert len(clients) == 20
    assert {span["parent"] for span in clients.values()} == set(works)
    assert {span["parent"] for span in of_kind(shown, "SERVER")} == set(clients)
    assert all(span["trace"] == works[span["parent"]]["trace"] for span in clients.values())
    assert {span["attributes"]["meshsdk.endpoint"] for span in clients.values()} == {f"127.0.0.1:{shown['port']}"}


def test_a_trace_goes_on_from_inbound_to_outbound_with_its_baggage() -> None:
    shown = run("""
        from concurrent.futures import ThreadPoolExecutor
        seen = []
        class Front(grpc.GenericRpcHandler):
            def service(self, details):
                def handle(request, context):
                    seen.append(baggage.get_baggage("tenant"))
                    with mesh.channel("ratings:9080") as channel:
                        channel.unary_unary("/test.Echo/Say")(b"", timeout=20)
                    return b""
                return grpc.unary_unary_rpc_method_handler(handle)
        front = grpc.server(ThreadPoolExecutor(2), interceptors=[server_mesh.server_interceptor()])
        front.add_generic_rpc_handlers((Front(),))
        port = front.add_insecure_port("127.0.0.1:0")
        front.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as plain:
            parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            plain.unary_unary("/front/Do")(b"", timeout=20, metadata=(("traceparent", parent), ("baggage", "tenant=7")))
        front.stop(0).wait()
        show(seen=seen, got=server.calls[-1]["metadata"].get("baggage"))
    """)
    assert {span["trace"] for span in shown["spans"]} == {0x0AF7651916CD43DD8448EB211C80319C}
    assert len(shown["spans"]) == 3
    assert shown["seen"] == ["7"]
    assert shown["got"] == "tenant=7"


def test_no_span_is_made_twice_beside_opentelemetrys_own_instrumentation() -> None:
    shown = run("""
        from opentelemetry.instrumentation.grpc import (
            GrpcAioInstrumentorClient, GrpcInstrumentorClient, GrpcInstrumentorServer
        )
        for one in (GrpcAioInstrumentorClient(), GrpcInstrumentorClient(), GrpcInstrumentorServer()):
            one.instrument()
        instrumented = GrpcServer("two", interceptors=[server_mesh.server_interceptor()])
        (folder / "mesh.yaml").write_text(service("ratings", instrumented.port, port=9080))
        other = meshsdk.Mesh(config=folder)
        with other.channel("ratings:9080") as channel:
            channel.unary_unary("/test.Echo/Say")(b"", timeout=20)
        async def call():
            async with other.aio_channel("ratings:9080") as channel:
                await channel.unary_unary("/test.Echo/Say")(b"", timeout=20)
        asyncio.run(call())
        with grpc.insecure_channel(f"127.0.0.1:{instrumented.port}") as plain:
            channel = grpc.intercept_channel(plain, *other.client_interceptors())
            channel.unary_unary("/test.Echo/Say")(b"", timeout=20)
        instrumented.stop()
        show()
    """)
    clients, servers = of_kind(shown, "CLIENT"), of_kind(shown, "SERVER")
    assert [span["scope"] for span in clients] == ["meshsdk"] * 3
    assert len(servers) == 3, [(span["scope"], span["name"], span["parent"]) for span in servers]
    assert {span["parent"] for span in servers} == {span["id"] for span in clients}


def test_calls_that_the_mesh_answers_have_their_flag() -> None:
    shown = run("""
        from tests.conftest import virtual_service
        abort = "fault: {abort: {httpStatus: 503, percentage: {value: 100}}}"
        rule = virtual_service("ratings", f"[{{{abort}, route: [{{destination: {{host: ratings}}}}]}}]")
        (folder / "mesh.yaml").write_text(service("ratings", server.port, port=9080) + rule)
        other = meshsdk.Mesh(config=folder)
        with other.channel("ratings:9080") as channel:
            try:
                channel.unary_unary("/test.Echo/Say")(b"", timeout=20)
            except grpc.RpcError as error:
                assert error.flag == "FI"
        show()
    """)
    (client,) = of_kind(shown, "CLIENT")
    assert client["attributes"]["meshsdk.response_flag"] == "FI"
    assert client["status"] == "ERROR"
    (point,) = [one for one in shown["metrics"] if one["name"] == "meshsdk.client.calls"]
    assert point["attributes"]["meshsdk.response_flag"] == "FI"
