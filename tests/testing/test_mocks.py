"""A mocked test behaves over a mesh's clients as over httpx's own, and never reaches the network."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
import respx

import meshsdk

from ..conftest import service
from ..servers import EchoServer

URL = "http://reviews:9080/1"


@pytest.fixture
def server(stack: Any) -> EchoServer:
    started: EchoServer = stack.enter_context(EchoServer("real"))
    return started


@pytest.fixture
def own(tmp_path: Path, stack: Any, server: EchoServer) -> meshsdk.Mesh:
    (tmp_path / "mesh.yaml").write_text(service("reviews", server.port).replace("port: 80}", "port: 9080}"))
    made: meshsdk.Mesh = stack.enter_context(meshsdk.Mesh(config=tmp_path))
    return made


def ask(mesh: meshsdk.Mesh, kind: str, url: str = URL, **options: Any) -> httpx.Response:
    async def asynchronously() -> httpx.Response:
        async with mesh.async_client(**options) as client:
            return await client.post(url, content=b"sent")

    if kind == "async":
        return asyncio.run(asynchronously())
    with mesh.client(**options) as client:
        return client.post(url, content=b"sent")


KINDS = pytest.mark.parametrize("kind", ["sync", "async"])


@KINDS
@pytest.mark.parametrize("using", ["httpcore", "httpx"])
def test_respx_answers_for_the_mesh(own: meshsdk.Mesh, server: EchoServer, kind: str, using: str) -> None:
    with respx.mock(using=using) as router:
        route = router.post(URL).respond(418, json={"mocked": True})
        response = ask(own, kind)
        assert (response.status_code, response.json()) == (418, {"mocked": True})
        assert route.calls.last.request.content == b"sent"
        with pytest.raises(respx.models.AllMockedAssertionError):
            ask(own, kind, "http://reviews:9080/other")
    assert not server.seen
    assert ask(own, kind).json()["name"] == "real", "what is not mocked is the mesh's again"


@KINDS
def test_respx_lets_through_what_it_is_told_to(own: meshsdk.Mesh, kind: str) -> None:
    with respx.mock() as router:
        router.route(host="reviews").pass_through()
        response = ask(own, kind)
    assert response.json()["name"] == "real"
    assert response.extensions["mesh"].cluster.startswith("outbound|9080|")


@KINDS
def test_respx_takes_part_where_the_client_has_a_proxy(own: meshsdk.Mesh, kind: str) -> None:
    with respx.mock() as router:
        router.post("http://outside.example/").respond(201)
        assert ask(own, kind, "http://outside.example/", proxy="http://127.0.0.1:1").status_code == 201


@KINDS
def test_pytest_httpx_answers_for_the_mesh(own: meshsdk.Mesh, server: EchoServer, kind: str, httpx_mock: Any) -> None:
    httpx_mock.add_response(url=URL, status_code=418, json={"mocked": True})
    response = ask(own, kind)
    assert (response.status_code, response.json()) == (418, {"mocked": True})
    [request] = httpx_mock.get_requests()
    assert request.content == b"sent"
    assert not server.seen


@KINDS
@pytest.mark.httpx_mock(should_mock=lambda request: request.url.host != "reviews")
def test_pytest_httpx_lets_through_what_it_is_told_to(own: meshsdk.Mesh, kind: str, httpx_mock: Any) -> None:
    httpx_mock.add_response(url="http://outside.example/")
    assert ask(own, kind).json()["name"] == "real"
    assert ask(own, kind, "http://outside.example/").status_code == 200
