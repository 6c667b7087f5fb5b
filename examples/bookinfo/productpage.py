"""The product page (FastAPI): asks details and reviews at the same time."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI, Request

import meshsdk

mesh = meshsdk.Mesh()
client: httpx.AsyncClient


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    global client
    async with mesh, mesh.async_client() as client:
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/health")
async def health() -> str:
    return "ok"


@app.get("/productpage")
async def productpage(request: Request) -> dict[str, Any]:
    """The page as data: each part, or why it is not there."""
    user = request.headers.get("end-user")
    headers = {"end-user": user} if user else {}
    details, reviews = await asyncio.gather(
        ask("http://details:9080/details/0", headers), ask("http://reviews:9080/reviews/0", headers)
    )
    return {"details": details, "reviews": reviews}


async def ask(url: str, headers: dict[str, str]) -> dict[str, Any]:
    try:
        response = await client.get(url, headers=headers)
        response.raise_for_status()
    except httpx.HTTPError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    answer: dict[str, Any] = response.json()
    return answer


if __name__ == "__main__":
    mesh.serve(app, host="127.0.0.1", port=int(sys.argv[1]))
