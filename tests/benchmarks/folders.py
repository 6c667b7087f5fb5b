"""How long folders take, and how much memory: a namespace as kubectl dumps it, and a large mesh of rules.

Each figure is of a new process, as a command or an application begins.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.dump import write_dump
from tests.benchmarks.measure import compile_everything

__all__ = ["measure", "write_rules"]

_ROUNDS = 3

# Seconds from Mesh() to the first answer, and MiB that came with it; what is imported is not counted.
_FIRST_ANSWER = """
import json, sys, time
import httpx
from meshsdk import Mesh
def peak(): return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
before, started = peak(), time.perf_counter()
with Mesh(config=sys.argv[1]) as mesh:
    mesh.explain("GET", "http://app-7.shop/")
    print(json.dumps([time.perf_counter() - started, peak() - before]))
"""

# Seconds to read and translate, and again when one document has changed.
_EDIT = """
import json, sys, time
from pathlib import Path
from meshsdk.controlplane.folder import Folder
folder, edited = Folder(sys.argv[1], settle_seconds=0), Path(sys.argv[1], "virtual-services.yaml")
started = time.perf_counter()
folder.read()
cold = time.perf_counter() - started
assert not folder.state.errors, folder.state.errors[:3]
edited.write_text(edited.read_text().replace("timeout: 7s", "timeout: 8s", 1))
started = time.perf_counter()
while not folder.read(): pass
print(json.dumps([cold, time.perf_counter() - started]))
"""


def measure() -> dict[str, float]:
    """Seconds, and MiB."""
    compile_everything()
    with tempfile.TemporaryDirectory(prefix="meshsdk-bench-") as name:
        of_yaml = write_dump(Path(name, "yaml"))
        of_json = write_dump(Path(name, "json"), as_json=True)
        rules = write_rules(Path(name, "rules"))
        first = [_run(_FIRST_ANSWER, of_yaml) for _ in range(_ROUNDS)]
        edits = [_run(_EDIT, rules) for _ in range(_ROUNDS)]
        return {
            "check": statistics.median(_check_seconds(of_yaml) for _ in range(_ROUNDS)),
            "check of JSON": statistics.median(_check_seconds(of_json) for _ in range(_ROUNDS)),
            "first answer": statistics.median(seconds for seconds, _ in first),
            "memory": statistics.median(mebibytes for _, mebibytes in first),
            "rules": statistics.median(cold for cold, _ in edits),
            "one edit": statistics.median(edit for _, edit in edits),
        }


def _check_seconds(folder: Path) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "meshsdk", "check", str(folder)], check=True, capture_output=True)
    return time.perf_counter() - started


def _run(program: str, folder: Path) -> list[float]:
    output = subprocess.run([sys.executable, "-c", program, str(folder)], check=True, capture_output=True, text=True)
    found: list[float] = json.loads(output.stdout)
    return found


_SERVICE = """apiVersion: v1
kind: Service
metadata: {{name: s{0}}}
spec: {{selector: {{app: s{0}}}, ports: [{{name: http, port: 80}}]}}
"""
_RULE = """apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: s{0}}}
spec:
  host: s{0}
  subsets: [{{name: v0, labels: {{v: v0}}}}, {{name: v1, labels: {{v: v1}}}}, {{name: v2, labels: {{v: v2}}}}]
"""
_ROUTES = """apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: s{0}}}
spec:
  hosts: [s{0}]
  http:
  - {{match: [{{headers: {{x-user: {{exact: tester}}}}}}], route: [{{destination: {{host: s{0}, subset: v2}}}}]}}
  - timeout: 7s
    route:
    - {{destination: {{host: s{0}, subset: v0}}, weight: 90}}
    - {{destination: {{host: s{0}, subset: v1}}, weight: 10}}
"""
_WORKLOAD = """apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: w{1}}}
spec: {{address: 10.{2}.{3}.{4}, labels: {{app: s{0}, v: v{5}}}, ports: {{http: 8080}}}}
"""


def write_rules(folder: Path, services: int = 1000, endpoints: int = 10_000) -> Path:
    """Services with three subsets and a VirtualService each, and their endpoints; a file for each kind."""
    folder.mkdir(exist_ok=True)
    every = range(services)
    workloads = (
        _WORKLOAD.format(one % services, one, one >> 16, (one >> 8) & 255, one & 255, one // services % 3)
        for one in range(endpoints)
    )
    (folder / "services.yaml").write_text("---\n".join(map(_SERVICE.format, every)))
    (folder / "destination-rules.yaml").write_text("---\n".join(map(_RULE.format, every)))
    (folder / "virtual-services.yaml").write_text("---\n".join(map(_ROUTES.format, every)))
    (folder / "workloads.yaml").write_text("---\n".join(workloads))
    return folder
