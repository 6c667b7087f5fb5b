"""The application that the recipes of docs/security.md start: MESHSDK_CONFIG and RECIPE_PORT say the rest."""

from __future__ import annotations

import os

import flask
from fastapi import FastAPI, Request
from meshsdk_fastapi import MeshMiddleware
from meshsdk_flask import MeshFlask

import meshsdk
from meshsdk.identities import FileIdentity

folder = os.environ["RECIPE_IDENTITY"]
port = int(os.environ["RECIPE_PORT"])
mesh = meshsdk.Mesh(identity=FileIdentity(f"{folder}/cert.pem", f"{folder}/key.pem", f"{folder}/roots.pem"))

wsgi = flask.Flask("recipe")
MeshFlask(wsgi, mesh=mesh, port=port)


@wsgi.get("/who")
def who() -> str:
    return str(flask.g.mesh_peer)


asgi = FastAPI()
asgi.add_middleware(MeshMiddleware, mesh=mesh, port=port)


@asgi.get("/who")
async def who_asks(request: Request) -> str:
    return str(request.state.mesh_peer)
