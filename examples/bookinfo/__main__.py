"""Runs the demo: exit 0 when everything seen is what the YAML says, 1 otherwise. With --serve it goes on for good."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx
from rich.console import Console
from rich.live import Live
from rich.progress import track
from rich.table import Table

import meshsdk
from examples.bookinfo.fleet import SERVICES, Fleet
from examples.bookinfo.scenes import SCENES, Scene, Seen
from examples.bookinfo.visitors import URL, serve

IN_FLIGHT = 4
# Somebody who watches should see it happen; a test need not wait.
PACE_SECONDS = 0.06
SETTLE_SECONDS = 30.0


def main() -> int:
    """Start the fleet, and play the scenes or serve visitors."""
    parser = argparse.ArgumentParser(prog="python -m examples.bookinfo", description="bookinfo, without sidecars")
    parser.add_argument(
        "--serve", action="store_true", help="keep running, with visitors, metrics for Prometheus and admin pages"
    )
    serves = parser.parse_args().serve
    console = Console() if sys.stdout.isatty() else Console(width=150)
    with (
        tempfile.TemporaryDirectory(prefix="bookinfo-") as folder,
        Fleet(Path(folder), has_admin=serves) as fleet,
    ):
        for name in track(SERVICES, description="starting services", console=console, transient=True):
            fleet.wait_until_up(name)
        console.print(f"{len(SERVICES)} services run; their mesh is {fleet.folder}", soft_wrap=True)
        return serve(fleet, console) if serves else asyncio.run(play(fleet, console))


async def play(fleet: Fleet, console: Console) -> int:
    """Play all scenes with a live table; returns the exit code."""
    rows: list[tuple[Scene, Seen, str]] = []
    started = time.monotonic()
    async with meshsdk.Mesh(config=fleet.folder) as mesh, mesh.async_client() as client:
        await mesh.wait_ready_async("productpage:9080")
        with Live(table(rows), console=console, refresh_per_second=8) as live:
            for scene in SCENES:
                scene.change(fleet)
                seen = Seen()
                rows.append((scene, seen, "settling"))
                problem = await settle(client, scene)
                await send(client, scene, seen, lambda: live.update(table(rows)))
                problem = problem or scene.check(seen)
                rows[-1] = (scene, seen, problem or "ok")
                live.update(table(rows))
    failed = [scene.title for scene, _, verdict in rows if verdict != "ok"]
    requests = sum(seen.requests for _, seen, _ in rows)
    console.print(
        f"{requests} requests in {time.monotonic() - started:.0f} s, each as the YAML says" if not failed else ""
    )
    for title in failed:
        console.print(f"[red]not as the YAML says:[/red] {title}")
    return 1 if failed else 0


async def settle(client: httpx.AsyncClient, scene: Scene) -> str:
    """Wait until the change is seen; returns what is wrong if it never is."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        seen = Seen()
        for _ in range(10):
            await one(client, scene, seen)
        if scene.settled(seen):
            return ""
    return f"not seen in {SETTLE_SECONDS:g} s"


async def send(client: httpx.AsyncClient, scene: Scene, seen: Seen, show: Callable[[], None]) -> None:
    """Send a scene's requests, a few at a time."""
    left = iter(range(scene.requests))
    watched = sys.stdout.isatty()

    async def worker() -> None:
        for number in left:
            await one(client, scene, seen)
            if number % 20 == 0:
                show()
            if watched:
                await asyncio.sleep(PACE_SECONDS)

    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))


async def one(client: httpx.AsyncClient, scene: Scene, seen: Seen) -> None:
    """One request, as a browser would."""
    started = time.perf_counter()
    page = None
    try:
        response = await client.get(URL, headers={"end-user": scene.user} if scene.user else {})
        if response.status_code == 200:
            page = response.json()
    except httpx.HTTPError:
        page = None
    seen.add(page, time.perf_counter() - started)


def table(rows: list[tuple[Scene, Seen, str]]) -> Table:
    """What happened so far."""
    shown = Table(
        "scene", "requests", "reviews", "ratings", "retries", "failed", "p50 ms", "p99 ms", "", title="bookinfo"
    )
    for scene, seen, verdict in rows:
        ordered = sorted(seen.seconds)
        middle = statistics.median(ordered) * 1000 if ordered else 0.0
        late = ordered[int(len(ordered) * 0.99)] * 1000 if ordered else 0.0
        color = {"ok": "green", "settling": "yellow"}.get(verdict, "red")
        shown.add_row(
            scene.title,
            str(seen.requests),
            counts(seen.reviews),
            counts(seen.ratings),
            str(seen.retries),
            str(seen.failures),
            f"{middle:.1f}",
            f"{late:.1f}",
            f"[{color}]{verdict}[/{color}]",
        )
    return shown


def counts(counter: dict[str, int]) -> str:
    """A counter in a few words."""
    return " ".join(f"{name}:{count}" for name, count in sorted(counter.items()) if count)


if __name__ == "__main__":
    sys.exit(main())
