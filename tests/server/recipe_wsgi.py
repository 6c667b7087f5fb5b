"""The application that gunicorn starts."""

from __future__ import annotations

import flask
from meshsdk_flask import MeshFlask

from .recipe_mesh import mesh, port

app = flask.Flask("recipe")
MeshFlask(app, mesh=mesh, port=port)


@app.get("/who")
def who() -> str:
    return str(flask.g.mesh_peer)
