"""Proxies and mounts of a client: hosts of the mesh never go by them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

import meshsdk
from tests.conftest import service, virtual_service
from tests.grpc_server import GrpcServer
from tests.servers import EchoServer, ScriptedServer

MakeMesh = Callable[..., meshsdk.Mesh]
SAY = "/demo.Echo/say"


class Outside(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """A transport of the user's own, which sends everybody back to the mesh."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.closed = 0
        self.entered = 0

    def __enter__(self) -> Outside:
        self.entered += 1
        return self

    async def __aenter__(self) -> Outside:
        self.entered += 1
        return self

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(str(request.url))
        return httpx.Response(302, headers={"location": "http://greeter/back"})

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return self.handle_request(request)

    def close(self) -> None:
        self.closed += 1

    async def aclose(self) -> None:
        self.closed += 1


def get_sync(mesh: meshsdk.Mesh, url: str, **options: Any) -> httpx.Response:
    with mesh.client(timeout=30, **options) as client:
        return client.send(client.build_request("GET", url, headers={"authorization": "secret"}))


def get_async(mesh: meshsdk.Mesh, url: str, **options: Any) -> httpx.Response:
    async def get() -> httpx.Response:
        async with mesh.async_client(timeout=30, **options) as client:
            return await client.send(client.build_request("GET", url, headers={"authorization": "secret"}))

    return asyncio.run(get())


Get = Callable[..., httpx.Response]
both = pytest.mark.parametrize("get", [get_sync, get_async])


@pytest.fixture
def greeter(echo: Callable[[str], EchoServer]) -> EchoServer:
    return echo("greeter")


@pytest.fixture
def proxy(echo: Callable[[str], EchoServer]) -> EchoServer:
    return echo("proxy")


def url_of(server: EchoServer) -> str:
    return f"http://127.0.0.1:{server.port}"


@both
@pytest.mark.parametrize("unknown_hosts", ["allow", "deny"])
def test_hosts_of_the_mesh_go_by_no_proxy(
    make_mesh: MakeMesh, greeter: EchoServer, proxy: EchoServer, get: Get, unknown_hosts: str
) -> None:
    mesh = make_mesh(service("greeter", greeter.port), unknown_hosts=unknown_hosts)
    response = get(mesh, "http://greeter/x", proxy=url_of(proxy))
    assert response.json()["name"] == "greeter"
    assert response.extensions["mesh"].cluster == "outbound|80||greeter.default.svc.cluster.local"
    assert proxy.seen == []


@both
def test_hosts_outside_the_mesh_go_by_the_proxy(
    make_mesh: MakeMesh, greeter: EchoServer, proxy: EchoServer, get: Get
) -> None:
    mesh = make_mesh(service("greeter", greeter.port))
    response = get(mesh, "http://outside.example/x", proxy=url_of(proxy))
    assert response.json()["path"] == "http://outside.example/x"
    assert response.extensions["mesh"].cluster == "PassthroughCluster"


@both
def test_denied_hosts_go_by_no_proxy_and_no_mount(make_mesh: MakeMesh, proxy: EchoServer, get: Get) -> None:
    mesh = make_mesh(service("greeter", 1), unknown_hosts="deny")
    outside = Outside()
    for options in ({"proxy": url_of(proxy)}, {"mounts": {"all://": outside}}):
        with pytest.raises(httpx.ConnectError, match="does not know"):
            get(mesh, "http://outside.example/x", **options)
    assert (proxy.seen, outside.seen) == ([], [])


@both
@pytest.mark.parametrize("pattern", ["all://", "http://", "http://greeter", "all://greeter:80", "all://*greeter"])
def test_a_mount_takes_no_host_of_the_mesh_and_is_entered_and_closed_with_the_client(
    make_mesh: MakeMesh, greeter: EchoServer, get: Get, pattern: str
) -> None:
    outside = Outside()
    response = get(make_mesh(service("greeter", greeter.port)), "http://greeter/x", mounts={pattern: outside})
    assert response.json()["name"] == "greeter"
    assert (outside.seen, outside.entered, outside.closed) == ([], 1, 1)


@both
def test_redirects_leave_the_mesh_by_the_mount_and_come_back_without_it(
    make_mesh: MakeMesh, greeter: EchoServer, get: Get
) -> None:
    away = virtual_service(
        "greeter",
        "[{match: [{uri: {exact: /away}}], redirect: {authority: outside.example}},"
        " {route: [{destination: {host: greeter}}]}]",
    )
    outside = Outside()
    response = get(
        make_mesh(service("greeter", greeter.port) + away),
        "http://greeter/away",
        mounts={"all://": outside},
        follow_redirects=True,
    )
    assert outside.seen == ["http://outside.example/away"]
    assert (response.json()["name"], response.json()["path"]) == ("greeter", "/back")


@both
def test_proxies_of_the_environment_are_not_used(
    make_mesh: MakeMesh, greeter: EchoServer, proxy: EchoServer, get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy"):
        monkeypatch.setenv(name, url_of(proxy))
    mesh = make_mesh(service("greeter", greeter.port))
    assert get(mesh, "http://greeter/x").json()["name"] == "greeter"
    assert get(mesh, f"{url_of(greeter)}/x").json()["name"] == "greeter"
    assert proxy.seen == []


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "grpc_proxy"])
def test_grpc_channels_go_by_no_proxy(make_mesh: MakeMesh, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    with ScriptedServer(lambda connection, number: None) as proxy, GrpcServer() as server:
        monkeypatch.setenv(variable, proxy.url)
        mesh = make_mesh(service("greeter", server.port))
        with mesh.channel("greeter:80", options=[("grpc.http_proxy", proxy.url)]) as channel:
            assert channel.unary_unary(SAY)(b"x", timeout=30)

        async def call() -> bytes:
            async with mesh.aio_channel("greeter:80") as channel:
                reply: bytes = await channel.unary_unary(SAY)(b"x", timeout=30)
            return reply

        assert asyncio.run(call())
        assert proxy.accepted == 0


@both
def test_a_host_of_the_mesh_with_a_last_dot_goes_by_the_mesh(
    make_mesh: MakeMesh, greeter: EchoServer, get: Get
) -> None:
    mesh = make_mesh(service("greeter", greeter.port))
    response = get(mesh, "http://greeter.default.svc.cluster.local./x")
    assert response.extensions["mesh"].cluster == "outbound|80||greeter.default.svc.cluster.local"
    assert response.status_code == 200
