"""Requests a second and latency of meshed clients, beside what people would use instead of them.

httpx through an Envoy, aiohttp bare (where it is installed: `make bench` does that), requests with and without the
adapter; on asyncio and on uvloop. Every round measures all of them in turn, and a ratio is of one round.
"""

from __future__ import annotations

import asyncio
import importlib.util
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import httpx
import httpx2
import requests
from meshsdk_requests import MeshAdapter

import meshsdk
from tests.benchmarks.measure import ratio, sync_throughput
from tests.loops import LOOPS, make_loop

__all__ = ["measure"]

ROUNDS, IN_FLIGHT = 9, 100
# Of a fast client, and of a slow one.
MANY, FEW = 3000, 400

Rounds = list[dict[str, float]]


def measure(mesh: meshsdk.Mesh, mesh_url: str, bare_url: str, envoy_url: str) -> dict[str, float]:
    """Ratios, by what they are of.

    Args:
        mesh: Knows `mesh_url`.
        mesh_url: Of the upstream in the mesh.
        bare_url: Of the same upstream, without.
        envoy_url: Of an Envoy in front of it.
    """
    found: dict[str, float] = {}
    for loop in LOOPS:
        with asyncio.Runner(loop_factory=make_loop(loop)) as runner:
            rounds = runner.run(_at_once(mesh, mesh_url, bare_url, envoy_url))
        for name in ("httpx", "httpx2"):
            for other in sorted(rounds[0]):
                if other.startswith(("bare", "Envoy")):
                    words = f"{loop}, {IN_FLIGHT} in flight: meshed {name} over {other}"
                    found[words] = _ratio(rounds, f"meshed {name}", other)
            found[f"{loop}, {IN_FLIGHT} in flight: p99 over p50, meshed {name}"] = statistics.median(
                one[f"p99 {name}"] / one[f"p50 {name}"] for one in rounds
            )
    rounds = _one_by_one(mesh, mesh_url, bare_url, envoy_url)
    for one, other in (
        ("meshed httpx", "bare httpx"),
        ("meshed httpx", "Envoy httpx"),
        ("meshed requests", "bare requests"),
    ):
        found[f"sync: {one} over {other}"] = _ratio(rounds, one, other)
    return found


def _ratio(rounds: Rounds, one: str, other: str) -> float:
    return ratio([(found[one], found[other]) for found in rounds])


async def _at_once(mesh: meshsdk.Mesh, mesh_url: str, bare_url: str, envoy_url: str) -> Rounds:
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        ways: dict[str, tuple[Callable[[], Awaitable[Any]], int]] = {}
        for name, library in (("httpx", httpx), ("httpx2", httpx2)):
            meshed: Any = await enter(mesh.async_client(library=name))
            ways[f"meshed {name}"] = (_get(meshed, mesh_url), MANY)
            ways[f"bare {name}"] = (_get(await enter(library.AsyncClient()), bare_url), FEW)
        ways["Envoy httpx"] = (_get(await enter(httpx.AsyncClient()), envoy_url), FEW)
        if importlib.util.find_spec("aiohttp") is not None:
            import aiohttp

            connector = aiohttp.TCPConnector(limit=0)
            ways["bare aiohttp"] = (_read(await enter(aiohttp.ClientSession(connector=connector)), bare_url), MANY)
        rounds = []
        for _ in range(ROUNDS + 1):
            found = {}
            for name, (call, number) in ways.items():
                found[name], latencies = await _throughput(call, number)
                if name.startswith("meshed"):
                    points = statistics.quantiles(latencies, n=100)
                    library_name = name.removeprefix("meshed ")
                    found[f"p50 {library_name}"], found[f"p99 {library_name}"] = points[49], points[98]
            rounds.append(found)
        return rounds[1:]


def _get(client: Any, url: str) -> Callable[[], Awaitable[Any]]:
    async def call() -> None:
        (await client.get(url)).raise_for_status()

    return call


def _read(session: Any, url: str) -> Callable[[], Awaitable[Any]]:
    async def call() -> None:
        async with session.get(url) as response:
            response.raise_for_status()
            await response.read()

    return call


async def _throughput(call: Callable[[], Awaitable[Any]], number: int) -> tuple[float, list[float]]:
    """Requests a second, and how long each took."""
    left = iter(range(number))
    took = []

    async def worker() -> None:
        for _ in left:
            begun = time.perf_counter()
            await call()
            took.append(time.perf_counter() - begun)

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return number / (time.perf_counter() - started), took


def _one_by_one(mesh: meshsdk.Mesh, mesh_url: str, bare_url: str, envoy_url: str) -> Rounds:
    with ExitStack() as stack:
        enter = stack.enter_context
        meshed_session, bare_session = enter(requests.Session()), enter(requests.Session())
        meshed_session.mount("http://", MeshAdapter(mesh))
        bare: Any = enter(httpx.Client())
        ways: dict[str, tuple[Any, str, int]] = {
            "meshed httpx": (enter(mesh.client()), mesh_url, MANY // 2),
            "bare httpx": (bare, bare_url, FEW),
            "Envoy httpx": (bare, envoy_url, FEW),
            "meshed requests": (meshed_session, mesh_url, FEW),
            "bare requests": (bare_session, bare_url, FEW),
        }
        return [
            {name: sync_throughput(client, url, number) for name, (client, url, number) in ways.items()}
            for _ in range(ROUNDS + 1)
        ][1:]
