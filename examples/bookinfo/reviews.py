"""Reviews (FastAPI), in three versions: v1 shows no stars, v2 and v3 ask ratings for them."""

from __future__ import annotations

import sys
from typing import Any

import grpc
from fastapi import FastAPI
from google.protobuf.json_format import MessageToDict
from google.protobuf.wrappers_pb2 import StringValue

import meshsdk
from examples.bookinfo import ratings_api

version = sys.argv[2] if len(sys.argv) > 2 else "v1"
mesh = meshsdk.Mesh()
ratings = ratings_api.get_method(mesh.aio_channel("ratings:9080"))
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
        return MessageToDict(await ratings(StringValue(value=product), timeout=20))
    except grpc.aio.AioRpcError as error:
        return {"error": f"{error.code().name}: {error.details()}"}


if __name__ == "__main__":
    mesh.serve(app, host="127.0.0.1", port=int(sys.argv[1]))
