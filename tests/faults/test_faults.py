"""Things go wrong under traffic, and no request fails that need not."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

import meshsdk
from tests.conftest import MakeMesh, service, virtual_service
from tests.interop.test_control_plane_clients import bootstrap
from tests.patience import PATIENCE
from tests.processes import CLEAN_ENVIRONMENT, free_ports, wait_for_port
from tests.servers import EchoServer

Echo = Callable[..., EchoServer]

RETRIES = "[{retries: {attempts: 3, retryOn: 'connect-failure,reset'}, route: [{destination: {host: a}}]}]"


class Traffic:
    """Requests in the background, sync and async at once, until stopped.

    Args:
        pause: Seconds between a client's requests. Without any, whatever else happens waits for the interpreter most
            of the time.
    """

    def __init__(self, mesh: meshsdk.Mesh, url: str, pause: float = 0.0) -> None:
        self.answers: list[str] = []
        self.failures: list[str] = []
        self._mesh, self._url, self._pause = mesh, url, pause
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._sync), threading.Thread(target=self._async)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        self.wait_for(50)
        return self

    def __exit__(self, *details: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, more: int) -> None:
        """Wait until so many more requests were answered."""
        goal, deadline = len(self.answers) + more, time.monotonic() + PATIENCE
        while len(self.answers) < goal and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(self.answers) >= goal, self.failures[:3]

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until something holds, under traffic."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def _take(self, response: httpx.Response) -> None:
        if response.status_code == 200:
            self.answers.append(response.json()["name"])
        else:
            self.failures.append(f"{response.status_code} {response.extensions['mesh']}")

    def _sync(self) -> None:
        with self._mesh.client() as client:
            while not self._stop.is_set():
                try:
                    self._take(client.get(self._url))
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                time.sleep(self._pause)

    def _async(self) -> None:
        async def worker(client: httpx.AsyncClient) -> None:
            while not self._stop.is_set():
                try:
                    self._take(await client.get(self._url))
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                await asyncio.sleep(self._pause)

        async def run() -> None:
            async with self._mesh.async_client() as client:
                await asyncio.gather(*(worker(client) for _ in range(4)))

        asyncio.run(run())


def start_control_plane(folder: Path, port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "meshsdk", "control-plane", str(folder), "--port", str(port)]
    process = subprocess.Popen(command, env=CLEAN_ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_port(port, process)
    return process


def outage(tmp_path: Path, stack: ExitStack, seconds: float) -> None:
    one, two = stack.enter_context(EchoServer("one")), stack.enter_context(EchoServer("two"))
    (tmp_path / "m.yaml").write_text(service("a", one.port))
    (port,) = free_ports(1)
    process = start_control_plane(tmp_path, port)
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=bootstrap(port)))
    try:
        with Traffic(mesh, "http://a/", pause=0.005) as traffic:
            process.send_signal(signal.SIGKILL)
            process.wait()
            end = time.monotonic() + seconds
            (tmp_path / "m.yaml").write_text(service("a", two.port))
            while time.monotonic() < end:
                traffic.wait_for(50)
            assert set(traffic.answers) == {"one"}
            process = start_control_plane(tmp_path, port)
            traffic.wait_until(lambda: traffic.answers[-1] == "two")
        assert not traffic.failures
    finally:
        process.kill()
        process.wait()


def test_a_management_server_that_is_killed_disturbs_nobody_and_its_new_configuration_is_taken(
    tmp_path: Path, stack: ExitStack
) -> None:
    outage(tmp_path, stack, 15.0)


def test_a_killed_endpoint_costs_no_request(make_mesh: MakeMesh, echo: Echo) -> None:
    servers = [echo(name) for name in ("a", "b", "c")]
    # The least busy endpoint is the one that nobody reaches: chance leads even to it, and again and again.
    retries = RETRIES.replace("attempts: 3", "attempts: 20")
    mesh = make_mesh(service("a", *(server.port for server in servers)) + virtual_service("a", retries))
    with Traffic(mesh, "http://a/") as traffic:
        servers[0].kill()
        before = len(traffic.answers)
        traffic.wait_for(500)
        assert set(traffic.answers[before + 250 :]) == {"b", "c"}
    assert not traffic.failures


def test_a_thousand_updates_under_traffic_cost_no_request_and_leave_nothing_behind(
    make_mesh: MakeMesh, echo: Echo, tmp_path: Path
) -> None:
    servers = [echo(str(number)) for number in range(4)]
    ports = [server.port for server in servers]
    mesh = make_mesh(service("a", *ports) + virtual_service("a", RETRIES))
    with Traffic(mesh, "http://a/", pause=0.02) as traffic:
        gc.collect()
        before = resources_in_use()
        source: Any = mesh._runtime._source._folder  # type: ignore[union-attr]
        source._folder._settle_ns = 0  # Files are replaced whole, so there is nothing to wait for.
        for number in range(1000):
            used = [port for index, port in enumerate(ports) if index != number % 4]
            timeout = f"{number + 1}s"
            rule = RETRIES.replace("[{", f"[{{timeout: {timeout}, ", 1)
            written = tmp_path / "written"
            written.write_text(service("a", *used) + virtual_service("a", rule))
            written.replace(tmp_path / "mesh" / "mesh.yaml")
            mesh._runtime.call(source.refresh, PATIENCE)  # At once, instead of at the next poll.
        assert len(traffic.answers) > 200
        traffic.wait_for(100)
        assert mesh.explain("GET", "http://a/").timeout_seconds == 1000.0
        # Connections to endpoints that left are closed as they fall idle, every few seconds.
        traffic.wait_until(lambda: resources_in_use()[1] <= before[1] + 20)
        assert resources_in_use()[0] <= before[0]
    assert not traffic.failures


def resources_in_use() -> tuple[int, int]:
    """Threads of the mesh, and open files."""
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("meshsdk")]
    return len(threads), len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def test_closing_the_mesh_under_traffic_ends_every_request_properly(make_mesh: MakeMesh, echo: Echo) -> None:
    mesh = make_mesh(service("a", echo("a").port))
    with Traffic(mesh, "http://a/") as traffic:
        mesh.close()
        mesh.close()
        traffic.wait_for(50)
    assert not traffic.failures
    with mesh.client() as client, pytest.raises(httpx.TransportError, match="closed"):
        client.get("http://never-asked-before/")


def test_a_management_server_that_never_answers_is_a_connect_timeout_that_says_so() -> None:
    with meshsdk.Mesh(bootstrap=bootstrap(1)) as mesh, mesh.client() as client:
        with pytest.raises(httpx.ConnectTimeout, match=r"management server 127\.0\.0\.1:1"):
            client.get("http://a/", timeout=httpx.Timeout(5, connect=1.5))
        with pytest.raises(TimeoutError, match="management server"):
            mesh.wait_ready("a", timeout=0.5)


# In a process of its own: one in which others have used gRPC, as that of tests, does not survive every fork.
FORKED = """
import os, sys, meshsdk
with meshsdk.Mesh(config=sys.argv[1]) as mesh, mesh.client() as client:
    answers = [client.get("http://a/").status_code]
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if client.get("http://a/").status_code == 200 else 1)
        except BaseException:
            os._exit(2)
    answers += [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), client.get("http://a/").status_code]
print(*answers)
"""


def test_a_forked_child_starts_afresh_and_the_parent_goes_on(tmp_path: Path, echo: Echo) -> None:
    server = echo("a")
    (tmp_path / "mesh.yaml").write_text(service("a", server.port))
    command = [sys.executable, "-c", FORKED, str(tmp_path)]
    done = subprocess.run(command, env=CLEAN_ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout == "200 0 200\n", done.stderr
    # The parent's connection outlived the child's copy of it: one for each of the two.
    assert len(server.seen) == 3
    assert server.accepted == 2
