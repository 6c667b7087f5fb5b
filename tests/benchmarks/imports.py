"""What importing meshsdk costs, and the first request after it: medians of fresh processes, in turns.

python -m tests.benchmarks.imports
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from ..conftest import service
from .measure import compile_everything

__all__ = ["measure"]

ROUNDS = 9
_CLOCK = "import time; begin = time.process_time(); {code}; print(time.process_time() - begin)"
_FIRST = """
import httpx, grpc, sys, meshsdk, time
begin = time.perf_counter()
with meshsdk.Mesh(config=sys.argv[1]) as mesh, mesh.client() as client:
    assert client.get("http://subject/").status_code == 200
    print(time.perf_counter() - begin)
"""


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def measure() -> dict[str, float]:
    """CPU seconds of `import httpx`, and of `from meshsdk import Mesh` on top; seconds of the first request."""
    compile_everything()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answer)
    Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="meshsdk-bench-") as folder:
        (Path(folder) / "mesh.yaml").write_text(service("subject", server.server_address[1]))
        rounds = [
            (
                _run(_CLOCK.format(code="import httpx")),
                _run("import httpx, grpc\n" + _CLOCK.format(code="from meshsdk import Mesh")),
                _run(_FIRST, folder),
            )
            for _ in range(ROUNDS)
        ]
    server.shutdown()
    httpx, ours, first = (statistics.median(column) for column in zip(*rounds, strict=True))
    return {"httpx": httpx, "meshsdk": ours, "first": first}


def _run(program: str, *arguments: str) -> float:
    command = [sys.executable, "-c", program, *arguments]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
