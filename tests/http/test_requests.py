"""requests over the mesh: what it has of it, and what it would have had without."""

from __future__ import annotations

import gzip
import io
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
import responses
import trustme
from meshsdk_requests import MeshAdapter

import meshsdk
from tests.conftest import service, virtual_service
from tests.servers import EchoServer, ScriptedServer, read_head

MakeMesh = Callable[..., meshsdk.Mesh]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def session(mesh: meshsdk.Mesh) -> requests.Session:
    """One on the mesh, without what the machine's environment says."""
    made = requests.Session()
    made.trust_env = False
    for scheme in ("http://", "https://"):
        made.mount(scheme, MeshAdapter(mesh))
    return made


def test_a_session_goes_where_routes_say_and_tries_again(
    make_mesh: MakeMesh, echo: Callable[[str], EchoServer]
) -> None:
    one, other = echo("one"), echo("other")
    routes = (
        "[{match: [{uri: {prefix: /other}}], route: [{destination: {host: b}}],"
        " retries: {attempts: 2, retryOn: 5xx}}, {route: [{destination: {host: a}}]}]"
    )
    mesh = make_mesh(service("a", one.port) + "---\n" + service("b", other.port) + virtual_service("a", routes))
    other.statuses = [503, 200]
    with session(mesh) as client:
        assert client.get("http://a/x?q=1").json()["path"] == "/x?q=1"
        response = client.get("http://a/other/x")
        assert (response.status_code, response.json()["name"], len(other.seen)) == (200, "other", 2)
        assert response.extensions["mesh"].attempts == 2  # type: ignore[attr-defined]
        assert response.reason == "OK"


def test_what_responses_mocks_never_reaches_the_network(make_mesh: MakeMesh, echo: Callable[[str], EchoServer]) -> None:
    real = echo("real")
    with session(make_mesh(service("a", real.port))) as client:
        with responses.RequestsMock() as mocked:
            mocked.get("http://a/x", json={"name": "mocked"})
            assert client.get("http://a/x").json() == {"name": "mocked"}
        assert not real.seen
        assert client.get("http://a/x").json()["name"] == "real"


def test_the_roots_that_a_request_names_are_the_only_ones(
    make_mesh: MakeMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = trustme.CA(), trustme.CA()
    for name, ca in (("ours.pem", ours), ("theirs.pem", theirs)):
        ca.cert_pem.write_to_path(tmp_path / name)
    # What the system trusts.
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "theirs.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.issue_cert("127.0.0.1").configure_cert(context)

    def script(connection: socket.socket, number: int) -> None:
        if read_head(connection):
            connection.sendall(OK)

    with ScriptedServer(script, tls=context) as server, session(make_mesh(service("a"))) as client:
        url = f"https://127.0.0.1:{server.port}/"
        for verify in (str(tmp_path / "ours.pem"), tmp_path / "ours.pem"):
            with pytest.raises(requests.exceptions.SSLError):
                client.get(url, verify=verify)  # type: ignore[arg-type]
        assert client.get(url, verify=str(tmp_path / "theirs.pem")).text == "ok"


def test_what_the_mesh_answers_is_a_response(make_mesh: MakeMesh) -> None:
    with session(make_mesh(service("a"))) as client:
        response = client.get("http://a/")
    assert (response.status_code, response.extensions["mesh"].flag) == (503, "UH")  # type: ignore[attr-defined]


def a_file() -> io.BytesIO:
    return io.BytesIO(b"of a file" * 1000)


BODIES: dict[str, Callable[[], dict[str, Any]]] = {
    "none": dict,
    "bytes": lambda: {"data": b"bytes"},
    "text": lambda: {"data": "tüxt"},
    "form": lambda: {"data": {"a": "1"}},
    "json": lambda: {"json": {"a": None}},
    "file": lambda: {"data": a_file()},
    "generator": lambda: {"data": (chunk for chunk in (b"one", b"two"))},
    "parameters": lambda: {"params": {"a": "b c", "d": "é"}},
    "headers": lambda: {"headers": {"X-Own": "é", "User-Agent": None}},
    "auth": lambda: {"auth": ("user", "password")},
    "cookies": lambda: {"cookies": {"a": "b"}},
}


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("method", ["POST", "GET", "HEAD"])
def test_a_request_arrives_as_requests_sends_it(
    make_mesh: MakeMesh, echo: Callable[[str], EchoServer], kind: str, method: str
) -> None:
    server = echo("echo")
    url = f"http://127.0.0.1:{server.port}/a%2Fb/%7e//c"
    with session(make_mesh("")) as meshed, requests.Session() as bare:
        bare.trust_env = False
        for client in (meshed, bare):
            assert client.request(method, url, **BODIES[kind]()).status_code == 200
    for seen in server.seen:
        # http.client offers it by itself, where nothing is said.
        if "accept-encoding" in seen["headers"] and seen["headers"]["accept-encoding"] == "identity":
            del seen["headers"]["accept-encoding"]
        if seen["headers"].get("user-agent", "").startswith("python-urllib3"):
            del seen["headers"]["user-agent"]
        seen["headers"].pop("x-request-id", None)
    assert server.seen[0] == server.seen[1]


def answering(connection: socket.socket, number: int) -> None:
    while head := read_head(connection):
        path = head.split()[1]
        packed = gzip.compress(b"unpacked")
        connection.sendall(
            {
                b"/gzip": b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n%b"
                % (len(packed), packed),
                b"/chunked": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n",
                b"/cookie": b"HTTP/1.1 200 OK\r\nset-cookie: a=b; path=/\r\ncontent-length: 0\r\n\r\n",
                b"/redirect": b"HTTP/1.1 302 Found\r\nlocation: /chunked\r\ncontent-length: 0\r\n\r\n",
                b"/cut": b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc",
                b"/broken": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nX",
                b"/silent": b"",
            }.get(path, OK)
        )
        if path in (b"/cut", b"/broken"):
            return


def told(response: requests.Response) -> Any:
    return (
        response.status_code,
        response.reason,
        dict(response.headers),
        response.content,
        [one.status_code for one in response.history],
        response.cookies.get_dict(),
    )


@pytest.mark.parametrize("path", ["/", "/gzip", "/chunked", "/cookie", "/redirect"])
def test_a_response_is_what_requests_makes_of_it(make_mesh: MakeMesh, path: str) -> None:
    with ScriptedServer(answering) as server, session(make_mesh("")) as meshed, requests.Session() as bare:
        bare.trust_env = False
        found = [told(client.get(server.url.rstrip("/") + path)) for client in (meshed, bare)]
        assert meshed.cookies.get_dict() == bare.cookies.get_dict()
        with meshed.get(server.url + "chunked", stream=True) as response:
            assert b"".join(response.iter_content(2)) == b"onetwo"
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("path", "options", "error"),
    [
        ("silent", {"timeout": (60, 0.05)}, requests.ReadTimeout),
        ("broken", {}, (requests.exceptions.ChunkedEncodingError, requests.ConnectionError)),
        ("cut", {}, requests.exceptions.ChunkedEncodingError),
    ],
)
def test_failures_are_those_of_requests(make_mesh: MakeMesh, path: str, options: dict[str, Any], error: Any) -> None:
    with ScriptedServer(answering) as server, session(make_mesh("")) as meshed, requests.Session() as bare:
        bare.trust_env = False
        for client in (meshed, bare):
            with pytest.raises(error):
                client.get(server.url + path, **options)


def test_no_server_is_a_connection_error(make_mesh: MakeMesh) -> None:
    with session(make_mesh("")) as client, pytest.raises(requests.ConnectionError) as raised:
        client.get("http://127.0.0.1:1/")
    assert raised.value.request is not None
    with session(make_mesh("", unknown_hosts="deny")) as client, pytest.raises(requests.ConnectionError, match="deni"):
        client.get("http://unknown.example/")


def test_https_hosts_outside_prove_who_they_are(make_mesh: MakeMesh, tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")

    def answer(connection: socket.socket, number: int) -> None:
        read_head(connection)
        connection.sendall(OK)

    with ScriptedServer(answer, context) as server, session(make_mesh("")) as client:
        with pytest.raises(requests.exceptions.SSLError):
            client.get(server.url)
        assert client.get(server.url, verify=str(tmp_path / "ca.pem")).text == "ok"


def test_proxies_are_for_hosts_outside_the_mesh_alone(make_mesh: MakeMesh, echo: Callable[[str], EchoServer]) -> None:
    own, proxy = echo("own"), echo("proxy")
    proxies = {"http": f"http://127.0.0.1:{proxy.port}"}
    with session(make_mesh(service("own", own.port))) as client:
        assert client.get("http://own/x", proxies=proxies).json()["name"] == "own"
        assert client.get("http://outside.example/x", proxies=proxies).json()["path"] == "http://outside.example/x"
    assert len(proxy.seen) == 1
