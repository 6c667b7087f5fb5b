"""What request ids and spans cost a request: the same requests without, and with an SDK of OpenTelemetry's.

An SDK is set once in a process and for all, so what is without one comes first. Spans are thrown away when they end. Of
each kind the best of many short rounds counts: what else runs on the machine only ever adds.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import meshsdk
from tests.benchmarks.configuration import write_small
from tests.benchmarks.metrics import ROUNDS, Run, asgi_run, client_run, write_served

__all__ = ["costs", "main"]

_TELEMETRY = {"apiVersion": "telemetry.istio.io/v1", "kind": "Telemetry", "metadata": {"name": "t"}}


def _telemetry(percent: float) -> str:
    return json.dumps({**_TELEMETRY, "spec": {"tracing": [{"randomSamplingPercentage": percent}]}})


def costs(folder: Path, write: Callable[[Path], Path], run: Callable[[meshsdk.Mesh], Run]) -> dict[str, float]:
    """Microseconds of a request, without configuration of traces, and with all, none or a hundredth of it sampled."""
    with ExitStack() as stack:
        runs = {}
        for name, percent in (("plain", None), ("all", 100.0), ("none", 0.0), ("one in a hundred", 1.0)):
            config = write(folder / name.replace(" ", "-"))
            if percent is not None:
                (config / "telemetry.yaml").write_text(_telemetry(percent))
            runs[name] = run(stack.enter_context(meshsdk.Mesh(config=config)))
        times = {name: [one()] for name, one in runs.items()}
        for _ in range(ROUNDS):
            for name, one in runs.items():
                times[name].append(one())
    return {name: min(found) * 1e6 for name, found in times.items()}


def main() -> None:
    """`python -m tests.benchmarks.tracing`."""
    kinds = (("httpx", lambda place: write_small(place, [1]), client_run), ("ASGI", write_served, asgi_run))
    with tempfile.TemporaryDirectory(prefix="meshsdk-bench-") as name:
        for sdk in ("off", "on"):
            if sdk == "on":
                provider = TracerProvider()
                provider.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
                trace.set_tracer_provider(provider)
                time.sleep(0.3)  # Whether there is one is looked up four times a second.
            for kind, write, run in kinds:
                place = Path(name, f"{kind}-{sdk}")
                place.mkdir()
                found = costs(place, write, run)
                told = ", ".join(f"{what} {took:.1f}" for what, took in found.items())
                print(f"{kind}, SDK {sdk}: µs a request: {told}")


if __name__ == "__main__":
    main()
