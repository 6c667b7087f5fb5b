"""What a process on the mesh takes: `python -m tests.benchmarks.footprint`. Memory and threads, beside a bare one.

Each row is a process of its own that has answered or sent a hundred requests. Memory is what is the process's own, and
its share of what it has in common with others (Linux: Pss), since workers that are forked share much.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from tests.conftest import service
from tests.processes import CLEAN_ENVIRONMENT, free_ports, wait_for_port
from tests.servers import EchoServer

SERVICES = 100
REQUESTS = 100

CLIENT = """
import sys, time
{}
with {} as client:
    for _ in range({requests}):
        client.get("{url}").read()
    print("measure", flush=True)
    sys.stdin.readline()
"""
APP = """
from fastapi import FastAPI
{}
app = FastAPI()
app.get("/")(lambda: "hello")
{}
"""
FLASK = """
from flask import Flask
{}
app = Flask("app")
app.get("/")(lambda: "hello")
{}
"""
CHANNEL = """
import sys
import grpc, meshsdk
from grpc_health.v1 import health_pb2, health_pb2_grpc
channel = {}
for _ in range({requests}):
    health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20, wait_for_ready=True)
print("measure", flush=True)
sys.stdin.readline()
"""


def main() -> None:
    """Measure, and print a table."""
    table = Table("process", "memory, MB", "threads")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name, memory, threads in measured(stack, folder):
            table.add_row(name, f"{memory:.0f}", f"{threads:.0f}")
    Console().print(table)


def measured(stack: ExitStack, folder: Path) -> Iterator[tuple[str, float, float]]:
    """Each row."""
    from tests.docs.health_server import health_server

    app_port, grpc_port, xds_port = free_ports(3)
    echo = stack.enter_context(EchoServer("echo"))
    stack.enter_context(health_server(grpc_port))
    mesh = folder / "mesh"
    mesh.mkdir()
    many = [service(f"s{number}", 9) for number in range(SERVICES)]
    rating = service("ratings", grpc_port).replace("name: http", "name: grpc").replace("{http:", "{grpc:")
    (mesh / "mesh.yaml").write_text("---\n".join([*many, service("echo", echo.port), rating]))
    bootstrap = (
        f'{{"xds_servers":[{{"server_uri":"127.0.0.1:{xds_port}","channel_creds":[{{"type":"insecure"}}]}}],'
        '"server_listener_resource_name_template":"xds.istio.io/grpc/lds/inbound/%s"}'
    )
    control_plane = ["-m", "meshsdk", "control-plane", str(mesh), "--port", str(xds_port)]
    stack.enter_context(running(control_plane, folder, xds_port))
    environments = {"a folder": {"MESHSDK_CONFIG": str(mesh)}, "a server": {"GRPC_XDS_BOOTSTRAP_CONFIG": bootstrap}}

    bare = CLIENT.format("import httpx", "httpx.Client()", requests=REQUESTS, url=f"http://127.0.0.1:{echo.port}/")
    yield "client: httpx", *of_program(bare, folder, {})
    for source, environment in environments.items():
        meshed = CLIENT.format("import meshsdk", "meshsdk.Mesh().client()", requests=REQUESTS, url="http://echo/")
        yield f"client: mesh.client(), {source}", *of_program(meshed, folder, environment)
    plain = CHANNEL.format(f"grpc.insecure_channel('127.0.0.1:{grpc_port}')", requests=REQUESTS)
    yield "client: grpc.insecure_channel", *of_program(plain, folder, {})
    for source, environment in environments.items():
        meshed = CHANNEL.format("meshsdk.Mesh().channel('ratings:80')", requests=REQUESTS)
        yield f"client: mesh.channel(), {source}", *of_program(meshed, folder, environment)
    (folder / "bare.py").write_text(APP.format("", ""))
    serves = f"meshsdk.Mesh().serve(app, host='127.0.0.1', port={app_port})"
    (folder / "served.py").write_text(APP.format("import meshsdk", serves))
    uvicorn = ["-m", "uvicorn", "bare:app", "--port", str(app_port), "--log-level", "warning"]
    yield "FastAPI: uvicorn", *of_server(uvicorn, folder, app_port, {})
    for source, environment in environments.items():
        yield f"FastAPI: mesh.serve, {source}", *of_server(["served.py"], folder, app_port, environment)
    (folder / "bare_flask.py").write_text(FLASK.format("", ""))
    extension = f"MeshFlask(app, mesh=meshsdk.Mesh(), port={app_port})"
    (folder / "meshed_flask.py").write_text(
        FLASK.format("import meshsdk\nfrom meshsdk_flask import MeshFlask", extension)
    )
    gunicorn = ["-m", "gunicorn", "-b", f"127.0.0.1:{app_port}", "-w", "4", "--threads", "4", "--log-level", "error"]
    yield (
        "a worker of four, Flask: gunicorn",
        *of_server([*gunicorn, "bare_flask:app"], folder, app_port, {}, workers=4),
    )
    for source, environment in environments.items():
        command = [*gunicorn, "meshed_flask:app"]
        yield (
            f"a worker of four, Flask: gunicorn, MeshFlask, {source}",
            *of_server(command, folder, app_port, environment, workers=4),
        )


def of_program(text: str, folder: Path, environment: dict[str, str]) -> tuple[float, float]:
    """Memory and threads of a program that says when it is to be measured."""
    with subprocess.Popen(
        [sys.executable, "-c", text],
        cwd=folder,
        env={**CLEAN_ENVIRONMENT, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"measure\n"
        found = memory_of(process.pid), threads_of(process.pid)
        process.terminate()
    return found


def of_server(
    command: Sequence[str], folder: Path, port: int, environment: dict[str, str], *, workers: int = 0
) -> tuple[float, float]:
    """Memory and threads of a server that has answered; of one of its workers, on the average, where it has some."""
    with running(command, folder, port, environment) as process, httpx.Client(trust_env=False) as client:
        for _ in range(REQUESTS):
            answer = client.get(f"http://127.0.0.1:{port}/", headers={"connection": "close"})
            assert answer.status_code == 200, answer.text
        pids = children_of(process.pid) if workers else [process.pid]
        assert len(pids) == max(workers, 1)
        return sum(map(memory_of, pids)) / len(pids), sum(map(threads_of, pids)) / len(pids)


@contextmanager
def running(
    command: Sequence[str], folder: Path, port: int, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A Python program that listens on a port."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env={**CLEAN_ENVIRONMENT, **(environment or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_port(port, process)
        time.sleep(1)  # Workers that boot one after the other.
        yield process
    finally:
        process.terminate()
        process.wait()


def memory_of(pid: int) -> float:
    """Megabytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def threads_of(pid: int) -> float:
    """How many there are."""
    return len(os.listdir(f"/proc/{pid}/task"))


def children_of(pid: int) -> list[int]:
    """The processes that a process has started."""
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


if __name__ == "__main__":
    main()
