"""Reviews (FastAPI), in three versions: v1 shows no stars, v2 and v3 ask ratings for them."""

from __future__ import annotations

import sys
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

import meshsdk

version = sys.argv[2] if len(sys.argv) > 2 else "v1"
mesh = meshsdk.Mesh()
client = mesh.async_client()
app = FastAPI()


@app.get("/health")
async def health() -> str:
    return "ok"


@app.get("/reviews/{product}")
async def reviews(product: str) -> dict[str, Any]:
    """What reviewers say, with stars where this version shows them."""
    answer: dict[str, Any] = {"version": version, "text": "An extremely entertaining play by Shakespeare."}
    if version != "v1":
        answer["ratings"] = await stars(product)
    return answer


async def stars(product: str) -> dict[str, Any]:
    try:
        response = await client.get(f"http://ratings:9080/ratings/{product}")
        response.raise_for_status()
    except httpx.HTTPError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {**response.json(), "attempts": response.extensions["mesh"].attempts}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
