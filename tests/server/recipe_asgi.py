"""The application that uvicorn and hypercorn start."""

from __future__ import annotations

from fastapi import FastAPI, Request
from meshsdk_fastapi import MeshMiddleware

from .recipe_mesh import mesh, port

app = FastAPI()
app.add_middleware(MeshMiddleware, mesh=mesh, port=port)


@app.get("/who")
async def who_asks(request: Request) -> str:
    return str(request.state.mesh_peer)
