"""Memory of a client of profile sidecar, to which the whole mesh is sent and which calls a few of its services.

The management server is a process of its own. What it sends is what istiod has sent, once for each service.

python -m tests.benchmarks.sidecars [SERVICES…]
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks.measure import compile_everything

__all__ = ["REFERENCED", "SERVICES", "memory_over_idle"]

SERVICES = 10_000
REFERENCED = 50
VARIANTS: dict[str, tuple[str, ...]] = {"incremental": (), "state of the world": ("meshsdk.state_of_the_world",)}

_ROOT = Path(__file__).parents[2]

_SERVER = """
import sys
from concurrent.futures import ThreadPoolExecutor
import grpc
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from meshsdk.resources import ResourceType, resource_name
from meshsdk.xds.ads_server import AdsService
from tests.interop.istio.case import read_corpus
from tests.interop.istio.client_view import packed_of
from tests.interop.istio.istiod import load_recorded

[case] = read_corpus(["auto_mutual_tls"])
sent = {(kind, resource_name(kind, one)): one for kind, one in packed_of(load_recorded(case).clients[0][1])}
OWN = b"secure"  # The service that each of the many is a copy of; their names are as long.
name = "outbound|80||secure.default.svc.cluster.local"
routes = RouteConfiguration.FromString(sent[ResourceType.ROUTE_CONFIGURATION, "80"])
[own, any] = routes.virtual_hosts
del routes.virtual_hosts[:]
packed = {key: one for key, one in sent.items() if key[0] is ResourceType.LISTENER}
for index in range(int(sys.argv[1])):
    one = f"s{index:05}"
    of_one = name.replace(OWN.decode(), one)
    for kind in (ResourceType.CLUSTER, ResourceType.ENDPOINTS):
        packed[kind, of_one] = sent[kind, name].replace(OWN, one.encode())
    host = routes.virtual_hosts.add()
    host.ParseFromString(own.SerializeToString().replace(OWN, one.encode()))
    host.domains[-1] = f"10.{100 + index // 60000}.{index // 250 % 250}.{index % 250}"
routes.virtual_hosts.add().CopyFrom(any)
packed[ResourceType.ROUTE_CONFIGURATION, "80"] = routes.SerializeToString()

class State:
    def for_client(self, node):
        return packed

service = AdsService(State())
server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.max_send_message_length", -1)])
service.add_to(server)
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
sys.stdin.read()
"""

_CLIENT = """
import json, sys, time
from pathlib import Path
import meshsdk
from meshsdk.resources import ResourceType

port, referenced, features = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
server = {"server_uri": f"127.0.0.1:{port}", "channel_creds": [{"type": "insecure"}], "server_features": features}
node = {"id": "sidecar~127.0.0.1~a.default~default.svc.cluster.local", "metadata": {"NAMESPACE": "default"}}
with meshsdk.Mesh(bootstrap={"xds_servers": [server], "node": node}) as mesh:
    began = time.perf_counter()
    for index in range(referenced):
        mesh.wait_ready(f"s{index:05}", 60)
    took = time.perf_counter() - began
    time.sleep(1)
    assert len(mesh._runtime.directory.clusters) == referenced
    text = Path("/proc/self/status").read_text()
    resident = next(float(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS"))
    print(json.dumps([resident / 1024, took]))
"""


def memory_over_idle(services: int = SERVICES, features: tuple[str, ...] = ()) -> tuple[float, float]:
    """MB of a process that calls 50 of so many services over one in a mesh of one, and seconds until they are known."""
    idle, _ = _measure(1, 1, features)
    used, took = _measure(services, REFERENCED, features)
    return used - idle, took


def _measure(services: int, referenced: int, features: tuple[str, ...]) -> tuple[float, float]:
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", _SERVER, str(services)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=_ROOT) as server:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        try:
            client = [sys.executable, "-c", _CLIENT, port, str(referenced), *features]
            ended = subprocess.run(client, check=True, capture_output=True, text=True, cwd=_ROOT)
        finally:
            server.kill()
    resident, took = json.loads(ended.stdout)
    return resident, took


if __name__ == "__main__":
    compile_everything()
    for count in map(int, sys.argv[1:] or (str(SERVICES),)):
        for variant, asked in VARIANTS.items():
            began = time.perf_counter()
            memory, seconds = memory_over_idle(count, asked)
            print(f"{count} {variant}: {memory:.1f} MB, known in {seconds:.2f} s ({time.perf_counter() - began:.0f} s)")
