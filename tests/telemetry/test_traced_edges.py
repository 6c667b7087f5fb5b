"""Traces where others have a part: gRPC calls that configuration samples, transports of others, and exporters."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from meshsdk.inbound import Connection
from meshsdk.resources.tracing import RequestIds, Share, Tracing
from meshsdk.routing import RequestHead
from meshsdk.routing.tracing import Traced, compile_tracing
from meshsdk.telemetry.grpc_calls import GrpcClientObserver
from meshsdk.telemetry.http_client import HttpClientObserver
from meshsdk.telemetry.http_server import HttpServerObserver
from tests.conftest import service, virtual_service
from tests.processes import CLEAN_ENVIRONMENT

from .test_traces import ALL, NONE, PARENT, telemetry

_SETUP = """
    import asyncio, json, sys
    import grpc, httpx, meshsdk
    from opentelemetry import context, propagate, trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)

    def show(**more):
        spans = [
            {"name": one.name, "kind": one.kind.name, "scope": one.instrumentation_scope.name,
             "attributes": dict(one.attributes)}
            for one in exporter.get_finished_spans()
        ]
        print(json.dumps({"spans": spans, **more}))
"""


def run(script: str, *arguments: str) -> dict[str, Any]:
    code = textwrap.dedent(_SETUP) + textwrap.dedent(script)
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env=CLEAN_ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    shown: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return shown


_CALLS = """
    from tests.grpc_server import GrpcServer
    folder, parent = sys.argv[1:]
    seen = []
    class Handler(grpc.GenericRpcHandler):
        def service(self, details):
            seen.append(dict(details.invocation_metadata))
            return grpc.unary_unary_rpc_method_handler(lambda request, context: b"")
    from concurrent import futures
    server = grpc.server(futures.ThreadPoolExecutor(2), [Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    path = folder + "/mesh.yaml"
    text = open(path).read().replace("PORT", str(port))
    open(path, "w").write(text)
    metadata = [("x-request-id", "0000270f-2222-4333-8444-555555555555")]
    async def from_asyncio(mesh):
        async with mesh.aio_channel("a:80") as channel:
            await channel.unary_unary("/x.Y/Z")(b"", metadata=metadata, timeout=30)
    with meshsdk.Mesh(config=folder) as mesh:
        with mesh.channel("a:80") as channel:
            call = channel.unary_unary("/x.Y/Z")
            call(b"", metadata=metadata, timeout=30)
            token = context.attach(propagate.extract({"traceparent": parent}))
            call(b"", metadata=metadata, timeout=30)
            context.detach(token)
            call(b"", metadata=[*metadata, ("traceparent", parent)], timeout=30)
        asyncio.run(from_asyncio(mesh))
    server.stop(None).wait()
    show(seen=seen)
"""

_CHANGES = "[{headers: {request: {set: {x-a: b}}}, route: [{destination: {host: a}}]}]"


@pytest.mark.parametrize("changes", ["", _CHANGES], ids=["native", "decided"])
@pytest.mark.parametrize("rule", [NONE, ALL, {"disableSpanReporting": True}], ids=["none", "all", "off"])
def test_configuration_samples_grpc_calls(rule: dict[str, Any], changes: str, tmp_path: Path) -> None:
    documents = [service("a", 1).replace("a-1", "a-own").replace("http: 1", "http: PORT"), telemetry(rule)]
    if changes:
        documents.append(virtual_service("a", changes).removeprefix("---\n"))
    (tmp_path / "mesh.yaml").write_text("---\n".join(documents))
    shown = run(_CALLS, str(tmp_path), PARENT)
    seen, sampled = shown["seen"], [one.get("traceparent", "-")[-1] in "13" for one in shown["seen"]]
    if rule is ALL:
        assert len(shown["spans"]) == 4
        assert sampled == [True] * 4
        assert {one["x-request-id"][14] for one in seen} == {"9"}
        return
    assert {one["x-request-id"][14] for one in seen} == {"4"}
    assert sampled == [False, True, True, False]
    if rule is NONE:
        assert len(shown["spans"]) == 2, "a parent's decision stands"
    else:
        assert shown["spans"] == []
        assert [one.get("traceparent") for one in seen] == [None, PARENT, PARENT, None]


_OUTSIDE = """
    seen = []
    def answer(request):
        seen.append([request.headers.get("traceparent", ""), bool(context.get_value("suppress_instrumentation"))])
        return httpx.Response(200)
    with meshsdk.Mesh(config=sys.argv[1]) as mesh:
        with mesh.client(mounts={"all://": httpx.MockTransport(answer)}) as client:
            client.get("http://outside.test/")
        async def run():
            async with mesh.async_client(mounts={"all://": httpx.MockTransport(answer)}) as client:
                await client.get("http://outside.test/")
        asyncio.run(run())
    show(seen=seen)
"""


def test_a_transport_of_others_carries_the_trace_on_and_makes_no_second_span(tmp_path: Path) -> None:
    (tmp_path / "mesh.yaml").write_text(service("a", 1))
    shown = run(_OUTSIDE, str(tmp_path))
    assert [(one["scope"], one["kind"]) for one in shown["spans"]] == [("meshsdk", "CLIENT")] * 2
    assert all(len(traceparent) == 55 and suppressed for traceparent, suppressed in shown["seen"])


_EXPORTING = """
    from tests.servers import EchoServer
    folder = sys.argv[1]
    with EchoServer() as server:
        from tests.conftest import service
        open(folder + "/mesh.yaml", "w").write(service("a", server.port))
        with meshsdk.Mesh(config=folder) as mesh, mesh.client() as client:
            token = context.attach(context.set_value("suppress_instrumentation", True))
            client.get("http://a/")
            context.detach(token)
            client.get("http://a/")
        show(seen=["traceparent" in one["headers"] for one in server.seen])
"""


def test_what_an_exporter_sends_is_not_watched(tmp_path: Path) -> None:
    shown = run(_EXPORTING, str(tmp_path))
    assert shown["seen"] == [False, True]
    assert len(shown["spans"]) == 2, "the second request's, and its attempt's"


class _SpanOfOthers(NonRecordingSpan):
    has_ended = False

    def is_recording(self) -> bool:
        return True

    def end(self, end_time: int | None = None) -> None:
        self.has_ended = True


@pytest.mark.parametrize("side", ["http server", "http client", "grpc client"])
def test_a_span_of_others_stays_open_where_configuration_makes_none(side: str) -> None:
    tracing = compile_tracing(Tracing(overall=Share(0, 100)), RequestIds())
    assert tracing is not None
    traced, head = Traced(False, tracing), RequestHead("GET", "http", "a", "/")
    span = _SpanOfOthers(SpanContext(1, 1, False, TraceFlags(1)))
    with trace.use_span(span):
        if side == "http server":
            inbound = HttpServerObserver().start(head, Connection(), traced)
            assert inbound is not None
            inbound.end(200, None)
        elif side == "http client":
            outbound = HttpClientObserver().start("GET", "http://a/", "a", 80, head, traced=traced)
            assert outbound is not None
            assert not outbound.wants_tags
            outbound.end(200, None, "", "", "")
        else:
            call = GrpcClientObserver().start("x.Y/Z", "a", 80, traced=traced)
            assert not call.wants_tags
            call.end("OK", "")
    assert not span.has_ended
