"""The id of the request that is being handled, in what is sent on its behalf."""

from __future__ import annotations

import re
from concurrent import futures
from pathlib import Path
from typing import Any

import fastapi
import flask
import grpc
import httpx
import pytest

import meshsdk
from meshsdk.request_id import carried, make_request_id
from meshsdk.testing import ControlPlane
from tests.conftest import service, virtual_service
from tests.processes import free_ports
from tests.servers import EchoServer

from .running import mesh_of, serving
from .test_attacks import echo

UUID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def test_ids_are_random_uuids_of_version_4() -> None:
    made = {make_request_id().decode() for _ in range(1000)}
    assert len(made) == 1000
    assert all(UUID.fullmatch(one) for one in made)


@pytest.mark.parametrize("value", [None, b"", b"a" * 257, "ä".encode(), b"a\tb", b"a\x7fb"])
def test_an_id_that_no_header_should_hold_does_not_go_on(value: bytes | None) -> None:
    assert carried(value) is None


def _ids(answer: httpx.Response) -> tuple[str, str]:
    """What the first application saw, and what the second one did."""
    told = answer.json()
    return told["first"], dict(told["second"]["headers"])["x-request-id"]


def _flask(mesh: Any) -> Any:
    client, app = mesh.client(), flask.Flask("front")

    @app.get("/")
    def hop() -> dict[str, Any]:
        return {"first": flask.request.headers["x-request-id"], "second": client.get("http://back/").json()}

    return app


def _fastapi(mesh: Any) -> Any:
    client, app = mesh.async_client(), fastapi.FastAPI()

    @app.get("/")
    async def hop(request: fastapi.Request) -> dict[str, Any]:
        return {"first": request.headers["x-request-id"], "second": (await client.get("http://back/")).json()}

    return app


@pytest.mark.parametrize("make", [_flask, _fastapi])
def test_what_an_application_sends_has_the_id_of_what_it_was_asked(
    make: Any, mesh: meshsdk.Mesh, mesh_service: Any
) -> None:
    mesh_service("back", echo)
    url = f"http://127.0.0.1:{mesh_service('front', make(mesh)).own_port}/"
    assert _ids(httpx.get(url, headers={"x-request-id": "mine"})) == ("mine", "mine")
    first, second = _ids(httpx.get(url))
    again, _ = _ids(httpx.get(url))
    assert first == second
    assert UUID.fullmatch(first)
    assert first != again


def test_a_request_keeps_its_id_on_retries_and_has_another_one_the_next_time(
    control_plane: ControlPlane, mesh: meshsdk.Mesh
) -> None:
    retries = "[{retries: {attempts: 2, retryOn: 5xx}, route: [{destination: {host: a}}]}]"
    with EchoServer() as server:
        server.statuses = [503, 200, 200]
        control_plane.register("a", server.port)
        control_plane.apply(virtual_service("a", retries))
        with mesh.client() as client:
            client.get("http://a/")
            client.get("http://a/")
            client.get("http://a/", headers={"X-Request-Id": "mine"})
        first, retried, second, third = [one["headers"]["x-request-id"] for one in server.seen]
    assert first == retried != second
    assert third == "mine"


class _Handler(grpc.GenericRpcHandler):
    """Answers with the call's request id, and with what another call made on its behalf was told."""

    def __init__(self, ask: Any = None) -> None:
        self._ask = ask

    def service(self, details: Any) -> Any:
        def answer(request: bytes, context: Any) -> bytes:
            known = dict(context.invocation_metadata()).get("x-request-id", "-").encode()
            return known + b" " + self._ask(request) if self._ask is not None else known

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.mark.parametrize("route", ["", "[{headers: {request: {set: {x-a: b}}}, route: [{destination: {host: back}}]}]"])
def test_grpc_calls_carry_the_id_on_whoever_decides_them(route: str, tmp_path: Path) -> None:
    yaml, servers = "", []
    front, back = free_ports(2)
    for name, port in (("front", front), ("back", back)):
        yaml += "---\n" + service(name, port)
    with mesh_of(tmp_path, yaml + (virtual_service("back", route) if route else "")) as mesh:
        channel = mesh.channel("back:80")
        for port, handler in ((front, _Handler(channel.unary_unary("/a.B/C"))), (back, _Handler())):
            pool = futures.ThreadPoolExecutor(2)
            server = grpc.server(pool, [handler], interceptors=[mesh.server_interceptor(port=port)])
            server.add_insecure_port(f"127.0.0.1:{port}")
            server.start()
            servers.append(server)
        with grpc.insecure_channel(f"127.0.0.1:{front}") as plain:
            call = plain.unary_unary("/a.B/C")
            assert call(b"", metadata=(("x-request-id", "mine"),), timeout=20) == b"mine mine"
            first, second = call(b"", timeout=20).decode().split()
        channel.close()
        for server in servers:
            server.stop(None).wait()
    assert first == second
    assert UUID.fullmatch(first)


def test_access_logs_tell_the_id_that_was_made(control_plane: ControlPlane, mesh_as: Any, tmp_path: Path) -> None:
    log = meshsdk.AccessLog(str(tmp_path / "log"), format="%REQ(X-REQUEST-ID)%")
    [port] = free_ports(1)
    control_plane.register("web", port, service_account="web")
    control_plane.apply(virtual_service("gone", "[{match: [{uri: {exact: /}}], directResponse: {status: 404}}]"))
    with mesh_as("web", access_log=log) as mesh, serving(echo, mesh, port), mesh.client() as client:
        seen = dict(client.get("http://web/").json()["headers"])["x-request-id"]
        assert client.get("http://gone/").status_code == 404
        assert client.get("http://gone/nowhere").status_code == 404
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines.count(seen) == 2, "the client's line, and the server's"
    assert len(lines) == 4
    assert all(UUID.fullmatch(line) for line in lines)
    assert len(set(lines)) == 3
