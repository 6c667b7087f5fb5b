"""gunicorn's workers share what they keep."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

from meshsdk.last_good import Store

from ..conftest import service
from ..patience import PATIENCE, eventually
from ..processes import CLEAN_ENVIRONMENT, free_ports, wait_for_port
from ..servers import EchoServer
from .conftest import Plane


@contextlib.contextmanager
def gunicorn(plane: Plane) -> Iterator[httpx.Client]:
    """Two workers, and a client of theirs that takes a connection for each request."""
    [port] = free_ports(1)
    own = {
        "GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(plane.bootstrap),
        "MESHSDK_CACHE_DIR": str(plane.cache),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    options = ["-b", f"127.0.0.1:{port}", "--workers", "2", "--threads", "2"]
    command = [sys.executable, "-m", "gunicorn", *options, "tests.last_good.web:app"]
    process = subprocess.Popen(command, env={**CLEAN_ENVIRONMENT, **own}, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port, process)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"connection": "close"}) as client:
            yield client
    finally:
        process.terminate()
        process.wait(PATIENCE)


def names(client: httpx.Client, *paths: str) -> set[str]:
    return {client.get(path, timeout=PATIENCE).json()["name"] for path in paths}


def test_workers_that_start_without_a_server_have_what_all_of_those_before_had(
    one_plane: Plane, echo: Callable[[str], EchoServer]
) -> None:
    hosts = ("a", "b", "c")
    one_plane.write("---\n".join(service(name, echo(name).port) for name in hosts))
    with one_plane.running(), gunicorn(one_plane) as client:
        assert names(client, "/a", "/b", "/c") == set(hosts)
        [path] = eventually(lambda: list(one_plane.cache.glob("*.resources")))
        store = Store(one_plane.cache, path.stem)
        eventually(lambda: all(any(f"|{name}." in key[1] for key in store.read()[0]) for name in hosts))
    with gunicorn(one_plane) as client:
        assert names(client, *("/a", "/b", "/c") * 4) == set(hosts)
