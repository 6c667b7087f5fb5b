"""Requests over httpx under the real OpenTelemetry SDK, which a process can set only once; prints their spans.

python -m tests.telemetry.traced_requests FOLDER URL REQUESTS, the last being a JSON list of objects: `headers`, and
`parent`, a traceparent whose span is the current one meanwhile. PROPAGATOR=b3 or b3multi sets that one.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import httpx
from opentelemetry import propagate, trace
from opentelemetry.context import attach, detach
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import meshsdk


def main() -> None:
    """Send the requests, one after the other."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    if os.environ.get("PROPAGATOR"):
        from opentelemetry.propagators.b3 import B3MultiFormat, B3SingleFormat

        single = os.environ["PROPAGATOR"] == "b3"
        propagate.set_global_textmap(B3SingleFormat() if single else B3MultiFormat())
    folder, url, requests = sys.argv[1:]
    statuses: list[int] = []
    with meshsdk.Mesh(config=folder) as mesh:
        asyncio.run(_send_all(mesh, url, json.loads(requests), statuses))
    print(json.dumps({"statuses": statuses, "spans": [_told(one) for one in exporter.get_finished_spans()]}))


async def _send_all(mesh: meshsdk.Mesh, url: str, requests: list[dict[str, Any]], statuses: list[int]) -> None:
    with mesh.client() as client:
        async with mesh.async_client() as async_client:
            for number, one in enumerate(requests):
                token = attach(propagate.extract({"traceparent": one["parent"]})) if "parent" in one else None
                try:
                    # In turn: the two differ in nothing but how they wait.
                    if number % 2:
                        answer = await async_client.get(url, headers=one.get("headers"))
                    else:
                        answer = client.get(url, headers=one.get("headers"))
                    statuses.append(answer.status_code)
                except httpx.TransportError:
                    statuses.append(0)
                finally:
                    if token is not None:
                        detach(token)


def _told(span: Any) -> dict[str, Any]:
    return {
        "name": span.name,
        "trace": trace.format_trace_id(span.context.trace_id),
        "id": trace.format_span_id(span.context.span_id),
        "parent": trace.format_span_id(span.parent.span_id) if span.parent is not None else "",
        "attributes": dict(span.attributes),
    }


if __name__ == "__main__":
    main()
