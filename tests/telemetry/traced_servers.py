"""Requests to a server of the mesh under the real OpenTelemetry SDK; prints its spans, and what it sent on.

python -m tests.telemetry.traced_servers (asgi | wsgi | grpc) FOLDER REQUESTS

The folder's `mesh.yaml` says PORT where it means the server's, and BACK for the one that the application asks. REQUESTS
is a JSON list of headers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent import futures
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import fastapi
import flask
import grpc
import httpx
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import meshsdk

from ..patience import PATIENCE
from ..processes import free_ports
from ..server.running import serving
from ..servers import EchoServer

METHOD = "/test.Traced/Go"


def _asgi(mesh: Any) -> Any:
    app, client = fastapi.FastAPI(telemetry={"tracing": False}), mesh.async_client()

    @app.get("/items/{item}")
    async def hop(item: str) -> Any:
        return (await client.get("http://back/")).status_code

    return app


def _wsgi(mesh: Any) -> Any:
    app, client = flask.Flask("web"), mesh.client()

    @app.get("/items/<item>")
    def hop(item: str) -> Any:
        return str(client.get("http://back/").status_code)

    return app


@contextmanager
def _grpc(mesh: Any, port: int) -> Iterator[None]:
    client = mesh.client()

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            def hop(request: bytes, context: Any) -> bytes:
                return str(client.get("http://back/").status_code).encode()

            return grpc.unary_unary_rpc_method_handler(hop)

    server = grpc.server(futures.ThreadPoolExecutor(2), [Handler()], interceptors=[mesh.server_interceptor(port=port)])
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    # Until its policy has come nothing is known of its traces.
    mesh.inbound(port).wait_ready(PATIENCE)
    try:
        yield
    finally:
        server.stop(None).wait()


def main() -> None:
    """Send them, one after the other."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    kind, folder, requests = sys.argv[1:]
    [port] = free_ports(1)
    with ExitStack() as stack:
        back = stack.enter_context(EchoServer())
        path = Path(folder, "mesh.yaml")
        path.write_text(path.read_text().replace("PORT", str(port)).replace("BACK", str(back.port)))
        mesh = stack.enter_context(meshsdk.Mesh(config=folder))
        if kind == "grpc":
            stack.enter_context(_grpc(mesh, port))
            call = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}")).unary_unary(METHOD)
            for headers in json.loads(requests):
                call(b"", metadata=tuple(headers.items()), timeout=PATIENCE)
        else:
            stack.enter_context(serving({"asgi": _asgi, "wsgi": _wsgi}[kind](mesh), mesh, port))
            for headers in json.loads(requests):
                httpx.get(f"http://127.0.0.1:{port}/items/7?a=b", headers=headers)
        sent = [one["headers"] for one in back.seen]
    spans = [
        {
            "kind": span.kind.name,
            "name": span.name,
            "parent": trace.format_span_id(span.parent.span_id) if span.parent is not None else "",
            "attributes": dict(span.attributes or {}),
        }
        for span in exporter.get_finished_spans()
    ]
    print(json.dumps({"port": port, "sent": sent, "spans": spans}))


if __name__ == "__main__":
    main()
