"""What a request costs its client in CPU, against the library's own client over a transport that does nothing.

A client does all that its library does around a transport, so the least that one over a network can cost is that of one
over a transport that answers at once. The server is another process, and whoever waits costs nothing, so that only
these ratios say something on a machine with other work.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

import meshsdk
from tests.benchmarks.configuration import write_small
from tests.processes import free_ports, nginx

ROUNDS, REQUESTS = 7, 1000
MESH_URL = "http://bench/reviews/1"

__all__ = ["measure"]


def measure(library: str = "httpx", **options: Any) -> dict[str, float]:
    """Microseconds of CPU a request, by what sends it; and what of the bare client remains with a real transport.

    Args:
        library: `httpx` or `httpx2`.
        **options: Of the mesh's clients.
    """
    module = import_module(library)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meshsdk-bench-")))
        ports = free_ports(3)
        stack.enter_context(nginx(ports, folder))
        mesh = stack.enter_context(meshsdk.Mesh(config=write_small(folder / "mesh", ports)))
        bare_url = f"http://127.0.0.1:{ports[0]}/"
        more = {"library": library, **options} if library != "httpx" else options
        nothing, bare = module.Client(transport=_nothing(module)), module.Client()
        meshed = mesh.client(**more)
        found = _in_turns(
            {
                "nothing": lambda: _sync_cost(nothing, MESH_URL),
                "meshed": lambda: _sync_cost(meshed, MESH_URL),
                "bare": lambda: _sync_cost(bare, bare_url, REQUESTS // 2),
                "async nothing, 1": lambda: _async_cost(
                    lambda: module.AsyncClient(transport=_nothing(module)), MESH_URL, 1
                ),
                "async nothing, 100": lambda: _async_cost(
                    lambda: module.AsyncClient(transport=_nothing(module)), MESH_URL, 100
                ),
                "async meshed, 1": lambda: _async_cost(lambda: mesh.async_client(**more), MESH_URL, 1),
                "async meshed, 100": lambda: _async_cost(lambda: mesh.async_client(**more), MESH_URL, 100),
                "async bare, 1": lambda: _async_cost(module.AsyncClient, bare_url, 1, REQUESTS // 2),
                "async bare, 100": lambda: _async_cost(module.AsyncClient, bare_url, 100, REQUESTS // 2),
            }
        )
        for client in (nothing, bare, meshed):
            client.close()
    return found


def _nothing(module: Any) -> Any:
    class Nothing(module.BaseTransport, module.AsyncBaseTransport):  # type: ignore[misc, name-defined]
        def handle_request(self, request: Any) -> Any:
            return module.Response(200, headers=_HEAD, stream=module.ByteStream(b"x" * 20))

        async def handle_async_request(self, request: Any) -> Any:
            return self.handle_request(request)

    return Nothing()


_HEAD = [(b"server", b"nginx"), (b"content-type", b"text/plain"), (b"content-length", b"20")]


def _in_turns(ways: dict[str, Callable[[], float]]) -> dict[str, float]:
    rounds = [{name: way() for name, way in ways.items()} for _ in range(ROUNDS + 1)][1:]
    return {name: statistics.median(one[name] for one in rounds) for name in ways}


def _sync_cost(client: Any, url: str, requests: int = REQUESTS) -> float:
    client.get(url)
    started = time.process_time()
    for _ in range(requests):
        client.get(url)
    return (time.process_time() - started) / requests * 1e6


def _async_cost(make: Callable[[], Any], url: str, in_flight: int, requests: int = REQUESTS) -> float:
    async def run() -> float:
        async with make() as client:
            left = iter(range(requests))

            async def worker() -> None:
                for _ in left:
                    await client.get(url)

            await asyncio.gather(*(client.get(url) for _ in range(in_flight)))
            started = time.process_time()
            await asyncio.gather(*(worker() for _ in range(in_flight)))
            return (time.process_time() - started) / requests * 1e6

    return asyncio.run(run())


def main() -> None:
    """Print a table."""
    for library in sys.argv[1:] or ["httpx"]:
        found = measure(library)
        print(library, {name: round(value, 1) for name, value in found.items()})
        for kind, suffix in (("", ""), ("async ", ", 1"), ("async ", ", 100")):
            meshed, nothing, bare = (found[f"{kind}{name}{suffix}"] for name in ("meshed", "nothing", "bare"))
            print(
                f"  {kind or 'sync'}{suffix}: {meshed / nothing:.2f} of a do-nothing transport; bare is"
                f" {bare / meshed:.1f} times as much"
            )


if __name__ == "__main__":
    main()
