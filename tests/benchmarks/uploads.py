"""How fast bodies go out over HTTP/1.1, against bare httpx: to a process that reads and throws away."""

from __future__ import annotations

import asyncio
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx

import meshsdk
from tests.conftest import service

__all__ = ["measure"]

_BYTES = 64 << 20
_CHUNK = b"x" * 65536
_WHOLE = _CHUNK * (_BYTES // len(_CHUNK))
_LENGTH = {"content-length": str(_BYTES)}
_ROUNDS = 7


def measure() -> dict[str, tuple[float, float, float]]:
    """By kind of client and body: the ratio, and both sides' MiB a second."""
    sink = subprocess.Popen([sys.executable, "-m", "tests.benchmarks.uploads"], stdout=subprocess.PIPE, text=True)
    assert sink.stdout is not None
    try:
        port = int(sink.stdout.readline())
        with tempfile.TemporaryDirectory(prefix="meshsdk-bench-") as folder:
            (Path(folder) / "m.yaml").write_text(service("sink", port))
            with meshsdk.Mesh(config=folder) as mesh:
                return _measure(mesh, f"http://127.0.0.1:{port}/")
    finally:
        sink.kill()
        sink.wait()


def _measure(mesh: meshsdk.Mesh, bare_url: str) -> dict[str, tuple[float, float, float]]:
    results = {}
    with mesh.client(timeout=60) as meshed, httpx.Client(timeout=60) as bare:
        sides = [(meshed, "http://sink/"), (bare, bare_url)]
        results["sync, in memory"] = _compared([[_sync(*side, _WHOLE) for side in sides] for _ in range(_ROUNDS)])
        results["sync, streamed"] = _compared([[_sync(*side, _chunks()) for side in sides] for _ in range(_ROUNDS)])

    async def run() -> None:
        async with mesh.async_client(timeout=60) as meshed, httpx.AsyncClient(timeout=60) as bare:
            sides = [(meshed, "http://sink/"), (bare, bare_url)]
            whole = [[await _async(*side, _WHOLE) for side in sides] for _ in range(_ROUNDS)]
            results["async, in memory"] = _compared(whole)
            streamed = [[await _async(*side, _async_chunks()) for side in sides] for _ in range(_ROUNDS)]
            results["async, streamed"] = _compared(streamed)

    asyncio.run(run())
    return results


def _compared(rounds: list[list[float]]) -> tuple[float, float, float]:
    """The first round warms up."""
    ours, theirs = zip(*rounds[1:], strict=True)
    ratio = statistics.median(one / other for one, other in rounds[1:])
    return ratio, statistics.median(ours), statistics.median(theirs)


def _chunks() -> Iterator[bytes]:
    for _ in range(_BYTES // len(_CHUNK)):
        yield _CHUNK


async def _async_chunks() -> AsyncIterator[bytes]:
    for chunk in _chunks():
        yield chunk


def _sync(client: httpx.Client, url: str, content: bytes | Iterator[bytes]) -> float:
    started = time.perf_counter()
    client.post(url, content=content, headers=_LENGTH).raise_for_status()
    return _BYTES / (time.perf_counter() - started) / (1 << 20)


async def _async(client: httpx.AsyncClient, url: str, content: bytes | AsyncIterator[bytes]) -> float:
    started = time.perf_counter()
    (await client.post(url, content=content, headers=_LENGTH)).raise_for_status()
    return _BYTES / (time.perf_counter() - started) / (1 << 20)


def _serve(connection: socket.socket) -> None:
    buffer = bytearray(1 << 20)
    while True:
        head = b""
        while b"\r\n\r\n" not in head:
            data = connection.recv(65536)
            if not data:
                return
            head += data
        head, _, rest = head.partition(b"\r\n\r\n")
        found = re.search(rb"content-length: (\d+)", head.lower())
        left = int(found.group(1)) - len(rest) if found is not None else 0
        while left > 0:
            left -= connection.recv_into(buffer)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            threading.Thread(target=_serve, args=(listener.accept()[0],), daemon=True).start()
