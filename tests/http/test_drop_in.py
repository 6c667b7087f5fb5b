"""What a user of httpx sees over the mesh is what httpx shows by itself: the same things are asked of both."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h2.events
import httpx
import httpx2
import pytest
import trustme

import meshsdk
from tests.conftest import service, virtual_service
from tests.loops import LOOPS
from tests.servers import EchoServer, ScriptedServer, read_head

from .callers import Caller
from .http2_peer import Http2Peer

MakeCaller = Callable[..., Caller]
VARIANTS = [("sync", httpx), *((loop, httpx) for loop in LOOPS), ("sync", httpx2), ("asyncio", httpx2)]
NAME = "a.example"


@pytest.fixture(params=VARIANTS, ids=lambda variant: f"{variant[0]}-{variant[1].__name__}")
def variant(request: pytest.FixtureRequest) -> tuple[str, Any]:
    """A kind of client, and whose."""
    found: tuple[str, Any] = request.param
    return found


@pytest.fixture
def kind(variant: tuple[str, Any]) -> str:
    """Of client."""
    return variant[0]


@pytest.fixture
def library(variant: tuple[str, Any]) -> Any:
    """Whose client."""
    return variant[1]


@pytest.fixture
def mesh(tmp_path: Path, stack: ExitStack) -> meshsdk.Mesh:
    """One that knows no host."""
    (tmp_path / "empty").mkdir()
    return stack.enter_context(meshsdk.Mesh(config=tmp_path / "empty"))


@pytest.fixture
def meshed(mesh: meshsdk.Mesh, kind: str, library: Any, stack: ExitStack) -> MakeCaller:
    """Makes a caller over the mesh."""
    return lambda **options: stack.enter_context(contextlib.closing(Caller(mesh, kind, library, **options)))


@pytest.fixture
def bare(kind: str, library: Any, stack: ExitStack) -> MakeCaller:
    """Makes one of the library's own."""
    return lambda **options: stack.enter_context(contextlib.closing(Caller(None, kind, library, **options)))


def outcome(call: Callable[[], Any]) -> tuple[type[BaseException], str] | None:
    """What a call raises."""
    try:
        call()
    except (httpx.HTTPError, httpx2.HTTPError) as error:
        return type(error), str(error)
    return None


@pytest.mark.parametrize(
    "url", ["invalid://example.org", "://example.org", "http://", "https://", "/relative", "ftp://example.org/x"]
)
def test_a_url_that_says_of_no_server_is_refused_in_httpxs_words(
    meshed: MakeCaller, bare: MakeCaller, url: str, library: Any
) -> None:
    theirs = outcome(lambda: bare().get(url))
    assert theirs is not None
    assert theirs[0] is library.UnsupportedProtocol
    assert outcome(lambda: meshed().get(url)) == theirs


def test_a_websockets_url_is_refused_by_name(meshed: MakeCaller, library: Any) -> None:
    with pytest.raises(library.UnsupportedProtocol, match="WebSockets"):
        meshed().get("ws://example.org/")


def answers(*responses: bytes) -> Callable[[socket.socket, int], None]:
    """A script that gives each request of a connection its response."""

    def script(connection: socket.socket, number: int) -> None:
        for response in responses:
            if not read_head(connection):
                return
            connection.sendall(response)
        connection.recv(1)

    return script


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def test_a_counted_connection_is_busy_until_its_response_is_read(meshed: MakeCaller, library: Any) -> None:
    with ScriptedServer(answers(*[OK] * 3)) as server:
        caller = meshed(limits=library.Limits(max_connections=1), timeout=library.Timeout(60, pool=0.01))
        if caller.is_async:

            async def run() -> None:
                async with caller.async_client.stream("GET", server.url) as response:
                    with pytest.raises(library.PoolTimeout):
                        await caller.async_client.get(server.url)
                    await response.aread()
                    assert (await caller.async_client.get(server.url)).text == "ok"
                async with caller.async_client.stream("GET", server.url):
                    pass

            caller.run(run)
        else:
            with caller.client.stream("GET", server.url) as response:
                with pytest.raises(library.PoolTimeout):
                    caller.client.get(server.url)
                response.read()
                assert caller.client.get(server.url).text == "ok"
            with caller.client.stream("GET", server.url):
                pass
        assert (server.accepted, caller.pool_size, len(caller.idle)) == (1, 1, 1)


def test_a_response_says_which_protocol_and_words_it_came_with(meshed: MakeCaller, bare: MakeCaller) -> None:
    scripted = [
        b"HTTP/1.1 200 Not Quite Fine\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 404\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.0 200 Old\r\ncontent-length: 0\r\n\r\n",
    ]
    with ScriptedServer(answers(*scripted)) as server:
        told = []
        for caller in (meshed(), bare()):
            responses = [caller.get(server.url) for _ in scripted]
            told.append([(one.status_code, one.reason_phrase, one.http_version) for one in responses])
            told[-1].append([one.extensions["reason_phrase"] for one in responses])
    assert told[0] == told[1]
    assert told[0][0] == (200, "Not Quite Fine", "HTTP/1.1")
    assert told[0][2] == (200, "Old", "HTTP/1.0")


@pytest.mark.parametrize("target", [b"*", b"http://other.example/x?y=1", b"/a%zz//b"])
def test_the_extension_target_is_what_is_asked(
    meshed: MakeCaller, bare: MakeCaller, echo: Callable[[str], EchoServer], target: bytes
) -> None:
    server = echo("echo")
    for caller in (meshed(), bare()):
        caller("OPTIONS", f"http://127.0.0.1:{server.port}/x", extensions={"target": target})
    assert [seen["path"] for seen in server.seen] == [target.decode()] * 2


def test_a_target_that_would_end_its_line_is_refused(
    meshed: MakeCaller, echo: Callable[[str], EchoServer], library: Any
) -> None:
    server = echo("echo")
    with pytest.raises(library.LocalProtocolError):
        meshed().get(f"http://127.0.0.1:{server.port}/", extensions={"target": b"/ HTTP/1.1\r\nx: y\r\n\r\n"})
    assert server.seen == []


def test_routes_go_by_the_target_that_is_asked(
    make_mesh: Callable[..., meshsdk.Mesh], echo: Callable[[str], EchoServer], kind: str, library: Any
) -> None:
    one, other = echo("one"), echo("other")
    routes = (
        "[{match: [{uri: {prefix: /other}}], route: [{destination: {host: b}}]}, {route: [{destination: {host: a}}]}]"
    )
    mesh = make_mesh(service("a", one.port) + "---\n" + service("b", other.port) + virtual_service("a", routes))
    with contextlib.closing(Caller(mesh, kind, library)) as caller:
        assert caller.get("http://a/x", extensions={"target": b"/other/x"}).json()["name"] == "other"
        assert caller.get("http://a/other").json()["name"] == "other"
        assert caller.get("http://a/x").json()["name"] == "one"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def secured(authority: trustme.CA, *names: str, protocol: str = "http/1.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    context.set_alpn_protocols([protocol])
    return context


def http2(connection: socket.socket, number: int) -> None:
    """Answers every request."""
    Http2Peer(connection).serve(b"ok")


def test_sni_hostname_is_whom_a_server_must_prove_to_be(
    meshed: MakeCaller, authority: trustme.CA, trusting: ssl.SSLContext, library: Any
) -> None:
    with ScriptedServer(answers(OK, OK), secured(authority, NAME)) as server:
        caller = meshed(verify=trusting)
        asked = {"sni_hostname": NAME}
        assert caller.get(server.url, extensions=asked).text == "ok"
        # The connection that was proven to be another's is not used for the address.
        with pytest.raises(library.ConnectError, match=r"certificate|127\.0\.0\.1"):
            caller.get(server.url)
        assert caller.get(server.url, extensions=asked).text == "ok"
        assert server.accepted == 2


@pytest.fixture(params=["http", "https", "http2"])
def peer(request: pytest.FixtureRequest, authority: trustme.CA) -> Iterator[ScriptedServer]:
    """A server of each protocol."""
    script = http2 if request.param == "http2" else answers(OK, OK)
    protocol = "h2" if request.param == "http2" else "http/1.1"
    tls = secured(authority, "127.0.0.1", protocol=protocol) if request.param != "http" else None
    with ScriptedServer(script, tls) as server:
        yield server


def traced(caller: Caller, url: str, events: list[tuple[str, dict[str, Any]]]) -> Any:
    """Ask, and note the events."""

    def note(name: str, info: dict[str, Any]) -> None:
        # Settings come when they come.
        if "receive_remote_settings" not in name:
            events.append((name, info))

    async def note_async(name: str, info: dict[str, Any]) -> None:
        note(name, info)

    return caller.get(url, extensions={"trace": note_async if caller.is_async else note})


def test_trace_is_told_of_what_httpcore_tells(
    meshed: MakeCaller, bare: MakeCaller, peer: ScriptedServer, trusting: ssl.SSLContext
) -> None:
    told: list[list[tuple[str, list[str]]]] = []
    for caller in (meshed(verify=trusting, http2=True), bare(verify=trusting, http2=True)):
        events: list[tuple[str, dict[str, Any]]] = []
        for _ in range(2):
            assert traced(caller, peer.url, events).text == "ok"
        told.append([(name, sorted(info)) for name, info in events])
        [head] = [info for name, info in events[: len(events) // 2 + 4] if name.endswith("headers.complete")][1:2]
        assert 200 in head["return_value"]
    assert told[0] == told[1]


def test_trace_is_told_of_a_connection_that_fails(meshed: MakeCaller, bare: MakeCaller, library: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        names = []
        for caller in (meshed(), bare()):
            events: list[tuple[str, dict[str, Any]]] = []
            with pytest.raises(library.ConnectError):
                traced(caller, url, events)
            names.append([name for name, _ in events])
            assert isinstance(events[-1][1]["exception"], Exception)
    assert names[0] == names[1] == ["connection.connect_tcp.started", "connection.connect_tcp.failed"]


@pytest.mark.parametrize("said", [b"", OK[:-1]])
def test_trace_is_told_of_an_answer_that_breaks_off(
    meshed: MakeCaller, bare: MakeCaller, said: bytes, library: Any
) -> None:
    def breaks(connection: socket.socket, number: int) -> None:
        read_head(connection)
        connection.sendall(said)

    names = []
    with ScriptedServer(breaks) as server:
        for caller in (meshed(), bare()):
            events: list[tuple[str, dict[str, Any]]] = []
            with pytest.raises(library.RemoteProtocolError):
                traced(caller, server.url, events)
            names.append([name for name, _ in events])
    assert names[0] == names[1]


def test_a_trace_of_the_wrong_kind_is_refused(meshed: MakeCaller, echo: Callable[[str], EchoServer]) -> None:
    server, caller = echo("echo"), meshed()

    async def later(name: str, info: Any) -> None: ...

    with pytest.raises(TypeError, match="trace"):
        caller.get(
            f"http://127.0.0.1:{server.port}/",
            extensions={"trace": (lambda name, info: None) if caller.is_async else later},
        )


def test_the_network_stream_tells_of_its_connection(
    meshed: MakeCaller, bare: MakeCaller, peer: ScriptedServer, trusting: ssl.SSLContext
) -> None:
    told = []
    for caller in (meshed(verify=trusting, http2=True), bare(verify=trusting, http2=True)):
        responses = [caller.get(peer.url) for _ in range(2)]
        stream = responses[0].extensions["network_stream"]
        assert stream.get_extra_info("client_addr")[0] == "127.0.0.1"
        assert stream.get_extra_info("socket").fileno() > 0
        assert stream.get_extra_info("nothing") is None
        tls = stream.get_extra_info("ssl_object")
        told.append(
            (
                stream.get_extra_info("server_addr"),
                bool(stream.get_extra_info("is_readable")),
                tls and (tls.version(), tls.selected_alpn_protocol(), tls.getpeercert()["subjectAltName"]),
                [response.extensions.get("stream_id") for response in responses],
                sorted(set(responses[0].extensions) - {"mesh", "trailing_headers"}),
            )
        )
    assert told[0] == told[1]


def refuses(connection: socket.socket, number: int) -> None:
    """Says so, and goes away."""
    read_head(connection)
    connection.sendall(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 7\r\nconnection: close\r\n\r\ntoo big")


def test_a_server_that_refuses_an_upload_and_goes_is_heard(meshed: MakeCaller) -> None:
    with ScriptedServer(refuses) as server:
        caller = meshed()
        chunk = b"x" * 200_000
        for content in (b"x" * 8_000_000, caller.body(*[chunk] * 40), caller.body(chunk, 0.05, chunk, 0.05, chunk)):
            response = caller("POST", server.url, content=content)
            assert (response.status_code, response.text) == (413, "too big")


@pytest.mark.parametrize("unknown_hosts", ["allow", "deny"])
def test_a_mount_for_a_scheme_of_its_own_is_used_where_unknown_hosts_are_allowed(
    tmp_path: Path, kind: str, unknown_hosts: Any, library: Any
) -> None:
    mounts = {"custom://": library.MockTransport(lambda request: library.Response(204))}
    with (
        meshsdk.Mesh(config=tmp_path, unknown_hosts=unknown_hosts) as mesh,
        contextlib.closing(Caller(mesh, kind, library, mounts=mounts)) as caller,
    ):
        if unknown_hosts == "allow":
            assert caller.get("custom://example.org/").status_code == 204
        else:
            with pytest.raises(library.UnsupportedProtocol):
                caller.get("custom://example.org/")


GEVENT = """
    from gevent import monkey

    monkey.patch_all()
    import ssl, sys, threading
    import gevent, httpx
    import meshsdk

    mesh = meshsdk.Mesh(config=sys.argv[1])
    context = ssl.create_default_context(cafile=sys.argv[2])
    client = mesh.client(timeout=httpx.Timeout(60, read=0.3), verify=context, http2=True)
    told = []
    for url in sys.argv[3:]:
        meanwhile = []

        def look():
            while True:
                gevent.sleep(0.01)
                meanwhile.append(url)

        other = gevent.spawn(look)
        told.append(client.get(url + "at-once").text)
        try:
            client.get(url + "never")
        except httpx.ReadTimeout:
            told.append("ReadTimeout")
        told.append(client.post(url + "at-once", content=b"x" * 3_000_000).text)
        other.kill()
        told.append(len(meanwhile) > 3)
    print(told)
    client.close()
    mesh.close()
"""


def test_under_gevent_read_timeouts_hold_and_others_run(tmp_path: Path, authority: trustme.CA) -> None:
    def silent(connection: socket.socket, number: int) -> None:
        while (head := read_head(connection)) and b"/never" not in head:
            if b"3000000" in head:
                left = 3_000_000 - len(head.partition(b"\r\n\r\n")[2])
                while left:
                    left -= len(connection.recv(min(left, 65536)))
            connection.sendall(OK)
        connection.recv(1)

    def silent_http2(connection: socket.socket, number: int) -> None:
        peer = Http2Peer(connection)
        while (":path", "/never") not in (request := peer.wait_for(h2.events.RequestReceived)).headers:
            if (":method", "POST") in request.headers:
                peer.wait_for(h2.events.StreamEnded)
            peer.answer(request.stream_id)
        connection.recv(1)

    (tmp_path / "mesh").mkdir()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    (tmp_path / "case.py").write_text(textwrap.dedent(GEVENT))
    with ExitStack() as stack:
        tls = [secured(authority, "127.0.0.1", protocol=name) for name in ("http/1.1", "h2")]
        servers = [ScriptedServer(silent), ScriptedServer(silent, tls[0]), ScriptedServer(silent_http2, tls[1])]
        urls = [stack.enter_context(server).url for server in servers]
        arguments = [tmp_path / "case.py", tmp_path / "mesh", tmp_path / "ca.pem", *urls]
        ran = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=100)
    assert ran.stdout.strip() == str(["ok", "ReadTimeout", "ok", True] * 3), ran.stderr
