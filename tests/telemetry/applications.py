"""What is served and sent in tests of metrics."""

from __future__ import annotations

import asyncio
from typing import Any

import flask
import httpx
from fastapi import FastAPI, Request

import meshsdk


def application() -> Any:
    app = FastAPI()

    @app.api_route("/{path:path}", methods=["GET", "POST"])
    async def answer(request: Request, path: str) -> Any:
        await request.body()
        return {"headers": dict(request.headers)}

    return app


def wsgi_application() -> Any:
    app = flask.Flask("reviews")

    @app.route("/", methods=["GET", "POST"])
    def answer() -> Any:
        return {"headers": {name.lower(): value for name, value in flask.request.headers.items()}}

    return app


def send(mesh: meshsdk.Mesh, kind: str, method: str, url: str, **options: Any) -> httpx.Response:
    if kind == "sync":
        with mesh.client() as client:
            return client.request(method, url, **options)

    async def run() -> httpx.Response:
        async with mesh.async_client() as client:
            return await client.request(method, url, **options)

    return asyncio.run(run())
