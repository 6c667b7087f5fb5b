"""A process that sends requests, sync and async, and tells what it knows: `python client.py '{"bootstrap": …}'`."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import meshsdk


def main(told: dict[str, Any]) -> None:
    """Send, tell, end."""
    with meshsdk.Mesh(bootstrap=told["bootstrap"], cache_dir=told["cache_dir"]) as mesh:
        answers = [answer for url in told["urls"] for answer in (_sync(mesh, url), asyncio.run(_async(mesh, url)))]
        print(json.dumps({"answers": answers, "status": mesh.status()}))


def _sync(mesh: meshsdk.Mesh, url: str) -> Any:
    with mesh.client() as client:
        response = client.get(url)
        return response.json()["name"] if response.status_code == 200 else response.status_code


async def _async(mesh: meshsdk.Mesh, url: str) -> Any:
    async with mesh.async_client() as client:
        response = await client.get(url)
        return response.json()["name"] if response.status_code == 200 else response.status_code


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
