"""What a change costs in a mesh of many services: the control thread's time, and until it is in effect.

The management server is a process of its own, which changes an endpoint whenever it reads a line.

python -m tests.benchmarks.scale [SERVICES…]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import meshsdk
from tests.benchmarks.measure import compile_everything

__all__ = ["SIZES", "VARIANTS", "measure", "measure_apart"]

SIZES = (500, 2_000, 10_000)
VARIANTS: dict[str, tuple[str, ...]] = {"state of the world": (), "incremental": ("meshsdk.incremental",)}

_CHANGES = 30
_ROOT = Path(__file__).parents[2]

_SERVER = """
import sys
from concurrent.futures import ThreadPoolExecutor
import grpc
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from meshsdk.resources import ResourceType
from meshsdk.xds.ads_server import AdsService

def assignment(index, version):
    made = ClusterLoadAssignment(cluster_name=f"s{index}")
    locality = made.endpoints.add()
    for one in range(10):
        port = 8000 + (version if one == 0 else 0)
        address = {"address": f"10.{index >> 8}.{index & 255}.{one + 1}", "port_value": port}
        locality.lb_endpoints.add(endpoint={"address": {"socket_address": address}})
    return made.SerializeToString()

class State:
    def __init__(self, packed):
        self.packed = packed
    def for_client(self, node):
        return self.packed

packed = {}
for index in range(int(sys.argv[1])):
    manager = HttpConnectionManager(rds={"route_config_name": f"s{index}", "config_source": {"ads": {}}})
    manager.http_filters.add(name="router").typed_config.Pack(Router())
    listener = Listener(name=f"s{index}:80")
    listener.api_listener.api_listener.Pack(manager)
    routes = RouteConfiguration(name=f"s{index}")
    host = routes.virtual_hosts.add(name="v", domains=["*"])
    host.routes.add(match={"prefix": "/"}, route={"cluster": f"s{index}"})
    cluster = Cluster(name=f"s{index}", type="EDS", eds_cluster_config={"eds_config": {"ads": {}}})
    for kind, message in (("LISTENER", listener), ("ROUTE_CONFIGURATION", routes), ("CLUSTER", cluster)):
        name = f"s{index}:80" if kind == "LISTENER" else f"s{index}"
        packed[ResourceType[kind], name] = message.SerializeToString()
    packed[ResourceType.ENDPOINTS, f"s{index}"] = assignment(index, 0)
service = AdsService(State(packed))
server = grpc.server(ThreadPoolExecutor(4))
service.add_to(server)
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
for line in sys.stdin:
    index, version = map(int, line.split())
    key = ResourceType.ENDPOINTS, f"s{index}"
    packed[key] = assignment(index, version)
    service.publish(State(packed), [key])
"""


def measure(services: int, features: tuple[str, ...] = ()) -> dict[str, float]:
    """Seconds until all services are known; milliseconds of a change; KiB of memory an endpoint."""
    before = _resident()
    command = [sys.executable, "-c", _SERVER, str(services)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=_ROOT) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            return _measure(services, int(server.stdout.readline()), server.stdin, before, features)
        finally:
            server.kill()


def _measure(services: int, port: int, changes: Any, before: float, features: tuple[str, ...]) -> dict[str, float]:
    bootstrap = {
        "xds_servers": [
            {
                "server_uri": f"127.0.0.1:{port}",
                "channel_creds": [{"type": "insecure"}],
                "server_features": list(features),
            }
        ],
        "node": {"id": "bench"},
    }
    with meshsdk.Mesh(bootstrap=bootstrap) as mesh:
        control = mesh._runtime
        began = time.perf_counter()
        # All at once, as from a list of what an application needs.
        settled = threading.Semaphore(0)
        for index in range(services):
            control.when_settled([f"s{index}:80"], settled.release)
        for _ in range(services):
            settled.acquire()
        took = time.perf_counter() - began
        memory = (_resident() - before) / (services * 10)
        time.sleep(1.0)
        spent, effect = [], []
        for change in range(1, _CHANGES + 1):
            index = change * 7919 % services
            start, started = _control_seconds(), time.perf_counter()
            changes.write(f"{index} {change}\n")
            changes.flush()
            while (
                control.directory.views[f"s{index}"].endpoints.localities[0].endpoints[0].address.port != 8000 + change
            ):
                time.sleep(0.0005)
            effect.append(time.perf_counter() - started)
            time.sleep(0.02)
            spent.append(_control_seconds() - start)
    return {
        "settled_seconds": took,
        "kib_an_endpoint": memory,
        "control_milliseconds": statistics.median(spent) * 1e3,
        "effect_milliseconds": statistics.median(effect) * 1e3,
    }


def _control_seconds() -> float:
    """Processor time of the control thread."""
    [thread] = [one for one in threading.enumerate() if one.name == "meshsdk-control"]
    return int(Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text().split()[0]) / 1e9


def _resident() -> float:
    text = Path("/proc/self/status").read_text()
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS"))


def measure_apart(services: int, features: tuple[str, ...] = ()) -> dict[str, float]:
    """The same in a new process."""
    program = (
        f"import json; from tests.benchmarks.scale import measure; print(json.dumps(measure({services}, {features!r})))"
    )
    ended = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=_ROOT)
    found: dict[str, float] = json.loads(ended.stdout)
    return found


if __name__ == "__main__":
    compile_everything()
    for count in map(int, sys.argv[1:] or map(str, SIZES)):
        for variant, asked in VARIANTS.items():
            figures = {name: round(value, 2) for name, value in measure_apart(count, asked).items()}
            print(count, variant, json.dumps(figures), flush=True)
