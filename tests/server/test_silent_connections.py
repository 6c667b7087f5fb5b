"""Connections that say nothing, or too little, to servers of their own: nobody else is locked out."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
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


@pytest.mark.parametrize(("descriptors", "silent"), [(200, 250), (4096, 2000)])
@pytest.mark.parametrize("way", WAYS)
def test_silent_connections_lock_nobody_out(tmp_path: Path, way: str, descriptors: int, silent: int) -> None:
    [port] = free_ports(1)
    (tmp_path / "mesh").mkdir()
    for address in ("0.0.0.0", "127.0.0.1"):
        (tmp_path / "mesh" / f"{address}.json").write_text(json.dumps(listener(address, port)))
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), str(root / "integrations")])
    environment = {"MESHSDK_CONFIG": str(tmp_path / "mesh"), "ATTACKED_PORT": str(port), "PYTHONPATH": path}
    command = ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh"]
    command += [part.replace("{port}", str(port)) for part in WAYS[way]]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env={**CLEAN_ENVIRONMENT, **environment}, cwd=root, stdout=log, stderr=log)
    with contextlib.ExitStack() as stack:
        stack.callback(process.wait, PATIENCE)
        stack.callback(process.terminate)
        wait_for_port(port, process, seconds=PATIENCE)
        for number in range(silent):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE))
            with contextlib.suppress(ConnectionError):
                connection.sendall((b"", b"G", HEAD, UPLOAD)[number % 4])
        began = time.monotonic()
        answer = b""
        # On a busy machine who has just come may be taken for a silent one before it is read; it may come again.
        while not answer and time.monotonic() - began < 8:
            with connected(port, b"GET /x HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n") as other:
                answer = until_closed(other)
        assert answer.startswith(b"HTTP/1.1 200")
        assert time.monotonic() - began < 8  # Before the silent ones have run out of time.
