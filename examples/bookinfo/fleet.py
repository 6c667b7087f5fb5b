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

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

__all__ = ["Fleet", "free_ports"]

# Name of the process: module, and the port that mesh/services.yaml gives it.
SERVICES = {
    "productpage": ("productpage", 9080),
    "details": ("details", 9081),
    "reviews-v1": ("reviews", 9082),
    "reviews-v2": ("reviews", 9083),
    "reviews-v3": ("reviews", 9084),
    "ratings-a": ("ratings", 9085),
    "ratings-b": ("ratings", 9086),
}


class Fleet:
    """Starts every service, waits until all answer, and stops them.

    Args:
        folder: A working copy of `mesh/` is made here; the ports in it become free ones.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "mesh"
        shutil.copytree(Path(__file__).parent / "mesh", self.folder)
        self._ports = dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True))
        self._usefree_ports()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def _usefree_ports(self) -> None:
        path = self.folder / "services.yaml"
        text = path.read_text()
        for name, (_, port) in SERVICES.items():
            text = re.sub(rf"ports: {{(http|grpc): {port}}}", rf"ports: {{\1: {self._ports[name]}}}", text)
        path.write_text(text)

    def __enter__(self) -> Fleet:
        root = Path(__file__).parent.parent.parent
        environment = {**os.environ, "MESHSDK_CONFIG": str(self.folder), "PYTHONPATH": str(root)}
        environment.pop("GRPC_XDS_BOOTSTRAP", None)
        environment.pop("GRPC_XDS_BOOTSTRAP_CONFIG", None)
        for name, (module, _) in SERVICES.items():
            variant = name.partition("-")[2]
            command = [sys.executable, "-m", f"examples.bookinfo.{module}", str(self._ports[name])]
            self._processes[name] = subprocess.Popen(
                [*command, variant] if variant else command,
                cwd=root,
                env=environment,
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
        if SERVICES[name][0] == "ratings":
            return _serves_grpc(self._ports[name])
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._ports[name]}/health", timeout=1):
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
