"""What counting a request for Istio's metrics costs: the same requests with it and without, nothing else around."""

from __future__ import annotations

import asyncio
import timeit
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

import meshsdk
from meshsdk.server.asgi import AsgiMiddleware
from tests.benchmarks.configuration import write_small
from tests.benchmarks.instant import make_instant
from tests.conftest import service

__all__ = ["REQUESTS", "ROUNDS", "Run", "asgi_cost", "asgi_run", "client_cost", "client_run", "main", "write_served"]

Run = Callable[[], float]

# Many short rounds, of which the best counts: what else runs on the machine only ever adds.
ROUNDS = 300
REQUESTS = 20

# As many headers as servers answer with.
_ANSWER = [
    (b"content-type", b"application/json"),
    (b"content-length", b"0"),
    (b"date", b"Thu, 26 Nov 2026 12:51:51 GMT"),
    (b"server", b"uvicorn"),
    (b"x-request-id", b"a"),
]


def _transport(mesh: meshsdk.Mesh) -> meshsdk.MeshTransport:
    transport = meshsdk.MeshTransport(mesh)
    make_instant(transport, _ANSWER)
    return transport


def _difference(off: Run, on: Run) -> tuple[float, float]:
    """Microseconds that `on` takes longer, and those that `off` takes."""
    off(), on()
    pairs = [(off(), on()) for _ in range(ROUNDS)]
    without, with_it = (min(side) for side in zip(*pairs, strict=True))
    return (with_it - without) * 1e6, without * 1e6


def client_run(mesh: meshsdk.Mesh) -> Run:
    """Seconds of a request in the transport under an httpx client, connections left out."""
    transport = _transport(mesh)
    request = httpx.Client(transport=transport).build_request("GET", "http://bench/reviews/1")
    return lambda: timeit.timeit(lambda: transport.handle_request(request), number=REQUESTS) / REQUESTS


def client_cost(folder: Path) -> tuple[float, float]:
    """Of a request of an httpx client."""
    with ExitStack() as stack:
        config = write_small(folder / "metrics", [1])
        meshes = [stack.enter_context(meshsdk.Mesh(config=config)) for _ in range(2)]
        meshes[1].metrics_asgi()
        return _difference(*map(client_run, meshes))


async def _application(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": _ANSWER})
    await send({"type": "http.response.body", "body": b""})


async def _receive() -> Any:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(message: Any) -> None:
    pass


_HEADERS = [(b"host", b"web"), (b"user-agent", b"python-httpx"), (b"accept", b"*/*"), (b"x-request-id", b"a")]


def asgi_run(mesh: meshsdk.Mesh) -> Run:
    """Seconds of a request that comes to an ASGI application."""
    middleware = AsgiMiddleware(_application, mesh=mesh, port=8080)
    middleware._driver(8080).inbound.wait_ready()

    async def run() -> float:
        loop = asyncio.get_running_loop()
        times = []
        for _ in range(REQUESTS):
            scope = {
                "type": "http",
                "method": "GET",
                "path": "/",
                "raw_path": b"/",
                "query_string": b"",
                "headers": _HEADERS,
                "scheme": "http",
                "client": ("127.0.0.1", 1),
                "server": ("127.0.0.1", 8080),
                "http_version": "1.1",
            }
            start = loop.time()
            await middleware(scope, _receive, _send)
            times.append(loop.time() - start)
        return min(times)

    return lambda: asyncio.run(run())


def write_served(folder: Path) -> Path:
    """The configuration of the application."""
    folder.mkdir()
    (folder / "mesh.yaml").write_text(service("web", 8080))
    return folder


def asgi_cost(folder: Path) -> tuple[float, float]:
    """Of a request that comes to an ASGI application."""
    with ExitStack() as stack:
        config = write_served(folder / "served")
        meshes = [stack.enter_context(meshsdk.Mesh(config=config)) for _ in range(2)]
        meshes[1].metrics_asgi()
        return _difference(*map(asgi_run, meshes))


def main() -> None:
    """`python -m tests.benchmarks.metrics`."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="meshsdk-bench-") as folder:
        for name, measure in (("httpx", client_cost), ("ASGI", asgi_cost)):
            more, base = measure(Path(folder))
            print(f"{name}: {more:.2f} µs a request for Istio's metrics, over {base:.1f} µs without")


if __name__ == "__main__":
    main()
