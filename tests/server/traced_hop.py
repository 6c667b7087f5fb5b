"""Two applications on the mesh, the first of which calls the second; prints what the second one saw.

python -m tests.server.traced_hop FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import flask
import httpx
from opentelemetry import baggage, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from meshsdk import deadline

from ..conftest import service
from .running import mesh_of, one_port, serving
from .test_attacks import echo


def main() -> None:
    """Send one request through both."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    front, back = one_port(), one_port()
    yaml = service("front", front) + "---\n" + service("back", back)
    with mesh_of(Path(sys.argv[1]), yaml) as mesh, mesh.client() as client:
        app = flask.Flask("front")

        @app.get("/")
        def hop() -> dict[str, Any]:
            answer = client.get("http://back/").json()
            return {**answer, "left": deadline.remaining(), "baggage": dict(baggage.get_all())}

        with serving(app, mesh, front), serving(echo, mesh, back):
            headers = {
                "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                "baggage": "tenant=7",
                "x-envoy-expected-rq-timeout-ms": "40000",
            }
            seen = httpx.get(f"http://127.0.0.1:{front}/", headers=headers).json()
    print(json.dumps({"seen": seen, "kinds": [span.kind.name for span in exporter.get_finished_spans()]}))


if __name__ == "__main__":
    main()
