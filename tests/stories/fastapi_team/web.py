"""web: the shop's page, which asks reviews by the URL that it has in the cluster."""

import os
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI, Header, HTTPException, Request
from meshsdk_fastapi import MeshMiddleware

import meshsdk

mesh = meshsdk.Mesh(identity=os.environ.get("SPIFFE_ID"))


@asynccontextmanager
async def lifespan(app: FastAPI):
    async with mesh.async_client(base_url="http://reviews:9080") as app.state.reviews:
        yield


app = FastAPI(lifespan=lifespan)
app.add_middleware(MeshMiddleware, mesh=mesh, port=int(os.environ["PORT"]))


@app.get("/products/{product}")
async def product(product: int, request: Request, end_user: str = Header("")):
    try:
        response = await request.app.state.reviews.get(f"/reviews/{product}", headers={"end-user": end_user})
    except httpx.TransportError as error:
        raise HTTPException(503, "reviews cannot be reached") from error
    if response.is_error:
        raise HTTPException(502, f"reviews says {response.status_code}")
    return {"visitor": request.state.mesh_peer, "reviews": response.json()}
