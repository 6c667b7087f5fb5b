"""gRPC channels of a Mesh against grpc-core's own xDS channels, in one process, over the same resources and servers.

    python -m tests.benchmarks.grpc_channels traced|sampled|untraced|start-mesh|start-native|…

Each part is a process of its own, since tracing and grpc-core's bootstrap are set once; `measure` starts them.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import grpc.experimental

__all__ = ["measure"]

TARGET = "bench:9080"
NATIVE = "xds:///bench.default.svc.cluster.local:9080"
SAY = "/test.Bench/Say"
BOTH = "/test.Bench/Both"
ROUNDS = 5
# Short turns and many of them: the machine's speed drifts.
SLICES = 14
SLICE_SECONDS = 0.4
ROOT = Path(__file__).parents[2]

_SERVER = """
import sys, grpc
from concurrent.futures import ThreadPoolExecutor
class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method.endswith("Both"):
            return grpc.stream_stream_rpc_method_handler(lambda requests, context: requests)
        return grpc.unary_unary_rpc_method_handler(lambda request, context: request)
server = grpc.server(ThreadPoolExecutor(64))
server.add_generic_rpc_handlers((Handler(),))
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
server.wait_for_termination()
"""


@contextmanager
def _child(*command: str) -> Iterator[str]:
    """A process that runs meanwhile, and the first line that it prints."""
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline()
        finally:
            process.kill()


_CONTROL_PLANE = """
import sys, threading
from meshsdk.controlplane import Folder
from meshsdk.controlplane.server import ControlPlaneServer
server = ControlPlaneServer(Folder(sys.argv[1]), "127.0.0.1:0")
server.start()
print(server.port, flush=True)
threading.Event().wait()
"""


def measure() -> dict[str, Any]:
    """All figures, by name."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meshsdk-bench-")))
        ports = [int(stack.enter_context(_child("-c", _SERVER))) for _ in range(2)]
        (folder / "mesh.yaml").write_text(_resources(ports))
        port = int(stack.enter_context(_child("-c", _CONTROL_PLANE, str(folder))))
        bootstrap = {
            "xds_servers": [
                {
                    "server_uri": f"127.0.0.1:{port}",
                    "channel_creds": [{"type": "insecure"}],
                    "server_features": ["xds_v3"],
                }
            ],
            "node": {"id": "bench"},
        }
        environment = {**os.environ, "GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(bootstrap), "GRPC_VERBOSITY": "NONE"}

        def run(part: str) -> Any:
            command = [sys.executable, "-m", "tests.benchmarks.grpc_channels", part]
            return json.loads(
                subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True).stdout
            )

        def pairs(name: str, rounds: int = ROUNDS) -> list[float]:
            return _summary([(run(f"{name}-mesh"), run(f"{name}-native")) for _ in range(rounds)])

        return {
            "untraced": run("untraced"),
            "traced": run("traced"),
            "sampled": run("sampled"),
            "start": pairs("start"),
            "warm": pairs("warm"),
            "memory": pairs("memory", 1),
        }


def _credentials() -> Any:
    """Of native channels: those that take TLS settings from xDS, as a Mesh's channels do."""
    return grpc.xds_channel_credentials(grpc.experimental.insecure_channel_credentials())


def _resources(ports: list[int]) -> str:
    """What istiod would say of a service, in the shape that grpc-core takes."""
    from tests.conftest import service

    ready = service("bench", *ports, port=9080)
    rule = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: bench}\n"
    return ready + rule + "spec: {host: bench, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}\n"


def _calls_per_second(call: Callable[..., Any], threads: int, seconds: float) -> float:
    done = [0] * threads
    until = time.perf_counter() + seconds

    def work(index: int) -> None:
        count = 0
        while time.perf_counter() < until:
            for _ in range(10):
                call(b"hello", timeout=10)
            count += 10
        done[index] = count

    started = time.perf_counter()
    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(done) / (time.perf_counter() - started)


async def _aio_calls_per_second(call: Callable[..., Any], in_flight: int, seconds: float) -> float:
    until = time.perf_counter() + seconds
    done = 0

    async def work() -> None:
        nonlocal done
        while time.perf_counter() < until:
            await call(b"hello", timeout=10)
            done += 1

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(in_flight)))
    return done / (time.perf_counter() - started)


def _messages_per_second(call: Callable[..., Any], count: int) -> float:
    started = time.perf_counter()
    received = sum(1 for _ in call(iter([b"hello"] * count), timeout=60))
    assert received == count
    return count / (time.perf_counter() - started)


def _compare(one: Callable[[], float], other: Callable[[], float]) -> list[float]:
    """The median ratio, and both medians; each side goes first in every other round."""
    one(), other()
    pairs = []
    for number in range(SLICES):
        if number % 2:
            second = other()
            pairs.append((one(), second))
        else:
            first = one()
            pairs.append((first, other()))
    return _summary(pairs)


def _summary(pairs: list[tuple[float, float]]) -> list[float]:
    ratios = [first / second for first, second in pairs]
    return [statistics.median(ratios), *(statistics.median(side) for side in zip(*pairs, strict=True))]


def _channels() -> dict[str, Any]:
    import meshsdk

    figures: dict[str, Any] = {}
    with meshsdk.Mesh() as mesh, mesh.channel(TARGET) as meshed:
        ours = meshed.unary_unary(SAY)
        ours(b"", timeout=20)
        with grpc.secure_channel(NATIVE, _credentials()) as native:
            theirs = native.unary_unary(SAY)
            theirs(b"", timeout=20)
            for threads in (1, 8):
                figures[f"sync {threads}"] = _compare(
                    lambda threads=threads: _calls_per_second(ours, threads, SLICE_SECONDS),
                    lambda threads=threads: _calls_per_second(theirs, threads, SLICE_SECONDS),
                )
            figures["streaming"] = _compare(
                lambda: _messages_per_second(meshed.stream_stream(BOTH), 1500),
                lambda: _messages_per_second(native.stream_stream(BOTH), 1500),
            )
        figures |= asyncio.run(_aio_channels(mesh))
    return figures


async def _aio_channels(mesh: Any) -> dict[str, Any]:
    figures = {}
    async with mesh.aio_channel(TARGET) as meshed, grpc.aio.secure_channel(NATIVE, _credentials()) as native:
        ours, theirs = meshed.unary_unary(SAY), native.unary_unary(SAY)
        await ours(b"", timeout=20)
        await theirs(b"", timeout=20)
        for in_flight in (1, 50):
            pairs = []
            for number in range(SLICES + 1):
                sides = [ours, theirs] if number % 2 else [theirs, ours]
                rates = {one: await _aio_calls_per_second(one, in_flight, SLICE_SECONDS) for one in sides}
                pairs.append((rates[ours], rates[theirs]))
            figures[f"aio {in_flight}"] = _summary(pairs[1:])
    return figures


def _memory(open_channel: Callable[[], Any], count: int = 200) -> float:
    """Bytes that one more channel to the same target takes, with a call made on it."""

    def resident() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    opened = [open_channel() for _ in range(50)]
    for channel in opened:
        channel.unary_unary(SAY)(b"", timeout=20)
    before = resident()
    for _ in range(count):
        opened.append(open_channel())
        opened[-1].unary_unary(SAY)(b"", timeout=20)
    return (resident() - before) / count


def _memory_mesh() -> float:
    import meshsdk

    mesh = meshsdk.Mesh()
    return _memory(lambda: mesh.channel(TARGET))


def _memory_native() -> float:
    return _memory(lambda: grpc.secure_channel(NATIVE, _credentials()))


def _warm_mesh() -> float:
    """With a Mesh that is at work and knows the target."""
    import meshsdk

    mesh = meshsdk.Mesh()
    mesh.channel("127.0.0.1:1").unary_unary(SAY).future(b"", timeout=20).exception()
    mesh.wait_ready(TARGET)
    return _first_response(mesh.channel(TARGET))


def _warm_native() -> float:
    """With grpc-core's xDS client at work for another target."""
    grpc.secure_channel("xds:///other.default.svc.cluster.local:9080", _credentials()).unary_unary(SAY).future(
        b"", timeout=1
    ).exception()
    return _first_response(grpc.secure_channel(NATIVE, _credentials()))


def _first_response(channel: Any) -> float:
    started = time.perf_counter()
    channel.unary_unary(SAY)(b"", timeout=20)
    return time.perf_counter() - started


def _start_mesh() -> float:
    import meshsdk
    import meshsdk.grpc.channels.channel

    mesh = meshsdk.Mesh()
    return _first_response(mesh.channel(TARGET))


def _start_native() -> float:
    return _first_response(grpc.secure_channel(NATIVE, _credentials()))


def _trace(share: float) -> None:
    """A real SDK that records a share of the traces, and drops them at the end of a batch."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

    class Drops(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    provider = TracerProvider(sampler=ParentBasedTraceIdRatio(share))
    provider.add_span_processor(BatchSpanProcessor(Drops()))
    trace.set_tracer_provider(provider)


if __name__ == "__main__":
    part = sys.argv[1]
    if part in ("traced", "sampled"):
        _trace(1.0 if part == "traced" else 0.1)
    parts: dict[str, Callable[[], Any]] = {
        "start-mesh": _start_mesh,
        "start-native": _start_native,
        "warm-mesh": _warm_mesh,
        "warm-native": _warm_native,
        "memory-mesh": _memory_mesh,
        "memory-native": _memory_native,
    }
    print(json.dumps(parts.get(part, _channels)()), flush=True)
    os._exit(0)
