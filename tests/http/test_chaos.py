"""Requests through a proxy that cuts, delays, resets and truncates, some of them cancelled: whoever gets an answer gets
their own, and nothing stays behind."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import h2.events
import httpx
import pytest

import meshsdk
from tests.conftest import MakeMesh, service, virtual_service
from tests.loops import LOOPS
from tests.patience import PATIENCE
from tests.servers import EchoServer, ScriptedServer

from .callers import Caller
from .http2_peer import Http2Peer

Echo = Callable[..., EchoServer]
RETRIES = "[{retries: {attempts: 2, retryOn: 'connect-failure,reset,5xx'}, route: [{destination: {host: a}}]}]"


def chaos(port: int, draw: random.Random, harm: float) -> ScriptedServer:
    """A proxy to a port. `harm` is how likely each piece that passes it is the last one."""

    def script(connection: socket.socket, number: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as upstream:
            over = threading.Event()

            def pump(source: socket.socket, sink: socket.socket) -> None:
                try:
                    while not over.is_set() and (data := source.recv(65536)):
                        while data:
                            size = draw.choice([1, 7, 100, len(data), len(data)])
                            if draw.random() < harm:
                                sink.sendall(data[: size // 2])
                                if draw.random() < 0.5:  # A reset; otherwise an orderly end in the middle.
                                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                                return
                            sink.sendall(data[:size])
                            data = data[size:]
                            if draw.random() < 0.05:
                                time.sleep(draw.random() / 200)
                except OSError:
                    pass
                finally:
                    over.set()
                    for side in (source, sink):
                        try:
                            side.shutdown(socket.SHUT_RDWR)
                        except OSError:
                            pass

            back = threading.Thread(target=pump, args=(upstream, connection), daemon=True)
            back.start()
            pump(connection, upstream)
            back.join()

    return ScriptedServer(script)


def echo_over_http2(connection: socket.socket, number: int) -> None:
    """Answers each request with its path and its body's length."""
    peer, paths, sizes = Http2Peer(connection, max_concurrent_streams=20), {}, Counter[int]()
    while True:
        event = peer.wait_for(h2.events.Event)
        stream = getattr(event, "stream_id", None) or 0
        if isinstance(event, h2.events.RequestReceived):
            paths[stream] = dict(event.headers or [])[":path"]
        elif isinstance(event, h2.events.DataReceived):
            sizes[stream] += len(event.data or b"")
        elif isinstance(event, h2.events.StreamEnded):
            try:
                peer.answer(stream, f"{paths[stream]} {sizes[stream]}".encode())
            except h2.exceptions.ProtocolError:
                pass  # It was cancelled.


class Requests:
    """Requests that can be told from each other, and what became of them."""

    def __init__(self, call: Caller, is_http2: bool, draw: random.Random) -> None:
        self.results: Counter[str] = Counter()
        self._call, self._is_http2, self._draw = call, is_http2, draw

    def _request(self, number: int) -> tuple[str, dict[str, Any], int]:
        size = self._draw.choice([0, 0, 10, 3000, 200_000])
        method = self._draw.choice(["GET", "HEAD", "DELETE"]) if not size else "POST"
        content: Any = b"x" * size
        if size and self._draw.random() < 0.5:
            content = self._call.body(b"x" * (size // 2), b"x" * (size - size // 2))
        return method, {"content": content} if size else {}, size

    def _check(self, method: str, number: int, size: int, response: httpx.Response) -> None:
        if response.status_code == 503:
            self.results["503"] += 1
            return
        assert response.status_code == 200
        if method == "HEAD":
            assert response.content == b""
        elif self._is_http2:
            assert response.text == f"/{number} {size}"
        else:
            shown = response.json()
            assert (shown["method"], shown["path"], len(shown["body"])) == (method, f"/{number}", size)
        self.results["ok"] += 1

    def one(self, number: int) -> None:
        method, options, size = self._request(number)
        try:
            self._check(method, number, size, self._call(method, f"http://a/{number}", timeout=PATIENCE, **options))
        except httpx.TransportError as error:
            self.results[type(error).__name__] += 1

    async def _one(self, number: int) -> None:
        method, options, size = self._request(number)
        try:
            response = await self._call.async_client.request(method, f"http://a/{number}", timeout=PATIENCE, **options)
            self._check(method, number, size, response)
        except httpx.TransportError as error:
            self.results[type(error).__name__] += 1

    async def many(self, count: int) -> None:
        """Twenty at a time, one in five of which is cancelled at some moment."""
        numbers = iter(range(count))

        async def worker() -> None:
            for number in numbers:
                task = asyncio.create_task(self._one(number))
                if self._draw.random() < 0.2:
                    await asyncio.sleep(self._draw.random() / 50)
                    task.cancel()
                await asyncio.wait([task])
                if task.cancelled():
                    self.results["cancelled"] += 1
                else:
                    task.result()

        await asyncio.gather(*(worker() for _ in range(20)))


def run(mesh: meshsdk.Mesh, call: Caller, is_http2: bool, count: int, draw: random.Random) -> Counter[str]:
    requests = Requests(call, is_http2, draw)
    if call.is_async:
        call.run(lambda: requests.many(count))
    else:
        for number in range(count):
            requests.one(number)
    [cluster] = [one for name, one in mesh._runtime.directory.clusters.items() if "|a" in name or name == "a"]
    assert cluster.breaker.requests == 0
    assert cluster.breaker.pending == 0
    assert cluster.breaker.connections == call.pool_size
    assert all(endpoint.active_requests == 0 for pool in call._pools() for endpoint, _ in pool._counts)
    for connection in call.idle:
        assert not hasattr(connection, "reader") or connection.reader.state.may_serve_again
    return requests.results


def endure(make_mesh: MakeMesh, stack: ExitStack, kind: str, is_http2: bool, count: int, seed: int) -> None:
    draw = random.Random(seed)
    server = stack.enter_context(ScriptedServer(echo_over_http2) if is_http2 else EchoServer("a"))
    proxy = stack.enter_context(chaos(server.port, draw, 0.01))
    yaml = service("a", proxy.port)
    if is_http2:
        yaml = yaml.replace("name: http", "name: http2").replace("{http:", "{http2:")
    mesh = make_mesh(yaml + virtual_service("a", RETRIES))
    gc.collect()
    files = len(os.listdir("/proc/self/fd"))
    call = Caller(mesh, kind)
    try:
        results = run(mesh, call, is_http2, count, draw)
        assert results["ok"] > count / 10, results  # With HTTP/2 a cut costs all who share a connection.
    finally:
        call.close()
    proxy.__exit__(None, None, None)
    deadline = time.monotonic() + PATIENCE
    while len(os.listdir("/proc/self/fd")) > files + 10 and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.05)
    assert len(os.listdir("/proc/self/fd")) <= files + 10


KINDS = [("sync", False), ("sync", True), *((loop, is_http2) for loop in LOOPS for is_http2 in (False, True))]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files are counted in /proc")
@pytest.mark.parametrize(("kind", "is_http2"), KINDS)
def test_requests_through_a_bad_network_are_never_mixed_up_and_leave_nothing_behind(
    make_mesh: MakeMesh, stack: ExitStack, kind: str, is_http2: bool
) -> None:
    endure(make_mesh, stack, kind, is_http2, 60 if kind == "sync" else 250, seed=1)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("kind", "is_http2"), KINDS)
def test_many_requests_through_a_bad_network_are_never_mixed_up_and_leave_nothing_behind(
    make_mesh: MakeMesh, stack: ExitStack, kind: str, is_http2: bool, seed: int
) -> None:
    endure(make_mesh, stack, kind, is_http2, 1500 if kind == "sync" else 5000, seed)
