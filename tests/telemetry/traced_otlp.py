"""One request on the mesh, whose spans go to an OTLP server.

python -m tests.telemetry.traced_otlp FOLDER URL (grpc | http) PORT
"""

from __future__ import annotations

import sys

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

import meshsdk


def _exporter(protocol: str, port: str) -> SpanExporter:
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as Grpc

        return Grpc(endpoint=f"http://127.0.0.1:{port}", insecure=True)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as Http

    return Http(endpoint=f"http://127.0.0.1:{port}/v1/traces")


def main() -> None:
    """Send it, and wait until its spans are told."""
    folder, url, protocol, port = sys.argv[1:]
    provider = TracerProvider(resource=Resource.create({"service.name": "shop.default"}))
    provider.add_span_processor(BatchSpanProcessor(_exporter(protocol, port)))
    trace.set_tracer_provider(provider)
    with meshsdk.Mesh(config=folder) as mesh, mesh.client() as client:
        client.get(url)
    provider.shutdown()


if __name__ == "__main__":
    main()
