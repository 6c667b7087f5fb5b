"""httpx → FastAPI → Flask → gRPC (asyncio) → httpx in two tasks → FastAPI, all on one mesh; prints every span.

python -m tests.telemetry.traced_chain FOLDER [instrumented]
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import fastapi
import flask
import grpc
import grpc.aio
from opentelemetry import baggage, trace
from opentelemetry.context import attach
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ..conftest import service
from ..patience import PATIENCE
from ..processes import free_ports
from ..server.running import mesh_of, serving

METHOD = "/test.Chain/Go"


def _first(mesh: Any) -> fastapi.FastAPI:
    """FastAPI, which asks Flask."""
    app, client = fastapi.FastAPI(telemetry={"tracing": False}), mesh.async_client()

    @app.get("/")
    async def hop() -> Any:
        return (await client.get("http://flask/")).json()

    return app


def _second(mesh: Any) -> flask.Flask:
    """Flask, which asks the gRPC server."""
    app, channel = flask.Flask("flask"), mesh.channel("grpc:80")

    @app.get("/")
    def hop() -> Any:
        return json.loads(channel.unary_unary(METHOD)(b"", timeout=PATIENCE))

    return app


class _Third(grpc.GenericRpcHandler):
    """A gRPC server, which asks the last one twice at once."""

    def __init__(self, mesh: Any) -> None:
        self._client = mesh.async_client()

    def service(self, details: Any) -> Any:
        async def hop(request: bytes, context: Any) -> bytes:
            asked = [asyncio.create_task(self._client.get("http://last/")) for _ in range(2)]
            answers = [(await one).json() for one in asked]
            return json.dumps(answers).encode()

        return grpc.unary_unary_rpc_method_handler(hop)


def _last() -> fastapi.FastAPI:
    app = fastapi.FastAPI(telemetry={"tracing": False})
    failed: list[int] = []

    @app.get("/")
    async def hop(request: fastapi.Request, response: fastapi.Response) -> dict[str, Any]:
        if not failed:
            failed.append(1)
            response.status_code = 503
        return {"headers": dict(request.headers), "baggage": dict(baggage.get_all())}

    return app


@contextmanager
def _grpc_server(mesh: Any, port: int) -> Iterator[None]:
    """An asyncio server in a thread of its own."""
    has_started, loop = threading.Event(), asyncio.new_event_loop()
    over = asyncio.Event()

    async def run() -> None:
        server = grpc.aio.server(interceptors=[mesh.aio_server_interceptor(port=port)])
        server.add_generic_rpc_handlers((_Third(mesh),))
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        has_started.set()
        await over.wait()
        await server.stop(None)

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    assert has_started.wait(PATIENCE)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()


def _instrument(app: fastapi.FastAPI, last: fastapi.FastAPI, web: flask.Flask) -> None:
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
    from opentelemetry.instrumentation.flask import FlaskInstrumentor

    for one in (app, last):
        FastAPIInstrumentor.instrument_app(one)
    FlaskInstrumentor().instrument_app(web)


def main() -> None:
    """Send one request through all of them."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    is_instrumented = "instrumented" in sys.argv[2:]
    if is_instrumented:
        from opentelemetry.instrumentation.grpc import (
            GrpcAioInstrumentorClient,
            GrpcAioInstrumentorServer,
            GrpcInstrumentorClient,
            GrpcInstrumentorServer,
        )
        from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

        for instrumentor in (
            HTTPXClientInstrumentor,
            GrpcInstrumentorClient,
            GrpcAioInstrumentorClient,
            GrpcInstrumentorServer,
            GrpcAioInstrumentorServer,
        ):
            instrumentor().instrument()
    names = ("front", "flask", "grpc", "last")
    ports = dict(zip(names, free_ports(4), strict=True))
    retries = (
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: last}\n"
        "spec: {hosts: [last], http: [{retries: {attempts: 2, retryOn: 5xx},"
        " route: [{destination: {host: last}}]}]}\n"
    )
    yaml = "---\n".join(service(name, port) for name, port in ports.items()) + retries
    with ExitStack() as stack:
        mesh = stack.enter_context(mesh_of(Path(sys.argv[1]), yaml))
        app, web, last = _first(mesh), _second(mesh), _last()
        if is_instrumented:
            _instrument(app, last, web)
        for name, one in (("front", app), ("flask", web), ("last", last)):
            stack.enter_context(serving(one, mesh, ports[name]))
        stack.enter_context(_grpc_server(mesh, ports["grpc"]))
        client = stack.enter_context(mesh.client())
        if is_instrumented:
            HTTPXClientInstrumentor.instrument_client(client)
        attach(baggage.set_baggage("tenant", "7"))
        with trace.get_tracer("application").start_as_current_span("work"):
            answers = client.get("http://front/").json()
    print(json.dumps({"answers": answers, "spans": [_told(span) for span in exporter.get_finished_spans()]}))


def _told(span: Any) -> dict[str, Any]:
    return {
        "scope": span.instrumentation_scope.name,
        "kind": span.kind.name,
        "name": span.name,
        "trace": span.context.trace_id,
        "id": span.context.span_id,
        "parent": span.parent.span_id if span.parent is not None else 0,
        "attributes": dict(span.attributes),
    }


if __name__ == "__main__":
    main()
