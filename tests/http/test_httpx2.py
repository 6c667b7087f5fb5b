"""httpx2 on the mesh: what it has that httpx has not, and what the two have in common over one engine."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
import requests

import meshsdk
import meshsdk.httpx2
from tests.conftest import destination_rule, service, virtual_service
from tests.patience import eventually
from tests.servers import EchoServer, ScriptedServer, read_head

from .callers import Caller

MakeMesh = Callable[..., meshsdk.Mesh]
both = pytest.mark.parametrize("kind", ["sync", "asyncio"])


@both
def test_clients_are_httpx2s_own(make_mesh: MakeMesh, echo: Callable[[str], EchoServer], kind: str) -> None:
    mesh = make_mesh(service("echo", echo("echo").port))
    with contextlib.closing(Caller(mesh, kind, httpx2)) as caller:
        response = caller("POST", "http://echo/x", json={"a": 1})
        client: Any = caller.async_client if caller.is_async else caller.client
    assert isinstance(client, httpx2.AsyncClient if kind == "asyncio" else httpx2.Client)
    assert isinstance(response, httpx2.Response)
    assert response.json()["body"] == '{"a":1}'
    assert response.extensions["mesh"].cluster == "outbound|80||echo.default.svc.cluster.local"


@pytest.mark.parametrize("library", [httpx, httpx2])
@pytest.mark.parametrize("of", [meshsdk, meshsdk.httpx2])
def test_a_transport_goes_into_the_clients_of_both_libraries(
    make_mesh: MakeMesh, echo: Callable[[str], EchoServer], library: Any, of: Any
) -> None:
    """Who has one at hand need not know whose it is: responses and errors are those of who asks."""
    mesh = make_mesh(service("echo", echo("echo").port), unknown_hosts="deny")
    transport = of.MeshTransport(mesh)
    with httpx.Client(transport=transport) as one, httpx2.Client(transport=transport) as other:
        for client, its in ((one, httpx), (other, httpx2), (one, httpx)):
            response = client.get("http://echo/x")
            assert isinstance(response, its.Response)
            assert response.json()["path"] == "/x"
    with library.Client(transport=of.MeshTransport(mesh)) as client:
        with pytest.raises(library.ConnectError) as found:
            client.get("http://unknown/")
        assert isinstance(found.value, meshsdk.NoRouteError)

    async def ask() -> Any:
        async with library.AsyncClient(transport=of.AsyncMeshTransport(mesh)) as client:
            return await client.get("http://echo/x")

    assert isinstance(asyncio.run(ask()), library.Response)


def test_a_transport_closes_what_it_has_opened_for_another_library(
    make_mesh: MakeMesh, echo: Callable[[str], EchoServer]
) -> None:
    mesh = make_mesh(service("echo", echo("echo").port))
    transport: Any = meshsdk.MeshTransport(mesh)
    before = len(os.listdir("/proc/self/fd"))
    with httpx2.Client(transport=transport) as client:
        client.get("http://echo/x")
        assert len(os.listdir("/proc/self/fd")) > before
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)


def test_a_request_of_no_library_is_refused_by_name(make_mesh: MakeMesh) -> None:
    request: Any = requests.Request("GET", "http://echo/x").prepare()
    with pytest.raises(TypeError, match="takes requests of httpx and httpx2, and was given one of requests"):
        meshsdk.MeshTransport(make_mesh("")).handle_request(request)


def test_another_library_is_refused_by_name(make_mesh: MakeMesh) -> None:
    with pytest.raises(ValueError, match="library"):
        make_mesh("").client(library="requests")  # type: ignore[call-overload]


NOBODY = service("a")
OPEN = service("a", 1) + destination_rule("a", "trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1}}}")


@both
@pytest.mark.parametrize("library", [httpx, httpx2])
@pytest.mark.parametrize(
    ("yaml", "url", "error", "exception"),
    [
        ("", "http://unknown/", meshsdk.NoRouteError, "ConnectError"),
        (NOBODY, "http://a/", meshsdk.NoHealthyEndpointError, "ConnectError"),
        ("slow", "http://a/", meshsdk.RequestTimeoutError, "ReadTimeout"),
    ],
)
def test_the_meshs_errors_are_the_librarys_too(
    make_mesh: MakeMesh, kind: str, library: Any, yaml: str, url: str, error: type[Exception], exception: str
) -> None:
    with ScriptedServer(lambda connection, number: connection.recv(1 << 20) and connection.recv(1)) as server:
        if yaml == "slow":
            routes = "[{timeout: 0.1s, route: [{destination: {host: a}}]}]"
            yaml = service("a", server.port) + virtual_service("a", routes)
        mesh = make_mesh(yaml, local_replies="raise", unknown_hosts="deny")
        with contextlib.closing(Caller(mesh, kind, library)) as caller, pytest.raises(error) as raised:
            caller.get(url)
    assert isinstance(raised.value, getattr(library, exception))
    assert raised.value.request.url == url  # type: ignore[attr-defined]
    assert isinstance(raised.value, meshsdk.RequestError)


@both
def test_events_of_a_server_come_over_the_mesh(make_mesh: MakeMesh, kind: str) -> None:
    def tell(connection: socket.socket, number: int) -> None:
        assert b"accept: text/event-stream" in read_head(connection).lower()
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for event in (b"event: one\ndata: 1\n\n", b"id: 7\ndata: 2\ndata: 3\n\n"):
            connection.sendall(b"%x\r\n%b\r\n" % (len(event), event))
        connection.sendall(b"0\r\n\r\n")

    with ScriptedServer(tell) as server:
        mesh = make_mesh(service("events", server.port))
        with contextlib.closing(Caller(mesh, kind, httpx2)) as caller:
            client: Any = caller.async_client if caller.is_async else caller.client

            async def listen() -> list[Any]:
                async with client.sse("http://events/") as source:
                    return [event async for event in source]

            if caller.is_async:
                events = caller.run(listen)
            else:
                with client.sse("http://events/") as source:
                    events = list(source)
    assert [(event.event, event.data, event.id) for event in events] == [("one", "1", ""), ("message", "2\n3", "7")]


def upgrades(connection: socket.socket, number: int) -> None:
    """Speaks as much of WebSocket as says hello (RFC 6455 section 4.2.2)."""
    key = re.search(rb"(?i)sec-websocket-key: (\S+)", read_head(connection))
    assert key is not None
    accept = base64.b64encode(hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    connection.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        b"sec-websocket-accept: %b\r\n\r\n\x81\x05hello" % accept
    )
    connection.recv(100)


def hello(caller: Caller, url: str) -> str:
    """The first message of a WebSocket."""
    client: Any = caller.async_client if caller.is_async else caller.client

    async def listen() -> str:
        async with client.websocket(url) as session:
            text: str = await session.receive_text()
            return text

    if caller.is_async:
        told: str = caller.run(listen)
        return told
    with client.websocket(url) as session:
        text: str = session.receive_text()
        return text


@both
@pytest.mark.parametrize(
    ("scheme", "error", "words"),
    [
        ("ws", httpx2.UnsupportedProtocol, "WebSockets do not go over the mesh"),
        ("http", httpx2.RemoteProtocolError, "upgrades are not supported"),
    ],
)
def test_websockets_say_that_they_do_not_go_over_the_mesh(
    make_mesh: MakeMesh, kind: str, scheme: str, error: type[Exception], words: str
) -> None:
    with ScriptedServer(upgrades) as server:
        mesh = make_mesh(service("sockets", server.port))
        with contextlib.closing(Caller(mesh, kind, httpx2)) as caller, pytest.raises(error, match=words):
            hello(caller, f"{scheme}://sockets/")


@both
def test_websockets_go_by_a_mount_of_their_own(make_mesh: MakeMesh, kind: str) -> None:
    transport = httpx2.HTTPTransport() if kind == "sync" else httpx2.AsyncHTTPTransport()
    with (
        ScriptedServer(upgrades) as server,
        contextlib.closing(Caller(make_mesh(""), kind, httpx2, mounts={"ws://": transport})) as caller,
    ):
        assert hello(caller, f"ws://127.0.0.1:{server.port}/") == "hello"


LINE = "%REQ(:METHOD)% %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %RESPONSE_CODE_DETAILS%"


@both
def test_logs_say_the_same_of_both_libraries(
    make_mesh: MakeMesh, tmp_path: Path, echo: Callable[[str], EchoServer], kind: str
) -> None:
    def breaks(connection: socket.socket, number: int) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")

    server = echo("echo")
    with ScriptedServer(breaks) as broken:
        yaml = f"{service('echo', server.port)}---\n{service('broken', broken.port)}---\n{service('away', 1)}"
        lines = []
        for number, library in enumerate((httpx, httpx2)):
            path = tmp_path / f"{number}.log"  # Both may go by one name (`make httpx2`).
            log = meshsdk.AccessLog(str(path), format=f"{LINE}\n")
            mesh = make_mesh(yaml, access_log=log)
            with contextlib.closing(Caller(mesh, kind, library)) as caller:
                caller.get("http://echo/x")
                caller("POST", "http://echo/x", content=caller.body(b"one", b"two"))
                caller.stream_partly("http://echo/x")
                for url in ("http://broken/x", "http://away/x", f"http://127.0.0.1:{broken.port}/"):
                    with contextlib.suppress(httpx.TransportError, httpx2.TransportError):
                        caller.get(url)
            mesh.close()
            lines.append(eventually(lambda path=path: len(got := path.read_text().splitlines()) == 6 and got))  # type: ignore[misc]
        sizes = [[re.sub(r"\d{3,}(?= via)", "N", line) for line in one] for one in lines]
    assert sizes[0] == sizes[1]
    assert {line.split()[2] for line in lines[0]} > {"-", "UPE"}


def test_the_sdk_of_anthropic_goes_over_the_mesh(make_mesh: MakeMesh) -> None:
    import anthropic  # It takes its time.

    body = (
        b'{"id":"m","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"hello"}],'
        b'"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}'
    )

    def answer(connection: socket.socket, number: int) -> None:
        while read_head(connection):
            connection.sendall(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
            )

    asked: Any = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}
    with ScriptedServer(answer) as server:
        mesh = make_mesh(service("llm", server.port, port=8000))
        options: dict[str, Any] = {"api_key": "k", "base_url": "http://llm:8000", "max_retries": 0}
        with mesh.client(library="httpx2") as client:
            said = anthropic.Anthropic(http_client=client, **options).messages.create(**asked)
        assert said.content[0].text == "hello"

        async def run() -> Any:
            async with mesh.async_client(library="httpx2") as client:
                return await anthropic.AsyncAnthropic(http_client=client, **options).messages.create(**asked)

        assert asyncio.run(run()).content[0].text == "hello"
