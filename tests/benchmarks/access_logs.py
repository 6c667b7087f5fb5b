"""What an access log costs a request, alone and beside Istio's metrics: the same requests with and without.

Of each kind the best of many short rounds in turn counts: what else runs on the machine only ever adds. The thread that
writes has its part in none of those, so that is measured by itself: processor time of a line on its way to a file.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import meshsdk
from meshsdk.access_log import ISTIO_JSON
from meshsdk.access_log.sinks import FileSink
from meshsdk.access_log.writer import Pace, Writer
from tests.benchmarks.configuration import write_small
from tests.benchmarks.metrics import ROUNDS, Run, asgi_run, client_run, write_served

__all__ = ["costs", "main", "writing"]

_LINES = 50_000


def costs(config: Path, log: Path, run: Callable[[meshsdk.Mesh], Run]) -> dict[str, float]:
    """Microseconds of a request without anything, and what each kind of watching adds."""
    json_log = meshsdk.AccessLog(str(log), json_format=ISTIO_JSON)
    with ExitStack() as stack:
        meshes = {
            name: stack.enter_context(meshsdk.Mesh(config=config, access_log=asked))
            for name, asked in (("off", False), ("metrics", False), ("text", str(log)), ("json", json_log))
        }
        meshes["both"] = stack.enter_context(meshsdk.Mesh(config=config, access_log=str(log)))
        for name in ("metrics", "both"):
            meshes[name].metrics_asgi()
        runs = {name: run(mesh) for name, mesh in meshes.items()}
        times = {name: [one()] for name, one in runs.items()}
        for _ in range(ROUNDS):
            for name, one in runs.items():
                times[name].append(one())
    best = {name: min(found) * 1e6 for name, found in times.items()}
    return {name: found - best["off"] if name != "off" else found for name, found in best.items()}


def writing(folder: Path) -> float:
    """Microseconds of processor time that a line takes from the queue to a file."""
    writer = Writer(FileSink(str(folder / "written")), "benchmark", Pace(max_waiting=1 << 30))
    line = "x" * 250 + "\n"
    began = time.process_time()
    for _ in range(_LINES):
        writer.write(line)
    writer.close(60.0)
    return (time.process_time() - began) / _LINES * 1e6


def main() -> None:
    """`python -m tests.benchmarks.access_logs`."""
    with tempfile.TemporaryDirectory(prefix="meshsdk-bench-") as name:
        folder = Path(name)
        configs = {"httpx": write_small(folder / "sent", [1]), "ASGI": write_served(folder / "served")}
        for kind, run in (("httpx", client_run), ("ASGI", asgi_run)):
            found = costs(configs[kind], folder / f"{kind}.log", run)
            added = ", ".join(f"{what} {found[what]:.2f}" for what in ("text", "json", "metrics", "both"))
            print(f"{kind}: \u00b5s that a request takes more: {added}; {found['off']:.1f} without any")
        print(f"a line takes {writing(folder):.2f} \u00b5s of processor time from the queue to a file")


if __name__ == "__main__":
    main()
