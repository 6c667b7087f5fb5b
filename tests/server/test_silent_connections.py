"""Connections that say nothing, or too little, to servers of their own: nobody else is locked out."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..patience import PATIENCE
from ..processes import CLEAN_ENVIRONMENT, free_ports, wait_for_port
from .attacked import listener
from .test_exhaustion import HEAD, UPLOAD, connected, until_closed

WAYS = {
    "mesh.serve": [sys.executable, "-m", "tests.server.attacked", "asgi"],
    "uvicorn MeshProtocol": [
        *(sys.executable, "-m", "uvicorn", "tests.server.attacked:asgi_app", "--port", "{port}"),
        *("--http", "meshsdk.server.uvicorn_protocol:MeshProtocol"),
    ],
}


@contextlib.contextmanager
def serving(folder: Path, way: str, descriptors: int) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A server that may open so many files, in a process of its own; its port, and the process."""
    [port] = free_ports(1)
    (folder / "mesh").mkdir()
    for address in ("0.0.0.0", "127.0.0.1"):
        (folder / "mesh" / f"{address}.json").write_text(json.dumps(listener(address, port)))
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), str(root / "integrations")])
    environment = {"MESHSDK_CONFIG": str(folder / "mesh"), "ATTACKED_PORT": str(port), "PYTHONPATH": path}
    command = ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh"]
    command += [part.replace("{port}", str(port)) for part in WAYS[way]]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env={**CLEAN_ENVIRONMENT, **environment}, cwd=root, stdout=log, stderr=log)
    with contextlib.ExitStack() as stack:
        stack.callback(process.wait, PATIENCE)
        stack.callback(process.terminate)
        wait_for_port(port, process, seconds=PATIENCE)
        yield port, process


def fall_silent(stack: contextlib.ExitStack, port: int, number: int) -> None:
    """Open a connection and say nothing, or no whole request."""
    connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE))
    with contextlib.suppress(ConnectionError):
        connection.sendall((b"", b"G", HEAD, UPLOAD)[number % 4])


ASKS = b"GET /x HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n"


@pytest.mark.parametrize(("descriptors", "silent"), [(200, 250), (4096, 2000)])
@pytest.mark.parametrize("way", WAYS)
def test_silent_connections_lock_nobody_out(tmp_path: Path, way: str, descriptors: int, silent: int) -> None:
    with serving(tmp_path, way, descriptors) as (port, _), contextlib.ExitStack() as stack:
        for number in range(silent):
            fall_silent(stack, port, number)
        began = time.monotonic()
        with connected(port, ASKS) as other:
            assert until_closed(other).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - began < 8  # Before the silent ones have run out of time.


@pytest.mark.parametrize("way", WAYS)
def test_silent_connections_that_come_all_at_once_lock_nobody_out(tmp_path: Path, way: str) -> None:
    """They queue while the server is held up, so that it finds more than it has descriptors for in one turn."""
    with serving(tmp_path, way, 200) as (port, process), contextlib.ExitStack() as stack:
        process.send_signal(signal.SIGSTOP)
        try:
            for number in range(350):
                fall_silent(stack, port, number)
            other = stack.enter_context(connected(port, ASKS))
        finally:
            process.send_signal(signal.SIGCONT)
        began = time.monotonic()
        assert until_closed(other).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - began < 8  # Before the silent ones have run out of time.
