"""Requests while configuration changes 500 times a second: is every change taken in, and how long do requests take.

The management server and the upstream are processes of their own. Requests are sent on a schedule, a thousand a second,
and timed from when they were due.

python -m tests.benchmarks.storm [SECONDS]
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

import meshsdk
from tests.benchmarks import scale
from tests.benchmarks.measure import compile_everything

__all__ = ["measure", "measure_apart"]

SERVICES, CHANGES, REQUESTS = 2_000, 500, 1_000

_ROOT = Path(__file__).parents[2]

_MANAGEMENT = (
    scale._SERVER.partition("for line in sys.stdin:")[0]
    + """
import json, time
from google.protobuf.json_format import ParseDict
port = int(sys.argv[2])
manager = HttpConnectionManager(rds={"route_config_name": "up", "config_source": {"ads": {}}})
manager.http_filters.add(name="router").typed_config.Pack(Router())
listener = Listener(name="up:80")
listener.api_listener.api_listener.Pack(manager)
routes = RouteConfiguration(name="up")
routes.virtual_hosts.add(name="v", domains=["*"]).routes.add(match={"prefix": "/"}, route={"cluster": "up"})
cluster = ParseDict({"name": "up", "type": "STATIC", "load_assignment": {"cluster_name": "up", "endpoints": [
    {"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}]}
]}}, Cluster())
packed[ResourceType.LISTENER, "up:80"] = listener.SerializeToString()
packed[ResourceType.ROUTE_CONFIGURATION, "up"] = routes.SerializeToString()
packed[ResourceType.CLUSTER, "up"] = cluster.SerializeToString()
service.publish(State(packed))
services = int(sys.argv[1])
for line in sys.stdin:
    rate, seconds = map(float, line.split())
    last, began = {}, time.perf_counter()
    for change in range(1, int(rate * seconds) + 1):
        time.sleep(max(0.0, began + change / rate - time.perf_counter()))
        index = change * 7919 % services
        key = ResourceType.ENDPOINTS, f"s{index}"
        packed[key] = assignment(index, change)
        last[index] = change
        service.publish(State(packed), [key])
    print(json.dumps(last), flush=True)
"""
)

_UPSTREAM = """
import asyncio
class Answers(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\nok" * data.count(b"\\r\\n\\r\\n"))
async def main():
    server = await asyncio.get_running_loop().create_server(Answers, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


@contextmanager
def _process(program: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=_ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def _said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


async def _latencies(client: httpx.AsyncClient, seconds: float) -> list[float]:
    """Of requests that are due one after the other, in seconds from when each was."""
    found: list[float] = []
    began = time.perf_counter()

    async def ask(due: float) -> None:
        response = await client.get("http://up/")
        assert response.status_code == 200
        found.append(time.perf_counter() - due)

    tasks = []
    for number in range(int(REQUESTS * seconds)):
        due = began + number / REQUESTS
        await asyncio.sleep(due - time.perf_counter())
        tasks.append(asyncio.create_task(ask(due)))
    await asyncio.gather(*tasks)
    return found


def _percentile(found: list[float], share: float) -> float:
    return sorted(found)[int(len(found) * share)] * 1e3


def measure(seconds: float, features: tuple[str, ...] = ("meshsdk.incremental",)) -> dict[str, float]:
    """Milliseconds of the median and the 99th percentile, at rest and in the storm; changes, and how many were lost."""
    with _process(_UPSTREAM) as upstream, _process(_MANAGEMENT, SERVICES, int(_said(upstream))) as management:
        server = {
            "server_uri": f"127.0.0.1:{int(_said(management))}",
            "channel_creds": [{"type": "insecure"}],
            "server_features": list(features),
        }
        with meshsdk.Mesh(bootstrap={"xds_servers": [server], "node": {"id": "bench"}}) as mesh:
            for index in range(SERVICES):
                mesh._runtime.when_settled([f"s{index}:80"], lambda: None)
            mesh.wait_ready(f"s{SERVICES - 1}:80", 120.0)
            return asyncio.run(_storm(mesh, management, seconds))


async def _storm(mesh: meshsdk.Mesh, management: subprocess.Popen[str], seconds: float) -> dict[str, float]:
    assert management.stdin is not None
    async with mesh.async_client() as client:
        await _latencies(client, 2.0)
        rest = await _latencies(client, seconds)
        management.stdin.write(f"{CHANGES} {seconds}\n")
        management.stdin.flush()
        storm = await _latencies(client, seconds)
        last: dict[str, int] = json.loads(await asyncio.to_thread(_said, management))
        await asyncio.sleep(1.0)
    views = mesh._runtime.directory.views

    def port_of(index: str) -> int:
        endpoints = views[f"s{index}"].endpoints
        assert endpoints is not None
        return endpoints.localities[0].endpoints[0].address.port

    return {
        "rest_p50": _percentile(rest, 0.5),
        "rest_p99": _percentile(rest, 0.99),
        "storm_p50": _percentile(storm, 0.5),
        "storm_p99": _percentile(storm, 0.99),
        "changes": CHANGES * seconds,
        "lost": sum(port_of(index) != 8000 + change for index, change in last.items()),
    }


def measure_apart(seconds: float) -> dict[str, float]:
    """The same in a new process."""
    program = f"import json; from tests.benchmarks.storm import measure; print(json.dumps(measure({seconds})))"
    ended = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=_ROOT)
    found: dict[str, float] = json.loads(ended.stdout)
    return found


if __name__ == "__main__":
    compile_everything()
    figures = measure_apart(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0)
    print(json.dumps({name: round(value, 2) for name, value in figures.items()}))
