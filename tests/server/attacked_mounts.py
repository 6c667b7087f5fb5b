"""What is attacked where it is mounted below /shop, by whatever mounts applications."""

from __future__ import annotations

import os
from typing import Any

import a2wsgi
import flask
from fastapi import FastAPI
from meshsdk_fastapi import MeshMiddleware
from meshsdk_flask import MeshFlask
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount
from werkzeug.middleware.dispatcher import DispatcherMiddleware

import meshsdk

from .attacked import asgi, wsgi

PORT = int(os.environ["ATTACKED_PORT"])
mesh = meshsdk.Mesh()


def _inner() -> FastAPI:
    app = asgi()
    app.add_middleware(MeshMiddleware, mesh=mesh, port=PORT)
    return app


def _inner_wsgi() -> flask.Flask:
    app = wsgi()
    MeshFlask(app, mesh=mesh, port=PORT)
    return app


class _Wrapping(BaseHTTPMiddleware):
    """Hides the server's own `receive`."""

    async def dispatch(self, request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        return response


class _Stripping:
    """A mount that takes its prefix off the path, as the ASGI specification once had it."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/shop/"):
            scope = {**scope, "path": scope["path"].removeprefix("/shop")}
        await self._app(scope, receive, send)


starlette = Starlette(routes=[Mount("/shop", _inner())])
wrapped = Starlette(routes=[Mount("/shop", _inner())])
wrapped.add_middleware(_Wrapping)
rooted = _inner()
rooted.root_path = "/shop"
stripping = _Stripping(_inner())
flask_in_fastapi = FastAPI()
flask_in_fastapi.mount("/shop", a2wsgi.WSGIMiddleware(_inner_wsgi()))
flask_app = _inner_wsgi()
dispatched = DispatcherMiddleware(flask.Flask("root"), {"/shop": flask_app})
