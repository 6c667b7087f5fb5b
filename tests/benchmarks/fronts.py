"""What a request costs its client in CPU, against the library's own client over a transport that does nothing.

A client does all that its library does around a transport, so the least that one over a network can cost is that of one
over a transport that answers at once. The server is another process, and whoever waits costs nothing, so that only
these ratios say something on a machine with other work.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import meshsdk
from tests.benchmarks.configuration import write_small
from tests.benchmarks.measure import ratio
from tests.processes import free_ports, nginx

# Many short rounds: a machine's speed drifts, and a ratio is of what was measured side by side.
ROUNDS, REQUESTS = 21, 200
MESH_URL = "http://bench/reviews/1"
LIBRARIES = ("httpx", "httpx2")

__all__ = ["measure", "medians", "ratios"]


def measure() -> list[dict[str, float]]:
    """Microseconds of CPU a request, by library and what sends it, in each round."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meshsdk-bench-")))
        ports = free_ports(3)
        stack.enter_context(nginx(ports, folder))
        mesh = stack.enter_context(meshsdk.Mesh(config=write_small(folder / "mesh", ports)))
        ways: dict[str, Callable[[], float]] = {}
        for name in LIBRARIES:
            ways |= _ways(stack, mesh, name, f"http://127.0.0.1:{ports[0]}/")
        return [{name: way() for name, way in ways.items()} for _ in range(ROUNDS + 1)][1:]


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Of what `measure` found."""
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


def _ways(stack: ExitStack, mesh: Any, name: str, bare_url: str) -> dict[str, Callable[[], float]]:
    """What sends a request: sync, and async with one and a hundred in flight."""
    module = import_module(name)
    clients = {"nothing": module.Client(transport=_nothing(module)), "bare": module.Client()}
    clients["meshed"] = mesh.client(library=name)
    makers: dict[str, Callable[[], Any]] = {
        "nothing": lambda: module.AsyncClient(transport=_nothing(module)),
        "bare": module.AsyncClient,
        "meshed": lambda: mesh.async_client(library=name),
    }
    ways: dict[str, Callable[[], float]] = {}
    for what, client in clients.items():
        stack.enter_context(client)
        url = bare_url if what == "bare" else MESH_URL
        ways[f"{name} {what} sync"] = partial(_sync_cost, client, url)
        for in_flight in (1, 100):
            ways[f"{name} {what} async {in_flight}"] = partial(_async_cost, makers[what], url, in_flight)
    return ways


def ratios(rounds: list[dict[str, float]]) -> dict[str, tuple[float, float]]:
    """By library and kind: a meshed client over plain httpx's that does nothing, and a bare one over a meshed one."""

    def over(one: str, other: str) -> float:
        return ratio([(found[one], found[other]) for found in rounds])

    return {
        f"{name} {kind}": (
            over(f"{name} meshed {kind}", f"httpx nothing {kind}"),
            over(f"{name} bare {kind}", f"{name} meshed {kind}"),
        )
        for name in LIBRARIES
        for kind in ("sync", "async 1", "async 100")
    }


def _nothing(module: Any) -> Any:
    class Nothing(module.BaseTransport, module.AsyncBaseTransport):  # type: ignore[misc, name-defined]
        def handle_request(self, request: Any) -> Any:
            return module.Response(200, headers=_HEAD, stream=module.ByteStream(b"x" * 20))

        async def handle_async_request(self, request: Any) -> Any:
            return self.handle_request(request)

    return Nothing()


_HEAD = [(b"server", b"nginx"), (b"content-type", b"text/plain"), (b"content-length", b"20")]


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
    rounds = measure()
    for name, value in medians(rounds).items():
        print(f"{name:24} {value:8.1f} µs")
    for name, (over_nothing, of_bare) in ratios(rounds).items():
        print(
            f"{name:16} {over_nothing:.2f} of httpx over a do-nothing transport; bare costs {of_bare:.1f} times as much"
        )


if __name__ == "__main__":
    main()
