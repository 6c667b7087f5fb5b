"""Processes of one application are told of at one port, whatever becomes of some of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from meshsdk.telemetry import shared_cells
from meshsdk.telemetry.cells import Cells, PrivateMemory

from ..conftest import service
from ..patience import PATIENCE
from ..processes import CLEAN_ENVIRONMENT, wait_for_port
from ..servers import EchoServer
from .programs import ROOT, START, run
from .scraping import World, scrape


def test_forked_processes_are_told_of_at_one_port_and_no_count_is_lost(world: World) -> None:
    with EchoServer("a") as server:
        world.configure(service("a", server.port))
        script = """
            send(1)
            def in_child(times, signal=None):
                pid = os.fork()
                if not pid:
                    send(times)
                    os._exit(0)
                return pid
            for pid in [in_child(2), in_child(3)]:
                os.waitpid(pid, 0)
            assert scrape(port).value() == 6, scrape(port).text
            os.waitpid(in_child(4), 0)
            assert scrape(port).value() == 10, "a new one goes on where an old one ended"
            from meshsdk.telemetry import shared_cells
            files = list(shared_cells.place_of(port, os.environ).glob("*.cells"))
            assert len(files) <= 3, files
            # The parent ends, and its child takes over.
            read, write = os.pipe()
            if os.fork():
                send(1)
                mesh.close()
                os.write(write, b"x")
                os.wait()
            else:
                send(1)
                os.read(read, 1)
                deadline = time.monotonic() + 20
                while True:
                    try:
                        assert scrape(port).value() == 12, scrape(port).value()
                        break
                    except OSError:
                        assert time.monotonic() < deadline
                        time.sleep(0.05)
                os._exit(0)
        """
        run(START + textwrap.dedent(script), str(world.config), str(world.client_port), TMPDIR=str(world.config.parent))


def test_when_all_processes_have_ended_the_next_begins_anew(world: World) -> None:
    with EchoServer("a") as server:
        world.configure(service("a", server.port))
        script = """
            send(2)
            print(int(scrape(port).value()))
        """
        arguments = str(world.config), str(world.client_port)
        for _ in range(2):
            assert run(START + textwrap.dedent(script), *arguments, TMPDIR=str(world.config.parent)) == "2\n"


def test_a_full_disk_costs_counts_and_no_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    memory = shared_cells.open_memory(tmp_path / "place")
    monkeypatch.setattr(memory, "write_labels", is_full)
    cells = Cells(memory)
    cells.count_request(cells.row("http", ("a",)), 1, 2, 3)
    assert cells.rows() == ({}, 1)
    monkeypatch.setattr(shared_cells, "_give_room", is_full)
    assert isinstance(shared_cells.open_memory(tmp_path / "other"), PrivateMemory)


def test_a_folder_of_somebody_elses_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "aim").mkdir()
    (tmp_path / "place").symlink_to(tmp_path / "aim")
    assert isinstance(shared_cells.open_memory(tmp_path / "place"), PrivateMemory)
    assert not list((tmp_path / "aim").iterdir())


def eventually(holds: Callable[[], object]) -> None:
    """Wait for what comes soon: a server counts a request when its answer is out."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if holds():
                return
        except (httpx.HTTPError, OSError):
            pass
        assert time.monotonic() < deadline
        time.sleep(0.05)


APPLICATION = """
import os, flask, meshsdk
from meshsdk_flask import MeshFlask
from werkzeug.middleware.dispatcher import DispatcherMiddleware
mesh = meshsdk.Mesh()
app = flask.Flask("web")
@app.get("/")
def answer():
    return str(os.getpid())
MeshFlask(app, mesh=mesh, port=int(os.environ["PORT"]))
app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/stats/prometheus": mesh.metrics_wsgi()})
"""


@contextmanager
def gunicorn(world: World, *options: str, **environment: str) -> Iterator[set[int]]:
    """An application with three workers, each of which has answered; their process ids."""
    world.configure(service("web", world.port))
    (world.config.parent / "web_application.py").write_text(APPLICATION)
    environment = {
        **CLEAN_ENVIRONMENT,
        "MESHSDK_CONFIG": str(world.config),
        "PORT": str(world.port),
        "TMPDIR": str(world.config.parent),
        "PYTHONPATH": os.pathsep.join([str(world.config.parent), os.environ.get("PYTHONPATH", "")]),
        **environment,
    }
    command = [sys.executable, "-m", "gunicorn", "-w", "3", "-b", f"127.0.0.1:{world.port}", *options]
    process = subprocess.Popen([*command, "web_application:app"], env=environment, cwd=ROOT)
    try:
        wait_for_port(world.port)
        url, seen = f"http://127.0.0.1:{world.port}/", set[int]()
        with ThreadPoolExecutor(6) as threads:
            while len(seen) < 3:
                seen |= {int(answer.text) for answer in threads.map(httpx.get, [url] * 6)}
                world.sent += 6
        yield seen
    finally:
        process.terminate()
        process.wait(PATIENCE)


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["", "preload"])
def test_gunicorns_workers_are_told_of_at_one_port(world: World, options: tuple[str, ...]) -> None:
    with gunicorn(world, *options, MESHSDK_METRICS_PORT=str(world.server_port)) as workers:
        eventually(lambda: scrape(world.server_port).value() == world.sent)
        # The one that is scraped may be among those that are killed; what they have counted stays.
        for worker in sorted(workers)[:2]:
            os.kill(worker, signal.SIGKILL)
        eventually(lambda: httpx.get(f"http://127.0.0.1:{world.port}/").text)
        eventually(lambda: scrape(world.server_port).value() == world.sent + 1)


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["", "preload"])
def test_a_mounted_page_tells_of_all_of_gunicorns_workers(world: World, options: tuple[str, ...]) -> None:
    with gunicorn(world, *options):
        for _ in range(6):
            eventually(lambda: scrape(world.port).value() == world.sent)
