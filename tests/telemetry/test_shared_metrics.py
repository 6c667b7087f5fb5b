"""Processes of one application are told of at one port, whatever becomes of some of them."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

import meshsdk
from meshsdk.telemetry import shared_cells
from meshsdk.telemetry.cells import Cells, PrivateMemory

from ..conftest import service
from ..patience import PATIENCE
from ..processes import CLEAN_ENVIRONMENT, wait_for_port
from ..servers import EchoServer
from .applications import send
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


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that processes with one port for metrics share; it is not there yet."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = shared_cells.place_of(15020, {})
    assert found is not None
    return found


def counted(cells: Cells) -> dict[str, int]:
    """Requests by their first label, of all processes."""
    return {labels[0]: sum(numbers[1:21]) for (_, labels), numbers in cells.rows()[0].items()}


def count(cells: Cells, label: str, times: int = 1) -> None:
    for _ in range(times):
        cells.count_request(cells.row("http", (label,)), 1, 2, 3)


def test_a_folder_of_somebody_elses_is_not_used(place: Path, tmp_path: Path) -> None:
    (tmp_path / "aim").mkdir()
    place.symlink_to(tmp_path / "aim")
    assert isinstance(shared_cells.open_memory(place), PrivateMemory)
    assert not list((tmp_path / "aim").iterdir())


def test_a_folder_that_others_may_write_to_is_not_used(place: Path) -> None:
    place.mkdir()
    place.chmod(0o777)
    assert isinstance(shared_cells.open_memory(place), PrivateMemory)
    place.chmod(0o700)
    assert not isinstance(shared_cells.open_memory(place), PrivateMemory)


def test_a_volume_that_anybody_may_write_to_is_used_where_it_is_named(tmp_path: Path) -> None:
    """Kubernetes makes an emptyDir so."""
    volume = tmp_path / "volume"
    volume.mkdir()
    volume.chmod(0o777)
    place = shared_cells.place_of(None, {"PROMETHEUS_MULTIPROC_DIR": str(volume)})
    assert not isinstance(shared_cells.open_memory(place), PrivateMemory)


@pytest.mark.parametrize("name", ["lock", "1-x.cells", "1-x.labels"])
def test_links_that_somebody_puts_into_a_named_folder_are_not_followed(tmp_path: Path, name: str) -> None:
    victim, volume = tmp_path / "victim", tmp_path / "volume"
    victim.write_text("precious")
    volume.mkdir()
    if name.endswith("labels"):
        (volume / f"{shared_cells._PREFIX}1-x.cells").write_bytes(bytes(shared_cells._BYTES))
        alive = shared_cells.open_memory(volume)  # So that the file of one that is gone would be gone on with.
        (volume / f"{shared_cells._PREFIX}1-x.cells").write_bytes(bytes(shared_cells._BYTES))
    (volume / f"{shared_cells._PREFIX}{name}").symlink_to(victim)
    cells = Cells(shared_cells.open_memory(volume))
    count(cells, "a")
    assert counted(cells)["a"] == 1
    assert victim.read_text() == "precious"
    if name.endswith("labels"):
        del alive


def test_a_pipe_in_the_place_of_a_file_holds_nobody_up(place: Path) -> None:
    place.mkdir(mode=0o700)
    os.mkfifo(place / f"{shared_cells._PREFIX}1-x.cells")
    cells = Cells(shared_cells.open_memory(place))
    count(cells, "a")
    assert counted(cells) == {"a": 1}
    assert not shared_cells.has_others(place)


@pytest.mark.parametrize("size", [0, 100])
def test_a_process_that_was_killed_as_it_began_leaves_nothing_in_the_way(place: Path, size: int) -> None:
    alive = Cells(shared_cells.open_memory(place))
    count(alive, "a")
    (place / f"{shared_cells._PREFIX}1-x.cells").write_bytes(bytes(size))
    memory = shared_cells.open_memory(place)
    assert not isinstance(memory, PrivateMemory)
    cells = Cells(memory)
    count(cells, "a")
    assert counted(alive) == counted(cells) == {"a": 2}


def test_what_a_row_meant_whose_labels_are_lost_is_counted_for_nothing_else(place: Path) -> None:
    """Temporary files are swept by their age."""
    alive = Cells(shared_cells.open_memory(place))
    gone = Cells(shared_cells.open_memory(place))
    count(gone, "paid", 1000)
    kept = shared_cells.open_memory(place)
    for path in place.glob("*.labels"):
        if b"paid" in path.read_bytes():
            path.unlink()
    del gone
    gc.collect()
    successor = Cells(shared_cells.open_memory(place))
    assert len(list(place.glob("*.cells"))) == 3, "it goes on with the file"
    count(successor, "other")
    assert counted(alive) == {"other": 1}
    del kept


def test_all_processes_together_have_a_bounded_page(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Cells(shared_cells.open_memory(place)), Cells(shared_cells.open_memory(place))
    for number in range(shared_cells._ROWS - 1):
        count(first, f"a{number}")
        count(second, f"b{number}")
    rows, missed = first.rows()
    assert len(rows) <= shared_cells._ROWS
    assert sum(sum(numbers[1:21]) for numbers in rows.values()) + missed == 2 * (shared_cells._ROWS - 1)


def test_a_program_that_has_the_port_is_told_of(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.configure(service("a"))
    with socket.socket() as foreign:
        foreign.bind(("", world.client_port))
        foreign.listen()
        with meshsdk.Mesh(config=world.config, metrics_port=world.client_port):
            eventually(lambda: "metrics cannot be had at port" in caplog.text)


def test_two_meshes_of_one_process_share_the_port(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with EchoServer("a") as server:
        world.configure(service("a", server.port))
        meshes = [meshsdk.Mesh(config=world.config, metrics_port=world.client_port) for _ in range(2)]
        for mesh in meshes:
            send(mesh, "sync", "GET", "http://a/")
        eventually(lambda: scrape(world.client_port).value() == 2)
        time.sleep(1.5)  # The second looks again each second.
        for mesh in meshes:
            mesh.close()
    assert "metrics cannot be had" not in caplog.text


def test_whoever_sends_a_request_byte_by_byte_shuts_no_scraper_out(world: World) -> None:
    world.configure(service("a"))
    with ExitStack() as stack:
        stack.enter_context(meshsdk.Mesh(config=world.config, metrics_port=world.client_port))
        wait_for_port(world.client_port)
        address = ("127.0.0.1", world.client_port)
        for _ in range(40):
            dribbler = stack.enter_context(socket.create_connection(address))
            dribbler.sendall(b"GET /metrics HTTP/1.0\r\nx: ")
        eventually(lambda: scrape(world.client_port).value("istio_build") == 1)


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
