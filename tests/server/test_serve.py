"""`mesh.serve`: PeerAuthentication's modes on one port, identities that rotate, and applications of both kinds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flask
import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request, WebSocket
from meshsdk_fastapi import MeshMiddleware
from meshsdk_flask import MeshFlask
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import meshsdk
from meshsdk.errors import IdentityError
from meshsdk.identities import FileIdentity
from meshsdk.security import Credentials
from meshsdk.server.connections import Teller

from ..certificates import SpiffeCa, spiffe, write_identity
from ..conftest import destination_rule, service
from ..grpc.test_mutual_tls import RollingTrust
from ..patience import PATIENCE, eventually
from ..processes import free_ports
from .running import answers as empty
from .running import identity, mesh_of, one_port, peer_authentication, policy, serving

pytestmark = pytest.mark.usefixtures("each_loop")

# Longer runs say more; this one says that nothing is broken.
ROTATION_SECONDS = float(os.environ.get("MESHSDK_ROTATION_SECONDS", "6"))
MUTUAL = "trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}"


@pytest.fixture(scope="module")
def ca() -> SpiffeCa:
    return SpiffeCa()


async def who_asks(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application that answers with its caller's SPIFFE ID."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = scope["state"]["mesh_peer"].encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-scheme", scope["scheme"].encode())]})
    await send({"type": "http.response.body", "body": body})


def test_without_any_setup_both_sides_have_an_identity_and_prove_it(tmp_path: Path) -> None:
    port = one_port()
    yaml = service("web", port) + destination_rule("web", MUTUAL) + peer_authentication("STRICT")
    with mesh_of(tmp_path, yaml) as mesh, serving(who_asks, mesh, port), mesh.client() as client:
        response = client.get("http://web/")
    assert response.text == "spiffe://cluster.local/ns/default/sa/default"
    assert response.headers["x-scheme"] == "https"


def test_an_answer_leaves_in_one_piece_and_a_stream_piece_by_piece(tmp_path: Path) -> None:
    begins, ends = threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await who_asks(scope, receive, send)
        loop = asyncio.get_running_loop()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await loop.run_in_executor(None, begins.wait)
        await send({"type": "http.response.body", "body": b"ab", "more_body": True})
        await loop.run_in_executor(None, ends.wait)
        await send({"type": "http.response.body", "body": b"cd"})

    port = one_port()
    with (
        mesh_of(tmp_path, service("web", port)) as mesh,
        serving(app, mesh, port),
        socket.create_connection(("127.0.0.1", port), PATIENCE) as client,
    ):
        client.sendall(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1000)
        begins.set()
        client.settimeout(PATIENCE)
        first = client.recv(1000)
        ends.set()
        assert first.startswith(b"HTTP/1.1 200")
        assert first.endswith(b"\r\n\r\nab")
        assert client.recv(1000) == b"cd"


def test_an_application_that_fails_after_its_head_ends_the_connection(tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await who_asks(scope, receive, send)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        raise ValueError("on purpose")

    port = one_port()
    with (
        mesh_of(tmp_path, service("web", port)) as mesh,
        serving(app, mesh, port, log_level="critical"),
        pytest.raises(httpx.RemoteProtocolError),
    ):
        httpx.get(f"http://127.0.0.1:{port}/", headers={"host": "web"})


class SlowIdentity(FileIdentity):
    """Has no certificate when it is asked first, and is long in coming up with one then."""

    def __init__(self, place: Path) -> None:
        super().__init__(place / "cert.pem", place / "key.pem", place / "roots.pem")
        self.is_there = False
        self.is_asked, self.goes_on = threading.Event(), threading.Event()

    def credentials(self) -> Credentials:
        if not self.is_there:
            raise IdentityError("none yet")
        self.is_asked.set()
        self.goes_on.wait(PATIENCE)
        return super().credentials()


def test_a_certificate_that_is_long_in_coming_holds_up_nobody_else(tmp_path: Path, ca: SpiffeCa) -> None:
    port = one_port()
    yaml = service("web", port) + destination_rule("web", MUTUAL) + peer_authentication("PERMISSIVE")
    write_identity(tmp_path / "slow", ca.issue(spiffe("web")), ca.pem)
    slow = SlowIdentity(tmp_path / "slow")
    with (
        mesh_of(tmp_path, yaml, slow) as mesh,
        mesh_of(tmp_path, yaml, identity(tmp_path, ca, "client"), "client") as caller,
        serving(who_asks, mesh, port),
        socket.create_connection(("127.0.0.1", port), PATIENCE) as waiting,
        caller.client() as client,
    ):
        slow.is_there = True
        waiting.sendall(b"\x16\x03\x01")
        assert slow.is_asked.wait(PATIENCE)
        assert httpx.get(f"http://127.0.0.1:{port}/", timeout=PATIENCE).status_code == 200
        slow.goes_on.set()
        assert client.get("http://web/").text == spiffe("client")


@pytest.mark.parametrize(
    ("mode", "plaintext", "mutual"),
    [("STRICT", False, True), ("PERMISSIVE", True, True), ("DISABLE", True, False)],
)
def test_each_mode_takes_what_it_says(tmp_path: Path, ca: SpiffeCa, mode: str, plaintext: bool, mutual: bool) -> None:
    port = one_port()
    yaml = service("web", port) + destination_rule("web", MUTUAL) + peer_authentication(mode)
    server, client_id = identity(tmp_path, ca, "web"), identity(tmp_path, ca, "client")
    with (
        mesh_of(tmp_path, yaml, server) as mesh,
        mesh_of(tmp_path, yaml, client_id, "client") as caller,
        serving(who_asks, mesh, port),
        caller.client() as client,
        httpx.Client() as bare,
    ):
        assert reaches(lambda: bare.get(f"http://127.0.0.1:{port}/")) is plaintext
        assert reaches(lambda: client.get("http://web/")) is mutual


def test_a_port_may_have_a_mode_of_its_own(tmp_path: Path, ca: SpiffeCa) -> None:
    port = one_port()
    selected = f", selector: {{matchLabels: {{app: web}}}}, portLevelMtls: {{{port}: {{mode: DISABLE}}}}"
    yaml = service("web", port) + peer_authentication("STRICT", selected)
    with (
        mesh_of(tmp_path, yaml, identity(tmp_path, ca, "web")) as mesh,
        serving(who_asks, mesh, port),
        httpx.Client() as bare,
    ):
        assert bare.get(f"http://127.0.0.1:{port}/").status_code == 200


def reaches(send: Any) -> bool:
    try:
        return bool(send().status_code == 200)
    except httpx.TransportError:
        return False


def test_principals_are_who_the_certificate_says(tmp_path: Path, ca: SpiffeCa) -> None:
    port = one_port()
    rule = policy("{rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/friend]}}]}]}")
    yaml = service("web", port) + destination_rule("web", MUTUAL) + peer_authentication("STRICT") + rule
    with (
        mesh_of(tmp_path, yaml, identity(tmp_path, ca, "web")) as mesh,
        mesh_of(tmp_path, yaml, identity(tmp_path, ca, "friend"), "friend") as friend,
        mesh_of(tmp_path, yaml, identity(tmp_path, ca, "stranger"), "stranger") as stranger,
        serving(who_asks, mesh, port),
        friend.client() as ours,
        stranger.client() as theirs,
    ):
        assert ours.get("http://web/").text == spiffe("friend")
        refused = theirs.get("http://web/")
    assert (refused.status_code, refused.text) == (403, "RBAC: access denied")


def test_the_server_name_that_a_peer_asked_for_decides(tmp_path: Path, ca: SpiffeCa) -> None:
    port = one_port()
    sni = "outbound_.80_._.web.default.svc.cluster.local"
    rule = policy(f"{{action: DENY, rules: [{{when: [{{key: connection.sni, values: ['{sni}']}}]}}]}}")
    yaml = service("web", port) + destination_rule("web", MUTUAL) + peer_authentication("STRICT") + rule
    own = identity(tmp_path, ca, "web")
    with mesh_of(tmp_path, yaml, own) as mesh, serving(who_asks, mesh, port), mesh.client() as client:
        assert client.get("http://web/").status_code == 403


def test_a_client_of_another_trust_domain_is_not_let_in(tmp_path: Path, ca: SpiffeCa) -> None:
    port = one_port()
    yaml = service("web", port) + destination_rule("web", MUTUAL) + peer_authentication("STRICT")
    other = identity(tmp_path, ca, "client", uri=spiffe("client", "other.domain"))
    with (
        mesh_of(tmp_path, yaml, identity(tmp_path, ca, "web")) as mesh,
        mesh_of(tmp_path, yaml, other, "client") as caller,
        serving(who_asks, mesh, port),
        caller.client() as client,
        pytest.raises(httpx.TransportError),
    ):
        client.get("http://web/")


def test_rotated_certificates_and_roots_are_used_from_the_next_handshake_on(tmp_path: Path) -> None:
    port, old, new = one_port(), SpiffeCa("old"), SpiffeCa("new")
    yaml = service("web", port) + peer_authentication("STRICT")
    place = tmp_path / "web"
    write_identity(place, old.issue(spiffe("web")), old.pem)
    rotating = FileIdentity(place / "cert.pem", place / "key.pem", place / "roots.pem")
    with mesh_of(tmp_path, yaml, rotating) as mesh, serving(who_asks, mesh, port):
        assert handshake(tmp_path, port, old, old)
        write_identity(place, new.issue(spiffe("web")), new.pem)
        assert handshake(tmp_path, port, new, new)
        assert not handshake(tmp_path, port, old, new), "a client of the old root is still trusted"


def handshake(folder: Path, port: int, ours: SpiffeCa, trusted: SpiffeCa) -> bool:
    """Whether a client with a certificate of `ours`, which trusts `trusted`, gets an answer."""
    place = folder / "handshake"
    write_identity(place, ours.issue(spiffe("client")), trusted.pem)
    context = ssl.create_default_context(cafile=str(place / "roots.pem"))
    context.check_hostname = False
    context.load_cert_chain(place / "cert.pem", place / "key.pem")
    with httpx.Client(verify=context) as client, contextlib.suppress(httpx.TransportError):
        return client.get(f"https://127.0.0.1:{port}/").status_code == 200
    return False


def test_certificates_rotated_every_second_under_load_fail_no_request(tmp_path: Path) -> None:
    """Both sides rotate, leaf and root, as meshes do: a root is trusted for a while before and after it is used."""
    port, trust, places = one_port(), RollingTrust(), [tmp_path / "web", tmp_path / "client"]

    def rotate() -> None:
        authority = trust.roll()
        for place, account in zip(places, ("web", "client"), strict=True):
            write_identity(place, authority.issue(spiffe(account)), trust.trusted)

    rotate()
    server, client_id = (FileIdentity(one / "cert.pem", one / "key.pem", one / "roots.pem") for one in places)
    yaml = service("web", port) + destination_rule("web", MUTUAL) + peer_authentication("STRICT")
    stop = threading.Event()
    rotating = threading.Thread(target=lambda: [rotate() for _ in iter(lambda: stop.wait(1.0), True)])
    statuses: Counter[Any] = Counter()
    with (
        mesh_of(tmp_path, yaml, server) as mesh,
        mesh_of(tmp_path, yaml, client_id, "caller") as caller,
        serving(who_asks, mesh, port),
    ):
        rotating.start()
        began = time.monotonic()
        try:
            while (passed := time.monotonic() - began) < ROTATION_SECONDS or statuses[200] <= 100:
                assert passed < ROTATION_SECONDS + PATIENCE
                with caller.client() as client:  # Its connections are its own: a handshake for each client.
                    for _ in range(20):
                        statuses[client.get("http://web/").status_code] += 1
        finally:
            stop.set()
            rotating.join()
    assert set(statuses) == {200}


def test_an_identity_that_cannot_be_had_says_what_to_do(tmp_path: Path) -> None:
    bootstrap = {"xds_servers": [{"server_uri": "127.0.0.1:1", "channel_creds": [{"type": "insecure"}]}]}
    with meshsdk.Mesh(bootstrap=bootstrap) as mesh, pytest.raises(IdentityError, match=r"pass Mesh\(identity="):
        mesh.ssl_context()


def test_fastapi_gets_the_peer_and_websockets_pass_policy_too(tmp_path: Path) -> None:
    port = one_port()
    app = FastAPI()

    @app.get("/who")
    def who(request: Request) -> str:
        return str(request.state.mesh_peer)

    @app.websocket("/chat")
    async def chat(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(await socket.receive_text())
        await socket.close()

    deny = policy("{action: DENY, rules: [{to: [{operation: {paths: [/closed]}}]}]}")
    yaml = service("web", port) + destination_rule("web", MUTUAL) + deny
    with mesh_of(tmp_path, yaml) as mesh:
        app.add_middleware(MeshMiddleware, mesh=mesh, port=port)  # Beside the one of serve: it decides once.
        with serving(app, mesh, port), mesh.client() as client:
            assert client.get("http://web/who").json() == "spiffe://cluster.local/ns/default/sa/default"
            assert client.get("http://web/closed").status_code == 403
            assert upgrade(port, "/closed").startswith(b"HTTP/1.1 403")


def upgrade(port: int, path: str) -> bytes:
    """The status line that a websocket handshake is answered with."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        return connection.recv(4096)


def test_flask_runs_in_threads_and_gets_the_peer(tmp_path: Path) -> None:
    port = one_port()
    app = flask.Flask("web")

    @app.post("/echo")
    def echo() -> str:
        return f"{flask.g.mesh_peer} {flask.request.get_data(as_text=True)}"

    yaml = service("web", port) + destination_rule("web", MUTUAL) + peer_authentication("STRICT")
    with mesh_of(tmp_path, yaml) as mesh:
        MeshFlask(app, mesh=mesh, port=port)
        with serving(app, mesh, port), mesh.client() as client:
            response = client.post("http://web/echo", content=b"x" * 100_000)
    assert response.text == "spiffe://cluster.local/ns/default/sa/default " + "x" * 100_000


def test_clients_that_are_idle_over_tls_do_not_hold_up_a_server_that_stops(tmp_path: Path) -> None:
    port = one_port()
    yaml = service("web", port) + destination_rule("web", MUTUAL) + peer_authentication("STRICT")
    with mesh_of(tmp_path, yaml) as mesh, mesh.client() as client:
        with serving(who_asks, mesh, port) as server:
            for _ in range(3):
                assert client.get("http://web/").status_code == 200
            server.should_exit, began = True, time.monotonic()
        assert time.monotonic() - began < 15, "asyncio waits 30 seconds for the end of a peer's TLS"


def test_a_request_under_way_is_finished_before_the_server_stops(tmp_path: Path) -> None:
    port, begun = one_port(), threading.Event()
    app = flask.Flask("web")

    @app.get("/slow")
    def slow() -> str:
        begun.set()
        time.sleep(0.3)
        return "done"

    answers: list[str] = []
    with mesh_of(tmp_path, service("web", port)) as mesh:
        with serving(app, mesh, port):
            thread = threading.Thread(target=lambda: answers.append(httpx.get(f"http://127.0.0.1:{port}/slow").text))
            thread.start()
            assert begun.wait(PATIENCE)
        thread.join(PATIENCE)
    assert answers == ["done"]


def auto_service(*ports: int, labelled: int) -> str:
    """A service of several endpoints, of which one says that it takes mutual TLS."""
    yaml = service("web", *ports)
    marked = f"labels: {{app: web, security.istio.io/tlsMode: istio}}, ports: {{http: {labelled}}}"
    return yaml.replace(f"labels: {{app: web}}, ports: {{http: {labelled}}}", marked)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["httpx", "httpx async"])
def test_mutual_tls_is_spoken_with_endpoints_that_take_it_and_plaintext_with_the_others(
    tmp_path: Path, asynchronous: bool
) -> None:
    secured, plain = free_ports(2)
    with (
        mesh_of(tmp_path, auto_service(secured, plain, labelled=secured)) as mesh,
        serving(who_asks, mesh, secured),
        serving(who_asks, mesh, plain),
    ):
        answers = asyncio.run(ask_async(mesh)) if asynchronous else ask(mesh)
    assert set(answers) == {("https", "spiffe://cluster.local/ns/default/sa/default"), ("http", "")}


def ask(mesh: meshsdk.Mesh) -> list[tuple[str, str]]:
    with mesh.client() as client:
        return [(one.headers["x-scheme"], one.text) for one in (client.get("http://web/") for _ in range(40))]


async def ask_async(mesh: meshsdk.Mesh) -> list[tuple[str, str]]:
    async with mesh.async_client() as client:
        answers = [await client.get("http://web/") for _ in range(40)]
        return [(one.headers["x-scheme"], one.text) for one in answers]


@pytest.mark.parametrize(
    ("more", "scheme"),
    [
        ("", "https"),
        (peer_authentication("STRICT"), "https"),
        (peer_authentication("DISABLE"), "http"),
        (destination_rule("web", "trafficPolicy: {tls: {mode: DISABLE}}"), "http"),
        (
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n"
            "data: {mesh: 'enableAutoMtls: false'}\n",
            "http",
        ),
    ],
    ids=["PERMISSIVE", "STRICT", "DISABLE", "DestinationRule", "MeshConfig"],
)
def test_auto_mutual_tls_goes_by_what_the_mesh_says(tmp_path: Path, more: str, scheme: str) -> None:
    port = one_port()
    with (
        mesh_of(tmp_path, auto_service(port, labelled=port) + more) as mesh,
        serving(who_asks, mesh, port),
        mesh.client() as client,
    ):
        assert client.get("http://web/").headers["x-scheme"] == scheme


PROTOCOL = "meshsdk.server.uvicorn_protocol:MeshProtocol"


@contextlib.contextmanager
def serving_by_protocol(app: Any, mesh: meshsdk.Mesh, port: int) -> Iterator[None]:
    """The application as uvicorn's own command serves it."""
    server = uvicorn.Server(
        uvicorn.Config(MeshMiddleware(app, mesh=mesh, port=port), port=port, http=PROTOCOL, log_level="warning")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started)
        yield
    finally:
        server.should_exit = True
        thread.join(PATIENCE)


SERVERS = {
    "mesh.serve": serving,
    "uvicorn": serving_by_protocol,
}


@pytest.mark.parametrize("kind", SERVERS)
def test_connections_of_a_mode_that_is_over_are_sent_away_and_what_is_under_way_is_answered(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only where uvicorn loads the protocol; elsewhere in this process it is not there.
    monkeypatch.setattr(Teller, "is_here", kind == "uvicorn")
    port, begun, may_end = one_port(), threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            while (await receive())["type"] != "websocket.disconnect":
                pass
            return
        if scope.get("path") == "/slow":
            begun.set()
            await asyncio.to_thread(may_end.wait, PATIENCE)
        await empty(scope, receive, send)

    def ask(connection: socket.socket, path: str) -> None:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())

    mesh = mesh_of(tmp_path, service("web", port) + peer_authentication("PERMISSIVE"))
    with mesh, SERVERS[kind](app, mesh, port), contextlib.ExitStack() as stack:
        idle, busy = (stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE)) for _ in range(2))
        chat = stack.enter_context(connect(f"ws://127.0.0.1:{port}/"))
        ask(idle, "/")
        assert idle.recv(1000).startswith(b"HTTP/1.1 200 ")
        ask(busy, "/slow")
        assert begun.wait(PATIENCE)
        (tmp_path / "mesh" / "mesh.yaml").write_text(service("web", port) + peer_authentication("STRICT"))
        assert idle.recv(1000) == b"", "it is closed, and nothing is answered that nobody asked"
        with pytest.raises(ConnectionClosed):
            chat.recv(PATIENCE)
        may_end.set()
        answer = b""
        while piece := busy.recv(1000):
            answer += piece
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\n")
