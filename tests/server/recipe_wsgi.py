"""The application that gunicorn starts."""

from __future__ import annotations

import time
from collections.abc import Iterator

import flask
from meshsdk_flask import MeshFlask

from .recipe_mesh import mesh, port

app = flask.Flask("recipe")
MeshFlask(app, mesh=mesh, port=port)


@app.get("/who")
def who() -> str:
    return str(flask.g.mesh_peer)


@app.get("/held")
def held() -> flask.Response:
    def answer() -> Iterator[bytes]:
        while True:
            yield b"still here\n"
            time.sleep(0.1)

    return flask.Response(answer())
