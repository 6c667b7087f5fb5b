"""Ways to measure. Each compares in turns (A B A B …), so that a machine whose speed drifts drifts for both."""

from __future__ import annotations

import asyncio
import compileall
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import httpx

import meshsdk

__all__ = ["async_throughput", "compile_everything", "median_seconds", "ratio", "sync_throughput"]


def compile_everything() -> None:
    """For new processes: an installation has all modules compiled, which a working copy need not have."""
    compileall.compile_dir(Path(meshsdk.__file__).parent, quiet=1)


def sync_throughput(client: httpx.Client, url: str, requests: int) -> float:
    """Requests a second, one after the other."""
    started = time.perf_counter()
    for _ in range(requests):
        client.get(url).raise_for_status()
    return requests / (time.perf_counter() - started)


async def async_throughput(client: httpx.AsyncClient, url: str, requests: int, in_flight: int) -> float:
    """Requests a second, so many at a time."""
    left = iter(range(requests))

    async def worker() -> None:
        for _ in left:
            (await client.get(url)).raise_for_status()

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(in_flight)))
    return requests / (time.perf_counter() - started)


def median_seconds(call: Callable[[], object], repeat: int) -> float:
    """The median time of one call."""
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def ratio(pairs: list[tuple[float, float]]) -> float:
    """The median of the pairs' own ratios."""
    return statistics.median(one / other for one, other in pairs)
