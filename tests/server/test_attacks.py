"""What an attacker would try. Each must be refused, or do nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from meshsdk.errors import NoRouteError
from meshsdk.server.asgi import AsgiMiddleware

from ..certificates import SpiffeCa, spiffe
from ..conftest import destination_rule, service
from ..differential.tokens import ISSUERS, TOKENS, signed, signed_text
from ..patience import PATIENCE
from .running import identity, mesh_of, one_port, peer_authentication, policy, serving
from .test_serve import MUTUAL


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with what the application sees."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
    body = json.dumps({"path": scope["path"], "raw": scope["raw_path"].decode("latin-1"), "headers": headers})
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body.encode()})


def mesh_config(normalization: str) -> str:
    return (
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n"
        f"data: {{mesh: 'pathNormalization: {{normalization: {normalization}}}'}}\n"
    )


def raw(port: int, request: bytes, seconds: float = 1.5) -> bytes:
    """What a server says to bytes as they are."""
    with socket.create_connection(("127.0.0.1", port), seconds) as connection:
        connection.sendall(request)
        received = b""
        with contextlib.suppress(OSError):
            while chunk := connection.recv(65536):
                received += chunk
    return received


def get(port: int, target: str, *headers: str) -> bytes:
    lines = "".join(f"{header}\r\n" for header in ("host: web", *headers, "connection: close"))
    return raw(port, f"GET {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1"))


ADMIN = "{action: DENY, rules: [{to: [{operation: {paths: [/admin, /admin/*]}}]}]}"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server whose /admin is closed, with every normalization that Istio has."""
    port = one_port()
    yaml = service("web", port) + policy(ADMIN) + mesh_config("DECODE_AND_MERGE_SLASHES")
    with mesh_of(tmp_path_factory.mktemp("guarded"), yaml) as mesh, serving(echo, mesh, port):
        yield port


@pytest.mark.parametrize(
    "target",
    [
        "/admin",
        "/admin/",
        "//admin",
        "/admin//x",
        "/./admin",
        "/x/../admin",
        "/%61dmin",
        "/x/%2e%2e/admin",
        "/x/%2E%2E/admin",
        "/x/..%2fadmin",
        "/x/..%5cadmin",
        "\\admin".replace("\\", "/"),
        "/x\\..\\admin",
        "/admin?x=1",
        "/admin#x",
        "http://web/admin",
        "http://other/x/../admin",
    ],
)
def test_no_spelling_of_a_closed_path_is_open(guarded: int, target: str) -> None:
    assert get(guarded, target).split(b"\r\n")[0] in (b"HTTP/1.1 403 Forbidden", b"HTTP/1.1 400 Bad Request")


@pytest.mark.parametrize("target", ["/Admin", "/admin;x", "/admin%00", "/adminx", "/x/%252e%252e/admin"])
def test_what_policy_and_application_see_of_a_path_is_the_same(guarded: int, target: str) -> None:
    """Other paths than the closed one: they are refused, or reach the application as policy has seen them."""
    answer = get(guarded, target)
    if answer.startswith(b"HTTP/1.1 200"):
        seen = json.loads(answer[answer.index(b"{") : answer.rindex(b"}") + 1])
        assert seen["path"] not in ("/admin", "/admin/")
        assert not seen["path"].startswith("/admin/")
    else:
        assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 403"))


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET / HTTP/1.1\r\nhost: web\r\nhost: other\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /admin",
        b"GET / HTTP/1.1\r\nhost: web\r\nx: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: web\r\n:path: /other\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nhost: web\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_ambiguous_requests_are_refused(guarded: int, request_head: bytes) -> None:
    assert not raw(guarded, request_head).startswith(b"HTTP/1.1 200")


def test_a_header_twice_is_judged_by_every_value(tmp_path: Path) -> None:
    port = one_port()
    rule = policy("{action: DENY, rules: [{when: [{key: 'request.headers[x-role]', values: [evil]}]}]}")
    with mesh_of(tmp_path, service("web", port) + rule) as mesh, serving(echo, mesh, port):
        assert b" 403 " in get(port, "/", "x-role: good", "x-role: evil")
        assert b" 403 " in get(port, "/", "X-ROLE: evil")
        assert b" 200 " in get(port, "/", "x-role: good")


def test_who_a_proxy_saw_is_not_believed_of_a_stranger(tmp_path: Path) -> None:
    port = one_port()
    forged = f"x-forwarded-client-cert: By=spiffe://x;URI={spiffe('admin')}"
    rule = policy("{rules: [{from: [{source: {principals: ['*']}}]}, {to: [{operation: {paths: [/open]}}]}]}")
    with mesh_of(tmp_path, service("web", port) + rule) as mesh, serving(echo, mesh, port):
        assert b" 403 " in get(port, "/", forged)
        answer = get(port, "/open", forged)
    assert b" 200 " in answer
    assert b"x-forwarded-client-cert" not in answer


def test_our_own_peer_is_told_to_the_application(tmp_path: Path) -> None:
    port, ca = one_port(), SpiffeCa()
    yaml = service("web", port) + destination_rule("web", MUTUAL) + peer_authentication("STRICT")
    with (
        mesh_of(tmp_path, yaml, identity(tmp_path, ca, "web")) as mesh,
        mesh_of(tmp_path, yaml, identity(tmp_path, ca, "client"), "client") as caller,
        serving(echo, mesh, port),
        caller.client() as client,
    ):
        seen = dict(
            client.get("http://web/", headers={"x-forwarded-client-cert": "URI=spiffe://proxy"}).json()["headers"]
        )
    assert seen["x-forwarded-client-cert"].startswith("URI=spiffe://proxy,")
    assert f",By={spiffe('web')};Hash=" in seen["x-forwarded-client-cert"]
    assert f"URI={spiffe('client')}" in seen["x-forwarded-client-cert"]


KEYS = json.dumps(ISSUERS["one"])
JWT = f"{{jwtRules: [{{issuer: one, audiences: [a1], jwks: '{KEYS}'}}]}}"
NEEDS_TOKEN = "{rules: [{from: [{source: {requestPrincipals: ['*']}}]}]}"


@pytest.mark.parametrize("token", [name for name in TOKENS if not name.startswith(("one", "within", "two", "cookies"))])
def test_no_bad_token_gets_in(token_server: int, token: str) -> None:
    answer = get(token_server, "/", f"authorization: Bearer {TOKENS[token]}")
    assert answer.split(b" ")[1] in (b"401", b"403")


def test_a_good_token_does_and_none_does_not(token_server: int) -> None:
    assert b" 200 " in get(token_server, "/", f"authorization: Bearer {TOKENS['one']}")
    assert b" 403 " in get(token_server, "/")


def test_a_claim_cannot_make_a_header_of_its_own(tmp_path: Path) -> None:
    port = one_port()
    claims = "outputClaimToHeaders: [{header: x-sub, claim: sub}]"
    rules = f"{{jwtRules: [{{issuer: one, jwks: '{KEYS}', {claims}}}]}}"
    yaml = service("web", port) + policy(rules, "jwt", "RequestAuthentication")
    token = signed({"iss": "one", "sub": "a\r\nx-evil: 1"})
    with mesh_of(tmp_path, yaml) as mesh, serving(echo, mesh, port), httpx.Client() as client:
        answer = client.get(f"http://127.0.0.1:{port}/", headers={"authorization": f"Bearer {token}"})
    assert ["x-sub", "ax-evil: 1"] in answer.json()["headers"]


@pytest.mark.parametrize("number", ["1" + "0" * 308, "1" + "0" * 309, "-1" + "0" * 4000, "1e400", "1" + "0" * 5000])
def test_a_claim_that_no_number_can_be_makes_a_token_bad_and_no_error_of_ours(tmp_path: Path, number: str) -> None:
    """Envoy's numbers are doubles; the first one is the last that fits."""
    port = one_port()
    claims = "outputClaimToHeaders: [{header: x-number, claim: number}]"
    rules = f"{{jwtRules: [{{issuer: one, jwks: '{KEYS}', {claims}}}]}}"
    yaml = service("web", port) + policy(rules, "jwt", "RequestAuthentication")
    token = signed_text(f'{{"iss": "one", "number": {number}}}'.encode())
    with mesh_of(tmp_path, yaml) as mesh, serving(echo, mesh, port), httpx.Client() as client:
        answer = client.get(f"http://127.0.0.1:{port}/", headers={"authorization": f"Bearer {token}"})
    fits = len(number) == 309
    assert answer.status_code == (200 if fits else 401), answer.text
    if fits:
        assert ["x-number", number] in answer.json()["headers"]


def test_a_giant_token_is_refused_at_once(token_server: int) -> None:
    giant = signed({"iss": "one", "aud": "a1", "x": "y" * 100_000})
    began = time.monotonic()
    assert not get(token_server, "/", f"authorization: Bearer {giant}").startswith(b"HTTP/1.1 200")
    assert time.monotonic() - began < 20


@pytest.fixture(scope="module")
def token_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port = one_port()
    yaml = service("web", port) + policy(JWT, "jwt", "RequestAuthentication") + policy(NEEDS_TOKEN)
    with mesh_of(tmp_path_factory.mktemp("tokens"), yaml) as mesh, serving(echo, mesh, port):
        yield port


class Keys(BaseHTTPRequestHandler):
    """Where keys are fetched from; `mode` says how it behaves."""

    mode = "good"
    fetched = 0

    def do_GET(self) -> None:
        type(self).fetched += 1
        self.send_response(200)
        self.end_headers()
        if self.mode == "hangs":
            time.sleep(3)
        elif self.mode == "huge":
            with contextlib.suppress(OSError):
                for _ in range(100):
                    self.wfile.write(b" " * 1_000_000)
        else:
            self.wfile.write(json.dumps(ISSUERS["one"]).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize("mode", ["good", "hangs", "huge"])
def test_keys_are_fetched_once_and_their_server_cannot_harm_us(tmp_path: Path, mode: str) -> None:
    keys = type("Keys", (Keys,), {"mode": mode, "fetched": 0})
    port = one_port()
    with ThreadingHTTPServer(("127.0.0.1", 0), keys) as issuer:
        threading.Thread(target=issuer.serve_forever, daemon=True).start()
        uri, timeout = f"http://127.0.0.1:{issuer.server_port}/keys", "0.5s" if mode == "hangs" else "20s"
        rules = f"{{jwtRules: [{{issuer: one, jwksUri: '{uri}', timeout: {timeout}}}]}}"
        yaml = service("web", port) + policy(rules, "jwt", "RequestAuthentication") + policy(NEEDS_TOKEN)
        with mesh_of(tmp_path, yaml) as mesh, serving(echo, mesh, port):
            began = time.monotonic()
            statuses = {get(port, "/", f"authorization: Bearer {TOKENS['one']}").split(b" ")[1] for _ in range(3)}
            took = time.monotonic() - began
        issuer.shutdown()
    assert statuses == ({b"200"} if mode == "good" else {b"401"})
    assert keys.fetched <= 2
    assert took < 4


def test_peers_that_say_nothing_keep_nobody_else_waiting(guarded: int) -> None:
    silent = [socket.create_connection(("127.0.0.1", guarded), PATIENCE) for _ in range(100)]
    slow = [socket.create_connection(("127.0.0.1", guarded), PATIENCE) for _ in range(20)]
    for one in slow:
        one.sendall(b"\x16\x03\x01")  # The beginning of a TLS hello, and then nothing.
    try:
        assert httpx.get(f"http://127.0.0.1:{guarded}/", timeout=PATIENCE).status_code == 200
    finally:
        for one in silent + slow:
            one.close()


def test_plaintext_of_any_kind_gets_no_answer_where_mutual_tls_is_required(tmp_path: Path) -> None:
    port = one_port()
    yaml = service("web", port) + peer_authentication("STRICT")
    with mesh_of(tmp_path, yaml) as mesh, serving(echo, mesh, port):
        assert raw(port, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") == b""
        assert get(port, "/") == b""
        assert raw(port, b"\x00" * 100) == b""


def test_a_regular_expression_that_would_hang_others_costs_nothing(tmp_path: Path) -> None:
    port = one_port()
    rule = policy("{action: DENY, rules: [{from: [{source: {namespaces: ['(a+)+$']}}]}]}")
    with mesh_of(tmp_path, service("web", port) + rule) as mesh, serving(echo, mesh, port):
        began = time.monotonic()
        assert b" 200 " in get(port, "/", "x-a: " + "a" * 5000)
        assert time.monotonic() - began < 20


def test_a_policy_that_cannot_be_read_lets_nobody_in(tmp_path: Path) -> None:
    port = one_port()
    rule = policy("{action: DENY, rules: [{to: [{operation: {pathes: [/x]}}]}]}")
    with mesh_of(tmp_path, service("web", port) + rule) as mesh:
        with pytest.raises(Exception, match="pathes"):
            mesh.inbound(port, address="127.0.0.1").wait_ready()
        app = AsgiMiddleware(echo, mesh=mesh, port=port)

        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://web") as client:
                return await client.get("/")

        response = asyncio.run(ask())
    assert (response.status_code, response.text) == (503, "no inbound policy")


def test_a_listener_that_cannot_be_read_is_not_replaced_by_an_open_one(tmp_path: Path) -> None:
    port = one_port()
    unknown = {"name": "x", "typed_config": {"@type": "type.googleapis.com/envoy.no.such.Filter"}}
    document = {
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": f"xds.istio.io/grpc/lds/inbound/127.0.0.1:{port}",
        "filter_chains": [{"filters": [unknown]}],
    }
    with (
        mesh_of(tmp_path, service("web", port) + "---\n" + json.dumps(document)) as mesh,
        pytest.raises(NoRouteError, match="nobody gets in"),
    ):
        mesh.inbound(port, address="127.0.0.1").wait_ready()


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("PeerAuthentication", "{selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}}"),
        ("RequestAuthentication", f"{{selector: {{matchLabels: {{app: web}}}}, {JWT[1:]}"),
        ("AuthorizationPolicy", "{selector: {matchLabels: {app: web}}}"),
    ],
)
def test_a_policy_that_may_be_for_this_workload_is_not_taken_for_somebody_elses(
    tmp_path: Path, kind: str, spec: str
) -> None:
    with mesh_of(tmp_path, policy(spec, "chosen", kind)) as mesh, pytest.raises(NoRouteError, match=f"{kind} .*chosen"):
        mesh.inbound(one_port()).wait_ready()


def test_denials_are_one_event_each_and_a_flood_does_not_flood_the_log(
    guarded: int, caplog: pytest.LogCaptureFixture
) -> None:
    began = time.monotonic()
    with caplog.at_level(logging.WARNING, "meshsdk.audit"), httpx.Client() as client:
        for _ in range(200):
            assert client.get(f"http://127.0.0.1:{guarded}/admin").status_code == 403
    events = [record.mesh for record in caplog.records if hasattr(record, "mesh")]
    assert 0 < len(events) <= 20 * (2 + time.monotonic() - began)
    assert sum(event["left_out"] for event in events) + len(events) <= 200 + 20
    assert events[0]["path"] == "/admin"
    assert "ns[default]-policy[policy]-rule[0]" in events[0]["policy"]
