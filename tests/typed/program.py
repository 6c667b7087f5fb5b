"""What a user of the library may write: mypy --strict reads it with the types that httpx, grpcio and FastAPI have."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import assert_type

import fastapi
import flask
import grpc
import grpc.aio
import httpx
from meshsdk_fastapi import MeshMiddleware
from meshsdk_flask import MeshFlask

import meshsdk
from meshsdk.identities import FileIdentity
from meshsdk.testing import ControlPlane, MeshService

mesh = meshsdk.Mesh(config="mesh/", namespace="shop", unknown_hosts="deny")


def by_httpx() -> list[str]:
    with mesh.client(timeout=5.0) as client:
        assert_type(client, httpx.Client)
        response = client.get("http://reviews:9080/reviews/1")
    info: meshsdk.MeshResponseInfo = response.extensions["mesh"]
    return [info.cluster, info.endpoint, info.flag]


async def by_asyncio() -> int:
    async with mesh.async_client() as client:
        assert_type(client, httpx.AsyncClient)
        return (await client.get("http://reviews:9080/")).status_code


def by_grpc() -> str:
    with mesh.channel("ratings:9080") as channel:
        assert_type(channel, grpc.Channel)
        call = channel.unary_unary("/demo.Ratings/Get", str.encode, bytes.decode)
        return call("1", timeout=1.0)


async def by_grpc_asyncio() -> None:
    channel = mesh.aio_channel("ratings:9080")
    assert_type(channel, grpc.aio.Channel)
    await channel.close()


def serves_grpc(server: grpc.Server) -> None:
    credentials = mesh.server_credentials()
    assert_type(credentials, grpc.ServerCredentials)
    server.add_secure_port("[::]:9080", credentials)


def explained() -> str:
    decision = mesh.explain("GET", "http://reviews:9080/")
    assert_type(decision, meshsdk.Decision)
    status = mesh.status()
    assert_type(status, meshsdk.MeshStatus)
    endpoints = [one["address"] for all_of_one in status["clusters"].values() for one in all_of_one]
    return ", ".join([decision.action, status["problem"], *endpoints])


@asynccontextmanager
async def lifespan(app: fastapi.FastAPI) -> AsyncIterator[None]:
    await mesh.wait_ready_async("reviews:9080")
    yield


app = fastapi.FastAPI(lifespan=lifespan)
app.add_middleware(MeshMiddleware, mesh=mesh, port=8080)
old_app = flask.Flask("old")
MeshFlask(old_app, mesh=mesh, port=8081)


@app.get("/")
async def root(request: fastapi.Request) -> dict[str, str]:
    try:
        return {"peer": str(request.state.mesh_peer), "left": str(meshsdk.deadline.remaining())}
    except (meshsdk.NoRouteError, meshsdk.IdentityError) as error:
        raise fastapi.HTTPException(502, str(error)) from error


def test_a_route(control_plane: ControlPlane) -> None:
    service: MeshService = control_plane.service("reviews", app)
    with control_plane.mesh("web").client() as client:
        assert client.get(service.url).status_code == 200


if __name__ == "__main__":
    meshsdk.Mesh(identity=FileIdentity("cert.pem", "key.pem", "ca.pem")).serve(app, port=8080, health=8086)
