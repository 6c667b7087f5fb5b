"""A FastAPI application with spans of its own, and a WSGI one, served by a mesh that traces and measures; prints all.

python -m tests.server.traced_framework FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import fastapi
import httpx
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from meshsdk.server.wsgi import WsgiMiddleware

from ..conftest import service
from .running import mesh_of, one_port, policy, serving

CALLER = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


def main() -> None:
    """Send a request to each, and one that is refused."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))
    app = fastapi.FastAPI()

    @app.get("/")
    async def seen(request: fastapi.Request) -> list[str]:
        return request.headers.getlist("traceparent")

    port = one_port()
    closed = policy("{action: DENY, rules: [{to: [{operation: {paths: [/closed]}}]}]}")
    with mesh_of(Path(sys.argv[1]), service("web", port) + closed) as mesh:
        with serving(app, mesh, port):
            by_asgi = httpx.get(f"http://127.0.0.1:{port}/", headers=CALLER).json()
            httpx.get(f"http://127.0.0.1:{port}/closed", headers=CALLER)
        by_wsgi = _over_wsgi(mesh, port)
    spans = [
        {
            "scope": span.instrumentation_scope.name,
            "kind": span.kind.name,
            "id": trace.format_span_id(span.context.span_id),
            "parent": trace.format_span_id(span.parent.span_id) if span.parent is not None else "",
        }
        for span in exporter.get_finished_spans()
    ]
    print(json.dumps({"asgi": by_asgi, "wsgi": by_wsgi, "spans": spans, "metrics": _measured(reader)}))


def _measured(reader: InMemoryMetricReader) -> dict[str, list[tuple[dict[str, Any], float]]]:
    """What meshsdk measured: each metric's points, with how many or how much."""
    measured = {}
    data = reader.get_metrics_data()
    assert data is not None
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            if scope.scope.name == "meshsdk":
                for metric in scope.metrics:
                    points: Any = metric.data.data_points
                    measured[metric.name] = [
                        (dict(point.attributes), point.count if hasattr(point, "count") else point.value)
                        for point in points
                    ]
    return measured


def _over_wsgi(mesh: Any, port: int) -> list[str]:
    seen = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        seen.append(environ["HTTP_TRACEPARENT"])
        start_response("200 OK", [])
        return [b""]

    transport = httpx.WSGITransport(WsgiMiddleware(app, mesh=mesh, port=port))
    with httpx.Client(transport=transport, base_url="http://web") as client:
        client.get("/", headers=CALLER)
    return seen


if __name__ == "__main__":
    main()
