"""Steady traffic for `--serve`: visitors who read the book, until they are told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os

import httpx
from rich.console import Console

import meshsdk
from examples.bookinfo.fleet import SERVICES, VISITORS, Fleet

__all__ = ["URL", "serve"]

URL = "http://productpage:9080/productpage"
PAUSE_SECONDS = 0.1
# Jason is given reviews v2, everybody else v1.
USERS = ("", "jason", "")


def serve(fleet: Fleet, console: Console) -> int:
    """Send visitors until interrupted; first say where everything is seen."""
    path = fleet.folder.parent / "prometheus.yml"
    path.write_text(fleet.prometheus_config())
    console.print(f"a page:      http://127.0.0.1:{fleet.ports['productpage-v1']}/productpage", soft_wrap=True)
    for name in (VISITORS, *SERVICES):
        metrics = f"http://127.0.0.1:{fleet.metrics_ports[name]}/stats/prometheus"
        console.print(f"{name:<15}http://127.0.0.1:{fleet.admin_ports[name]}/  {metrics}", soft_wrap=True)
    data = path.with_name("data")
    console.print(f"Prometheus:  prometheus --config.file={path} --storage.tsdb.path={data}", soft_wrap=True)
    os.environ.update(fleet.environment(VISITORS))
    try:
        asyncio.run(visit())
    except KeyboardInterrupt:
        console.print("they leave")
    return 0


async def visit() -> None:
    """Ask for pages at a steady pace."""
    async with meshsdk.Mesh() as mesh, mesh.async_client() as client:
        for user in itertools.cycle(USERS):
            with contextlib.suppress(httpx.HTTPError):  # The metrics and the admin pages tell of it.
                await client.get(URL, headers={"end-user": user} if user else {})
            await asyncio.sleep(PAUSE_SECONDS)
