"""The services as processes, on ports that are free on this machine."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

__all__ = ["SERVICES", "VISITORS", "Fleet", "free_ports"]


class Service(NamedTuple):
    """A process: its module, the port that mesh/services.yaml gives it, and its version."""

    module: str
    port: int
    version: str


# By the names of the workloads.
SERVICES = {
    "productpage-v1": Service("productpage", 9080, "v1"),
    "details-v1": Service("details", 9081, "v1"),
    "reviews-v1": Service("reviews", 9082, "v1"),
    "reviews-v2": Service("reviews", 9083, "v2"),
    "reviews-v3": Service("reviews", 9084, "v3"),
    "ratings-a": Service("ratings", 9085, "v1"),
    "ratings-b": Service("ratings", 9086, "v1"),
}

# Whoever asks for pages: not one of the services, and a workload like them.
VISITORS = "visitors-v1"


class Fleet:
    """Starts every service, waits until all answer, and stops them.

    Args:
        folder: A working copy of `mesh/` is made here; the ports in it become free ones.
        has_admin: Each process has an admin page, too.

    Attributes:
        ports: That the services listen on.
        metrics_ports: Where each process and the visitors are scraped.
        admin_ports: Where each process shows what goes on in it.
    """

    def __init__(self, folder: Path, *, has_admin: bool = False) -> None:
        self.folder = folder / "mesh"
        shutil.copytree(Path(__file__).parent / "mesh", self.folder)
        self._pods = folder / "pods"
        workloads = (*SERVICES, VISITORS)
        ports = iter(free_ports(3 * len(workloads)))
        self.ports = dict(zip(SERVICES, ports, strict=False))
        self.metrics_ports = dict(zip(workloads, ports, strict=False))
        self.admin_ports = dict(zip(workloads, ports, strict=False)) if has_admin else {}
        self._use_free_ports()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def _use_free_ports(self) -> None:
        path = self.folder / "services.yaml"
        text = path.read_text()
        for name, service in SERVICES.items():
            text = re.sub(rf"ports: {{(http|grpc): {service.port}}}", rf"ports: {{\1: {self.ports[name]}}}", text)
        path.write_text(text)

    def environment(self, name: str) -> dict[str, str]:
        """What a process of a workload is told: its mesh, what it is, and the ports at which it tells of itself.

        In Kubernetes its pod would have all of it: the labels in a file, and the rest in its manifest.
        """
        pod = self._pods / name
        (pod / "etc/istio/pod").mkdir(parents=True, exist_ok=True)
        app, version = name.partition("-")[0], SERVICES[name].version if name in SERVICES else "v1"
        (pod / "etc/istio/pod/labels").write_text(f'app="{app}"\nversion="{version}"\n')
        told = {
            "MESHSDK_CONFIG": str(self.folder),
            "MESHSDK_POD_ROOT": str(pod),
            "ISTIO_META_WORKLOAD_NAME": name,
            "MESHSDK_METRICS_PORT": str(self.metrics_ports[name]),
        }
        return {**told, "MESHSDK_ADMIN_PORT": str(self.admin_ports[name])} if name in self.admin_ports else told

    def prometheus_config(self, interval: str = "5s") -> str:
        """What a Prometheus must be told to scrape all processes."""
        jobs = "".join(
            f"- {{job_name: {name}, metrics_path: /stats/prometheus,"
            f" static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}\n"
            for name, port in self.metrics_ports.items()
        )
        return f"global: {{scrape_interval: {interval}, scrape_timeout: {interval}}}\nscrape_configs:\n{jobs}"

    def __enter__(self) -> Fleet:
        root = Path(__file__).parent.parent.parent
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_XDS_BOOTSTRAP")}
        for name, service in SERVICES.items():
            command = [sys.executable, "-m", f"examples.bookinfo.{service.module}", str(self.ports[name])]
            self._processes[name] = subprocess.Popen(
                [*command, name.partition("-")[2]],
                cwd=root,
                env={**inherited, **self.environment(name), "PYTHONPATH": str(root)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def is_up(self, name: str) -> bool:
        """Whether a service answers.

        Raises:
            RuntimeError: Its process has ended.
        """
        if self._processes[name].poll() is not None:
            raise RuntimeError(f"{name} ended with {self._processes[name].returncode}")
        if SERVICES[name].module == "ratings":
            return _serves_grpc(self.ports[name])
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[name]}/health", timeout=1):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def wait_until_up(self, name: str, seconds: float = 60.0) -> None:
        """Wait until a service answers."""
        deadline = time.monotonic() + seconds
        while not self.is_up(name):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not start in {seconds:g} s")
            time.sleep(0.05)

    def kill(self, name: str) -> None:
        """End a service as a crash would."""
        self._processes[name].kill()
        self._processes[name].wait()


def _serves_grpc(port: int) -> bool:
    """Whether a gRPC server says that it is well."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=1)
        except grpc.RpcError:
            return False
        return True


def free_ports(count: int) -> list[int]:
    """Ports below those that systems give to whoever asks for any: nobody is given one before its service starts."""
    ports: list[int] = []
    for port in random.sample(range(20_000, 32_000), 1_000):
        if len(ports) == count:
            break
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.append(port)
    return ports
