"""Policies of a folder, carried out: custom authorization, request authentication, dry runs, limits of the body; and
what only an in-process mesh can do: the inbound request's deadline, trace and baggage bound and follow what goes out.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import flask
import grpc
import httpx
import pytest
from envoy.service.auth.v3 import external_auth_pb2
from meshsdk_flask import MeshWsgi
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from werkzeug.serving import make_server

import meshsdk
from meshsdk.errors import NoRouteError

from ..conftest import service
from ..differential.tokens import ISSUERS, TOKENS
from ..grpc_server import GrpcServer
from ..patience import PATIENCE
from ..processes import CLEAN_ENVIRONMENT
from .grpc_servers import aio_grpc_server, sync_grpc_server
from .running import mesh_of, one_port, policy, serving
from .test_attacks import echo


class Authorizer(BaseHTTPRequestHandler):
    """An authorization server that lets `x-user: friend` in, and says so to both sides."""

    asked: list[dict[str, str]]

    def do_GET(self) -> None:
        type(self).asked.append({"path": self.path, **{k.lower(): v for k, v in self.headers.items()}})
        friend = self.headers.get("x-user") == "friend"
        self.send_response(200 if friend else 401)
        self.send_header("x-verdict", "friend" if friend else "nobody")
        self.send_header("content-length", "0" if friend else "4")
        self.end_headers()
        if not friend:
            self.wfile.write(b"who?")

    def log_message(self, format: str, *args: object) -> None:
        pass


CUSTOM = "{action: CUSTOM, provider: {name: judge}, rules: [{to: [{operation: {paths: [/asked*]}}]}]}"


def with_provider(kind: str, port: int, more: str = "") -> str:
    """YAML of a MeshConfig with an authorization server, and of the service that it is."""
    protocol = "grpc" if kind.endswith("Grpc") else "http"
    judge = service("judge", port, port=9000).replace("name: http", f"name: {protocol}")
    provider = f"{{name: judge, {kind}: {{service: judge, port: 9000, timeout: 1s{more}}}}}"
    return (
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n"
        f"data: {{mesh: 'extensionProviders: [{provider}]'}}\n---\n" + judge.replace("{http:", f"{{{protocol}:")
    )


@pytest.fixture
def authorizer() -> Iterator[tuple[int, list[dict[str, str]]]]:
    asked: list[dict[str, str]] = []
    handler = type("Handler", (Authorizer,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, asked
        server.shutdown()


def test_an_http_server_decides_for_custom_policies(
    tmp_path: Path, authorizer: tuple[int, list[dict[str, str]]]
) -> None:
    judge, asked = authorizer
    more = (
        ", includeRequestHeadersInCheck: [x-user], headersToUpstreamOnAllow: [x-verdict],"
        " headersToDownstreamOnDeny: [x-verdict], pathPrefix: /check"
    )
    port = one_port()
    yaml = service("web", port) + policy(CUSTOM) + with_provider("envoyExtAuthzHttp", judge, more)
    with mesh_of(tmp_path, yaml) as mesh, serving(echo, mesh, port), httpx.Client() as client:
        url = f"http://127.0.0.1:{port}"
        friend = client.get(f"{url}/asked?a=1", headers={"x-user": "friend", "x-secret": "1"})
        nobody = client.get(f"{url}/asked", headers={"x-user": "eve"})
        other = client.get(f"{url}/other")
    assert friend.status_code == 200
    assert ["x-verdict", "friend"] in friend.json()["headers"]
    assert (nobody.status_code, nobody.text, nobody.headers["x-verdict"]) == (401, "who?", "nobody")
    assert other.status_code == 200
    assert [one["path"] for one in asked] == ["/check/asked?a=1", "/check/asked"]
    assert "x-secret" not in asked[0]


@pytest.mark.parametrize(("fail_open", "status"), [("false", 503), ("true", 200)])
def test_an_authorization_server_that_is_away_lets_in_whom_configuration_says(
    tmp_path: Path, fail_open: str, status: int
) -> None:
    port = one_port()
    more = f', failOpen: {fail_open}, statusOnError: "503"'
    yaml = service("web", port) + policy(CUSTOM) + with_provider("envoyExtAuthzHttp", one_port(), more)
    with mesh_of(tmp_path, yaml) as mesh, serving(echo, mesh, port):
        assert httpx.get(f"http://127.0.0.1:{port}/asked").status_code == status


def said(port: int, target: bytes, headers: bytes = b"") -> bytes:
    """What a server answers to a request that no client would send."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(b"GET " + target + b" HTTP/1.1\r\nhost: a\r\nconnection: close\r\n" + headers + b"\r\n")
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
            if b"content-length: 0\r\n" in answer:
                break
    return answer


@pytest.mark.parametrize("target", [b"/asked/../free", b"/asked/../../../x", b"/asked//a%2e%2e", b'/asked?x={"y"}'])
def test_an_http_server_is_asked_about_the_target_as_it_came(
    tmp_path: Path, authorizer: tuple[int, list[dict[str, str]]], target: bytes
) -> None:
    judge, asked = authorizer
    port = one_port()
    more = ", pathPrefix: /check"
    yaml = service("web", port) + policy(CUSTOM) + with_provider("envoyExtAuthzHttp", judge, more)
    yaml = yaml.replace("'extensionProviders", "'{pathNormalization: {normalization: NONE}, extensionProviders")
    yaml = yaml.replace("}]'}", "}]}'}")
    with mesh_of(tmp_path, yaml) as mesh, serving(echo, mesh, port):
        assert said(port, target).startswith(b"HTTP/1.1 401")
    assert [one["path"] for one in asked] == ["/check" + target.decode()]


@pytest.mark.parametrize("target", [b"/asked?x=\xff", b"/asked\xff", b"/asked?x=\x7f"])
def test_targets_beyond_ascii_are_refused(tmp_path: Path, target: bytes) -> None:
    """By policy itself, where the server of an application does not."""
    port = one_port()
    yaml = service("web", port) + policy(CUSTOM) + with_provider("envoyExtAuthzHttp", one_port(), ", failOpen: true")
    with mesh_of(tmp_path, yaml) as mesh, by_werkzeug(flask.Flask("web"), mesh, port):
        assert b" 400 " in said(port, target).partition(b"\r\n")[0]


@contextlib.contextmanager
def by_werkzeug(app: flask.Flask, mesh: meshsdk.Mesh, port: int) -> Iterator[None]:
    """A Flask application on the server that Flask brings, behind the port's policy."""
    app.wsgi_app = MeshWsgi(app.wsgi_app, mesh=mesh, port=port)  # type: ignore[method-assign]
    server = make_server("127.0.0.1", port, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("length", [1 << 63, (1 << 64) - 1])
def test_what_the_question_cannot_say_does_not_let_anybody_in(tmp_path: Path, length: int) -> None:
    """failOpen is for a server that is away, and not for callers to choose."""
    port, handler = one_port(), GrpcAuthorizer()
    judge = grpc.server(ThreadPoolExecutor(4))
    judge.add_generic_rpc_handlers((handler,))
    listening = judge.add_insecure_port("127.0.0.1:0")
    judge.start()
    yaml = service("web", port) + policy(CUSTOM) + with_provider("envoyExtAuthzGrpc", listening, ", failOpen: true")
    try:
        with mesh_of(tmp_path, yaml) as mesh, serving(echo, mesh, port):
            assert said(port, b"/asked", b"content-length: %d\r\n" % length).startswith(b"HTTP/1.1 418")
    finally:
        judge.stop(0).wait()
    assert [one.attributes.request.http.size for one in handler.asked] == [-1]


class GrpcAuthorizer(grpc.GenericRpcHandler):  # type: ignore[misc]
    """envoy.service.auth.v3.Authorization, by the path's last letter."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(
            self.check,
            request_deserializer=external_auth_pb2.CheckRequest.FromString,
            response_serializer=external_auth_pb2.CheckResponse.SerializeToString,
        )

    def check(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        answer = external_auth_pb2.CheckResponse()
        if request.attributes.request.http.path.endswith("y"):
            answer.ok_response.headers.add().header.key = "x-user"
            answer.ok_response.headers[0].header.value = "known\r\nx-evil: 1"
            answer.ok_response.headers_to_remove.extend(["x-token", ":path", "host"])
            answer.ok_response.response_headers_to_add.add().header.key = "x-checked"
            answer.ok_response.response_headers_to_add[0].header.value = "yes"
        else:
            answer.status.code = 7
            answer.denied_response.status.code = 418
            answer.denied_response.body = "no"
        return answer


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_a_grpc_server_decides_for_custom_policies(tmp_path: Path, kind: str) -> None:
    port, handler = one_port(), GrpcAuthorizer()
    judge = grpc.server(ThreadPoolExecutor(4))
    judge.add_generic_rpc_handlers((handler,))
    listening = judge.add_insecure_port("127.0.0.1:0")
    judge.start()
    more = ", includeRequestBodyInCheck: {maxRequestBytes: 8, allowPartialMessage: true}"
    yaml = service("web", port) + policy(CUSTOM) + with_provider("envoyExtAuthzGrpc", listening, more)
    try:
        with mesh_of(tmp_path, yaml) as mesh:
            let_in, refused = (by_wsgi if kind == "wsgi" else by_asgi)(mesh, port)
    finally:
        judge.stop(0).wait()
    assert let_in["x-user"] == "knownx-evil: 1"
    assert "x-token" not in let_in
    assert let_in["body"] == "0123456789"
    assert refused == (418, "no")
    assert handler.asked[0].attributes.request.http.body == "01234567"
    assert handler.asked[0].attributes.request.http.headers["x-token"] == "t"


def by_asgi(mesh: meshsdk.Mesh, port: int) -> tuple[dict[str, str], tuple[int, str]]:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        content = json.dumps({**headers, "body": body.decode()}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": content})

    with serving(application, mesh, port, lifespan="off"):
        return ask(port)


def by_wsgi(mesh: meshsdk.Mesh, port: int) -> tuple[dict[str, str], tuple[int, str]]:
    app = flask.Flask("web")

    @app.post("/<path:path>")
    def seen(path: str) -> dict[str, str]:
        headers = {name.lower(): value for name, value in flask.request.headers.items()}
        return {**headers, "body": flask.request.get_data(as_text=True)}

    with by_werkzeug(app, mesh, port):
        return ask(port)


def ask(port: int) -> tuple[dict[str, str], tuple[int, str]]:
    with httpx.Client(headers={"x-token": "t", "x-user": "forged"}) as client:
        let_in = client.post(f"http://127.0.0.1:{port}/asked-y", content=b"0123456789")
        refused = client.post(f"http://127.0.0.1:{port}/asked-n", content=b"0123456789")
    assert let_in.headers.get("x-checked", "yes") == "yes"
    return let_in.json(), (refused.status_code, refused.text)


def test_claims_of_a_good_token_decide_and_reach_the_application(tmp_path: Path) -> None:
    keys = json.dumps(ISSUERS["two"])
    port = one_port()
    rules = (
        f"{{jwtRules: [{{issuer: two, jwks: '{keys}', outputClaimToHeaders: [{{header: x-sub, claim: sub}}],"
        " fromHeaders: [{name: x-jwt, prefix: 'Token '}]}]}"
    )
    allow = (
        "{rules: [{when: [{key: 'request.auth.claims[sub]', values: [s2]},"
        " {key: request.auth.audiences, values: [b1]}]}]}"
    )
    yaml = service("web", port) + policy(rules, "jwt", "RequestAuthentication") + policy(allow)
    with mesh_of(tmp_path, yaml) as mesh, serving(echo, mesh, port), httpx.Client() as client:
        url = f"http://127.0.0.1:{port}/"
        good = client.get(url, headers={"x-jwt": f"Token {TOKENS['two']}", "x-sub": "forged"})
        foreign = client.get(url, headers={"x-jwt": f"Token {TOKENS['two for nobody']}"})
        bad = client.get(url, headers={"x-jwt": f"Token {TOKENS['one']}"})
    assert good.status_code == 200
    assert [value for name, value in good.json()["headers"] if name == "x-sub"] == ["s2"]
    assert "x-jwt" not in dict(good.json()["headers"])
    assert (foreign.status_code, bad.status_code) == (403, 401)
    assert bad.headers["www-authenticate"].startswith('Bearer realm="http://127.0.0.1')


def test_a_dry_run_refuses_nobody(tmp_path: Path) -> None:
    port = one_port()
    rule = policy("{action: DENY, rules: [{}]}").replace(
        "metadata: {name: policy}", "metadata: {name: policy, annotations: {istio.io/dry-run: 'true'}}"
    )
    with mesh_of(tmp_path, service("web", port) + rule) as mesh, serving(echo, mesh, port):
        assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 200


@pytest.mark.parametrize(
    ("spec", "status"),
    [
        ("{}", 403),  # Allows nothing.
        ("{rules: [{}]}", 200),  # Allows everything.
        ("{action: DENY, rules: [{}]}", 403),
        ("{action: AUDIT, rules: [{}]}", 200),
    ],
)
def test_empty_policies_mean_what_istio_says(tmp_path: Path, spec: str, status: int) -> None:
    port = one_port()
    with mesh_of(tmp_path, service("web", port) + policy(spec)) as mesh, serving(echo, mesh, port):
        assert httpx.get(f"http://127.0.0.1:{port}/").status_code == status


def test_a_policy_for_other_workloads_is_not_for_this_one(tmp_path: Path) -> None:
    port = one_port()
    rule = policy("{selector: {matchLabels: {app: other}}, action: DENY, rules: [{}]}")
    own = policy(
        "{selector: {matchLabels: {app: web}}, action: DENY, rules: [{to: [{operation: {methods: [PUT]}}]}]}", "b"
    )
    with mesh_of(tmp_path, service("web", port) + rule + own) as mesh, serving(echo, mesh, port):
        assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 200
        assert httpx.put(f"http://127.0.0.1:{port}/").status_code == 403


def test_grpc_calls_are_refused_with_grpcs_statuses(tmp_path: Path) -> None:
    port = one_port()
    rule = policy("{action: DENY, rules: [{to: [{operation: {paths: [/test.Echo/Down]}}]}]}")
    with (
        mesh_of(tmp_path, service("web", port) + rule) as mesh,
        GrpcServer("one", interceptors=[mesh.server_interceptor(port=port)], port=port),
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        assert channel.unary_unary("/test.Echo/Say")(b"") != b""
        with pytest.raises(grpc.RpcError) as caught:
            list(channel.unary_stream("/test.Echo/Down")(b"3"))
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert caught.value.details() == "RBAC: access denied"


@pytest.mark.parametrize("aio", [False, True], ids=["grpc", "grpc.aio"])
def test_a_rule_about_hosts_is_never_passed_by_a_server_that_does_not_know_them(tmp_path: Path, aio: bool) -> None:
    port = one_port()
    rule = policy("{action: DENY, rules: [{to: [{operation: {hosts: [closed]}}]}]}")
    options = [("grpc.default_authority", "closed")]
    with (
        mesh_of(tmp_path, service("web", port) + rule) as mesh,
        (aio_grpc_server if aio else sync_grpc_server)(mesh, port, secure=False),
        grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        channel.unary_unary("/test.Echo/Say")(b"")
    expected = grpc.StatusCode.UNAVAILABLE if aio else grpc.StatusCode.PERMISSION_DENIED
    assert caught.value.code() is expected


@pytest.mark.parametrize("fact", ["destination.ip, values: [10.0.0.0/8]", "connection.sni, values: [web]"])
@pytest.mark.parametrize("aio", [False, True], ids=["grpc", "grpc.aio"])
def test_a_rule_about_what_grpc_does_not_tell_lets_nobody_in(tmp_path: Path, aio: bool, fact: str) -> None:
    port = one_port()
    rule = policy(f"{{action: DENY, rules: [{{when: [{{key: {fact}}}]}}]}}")
    with (
        mesh_of(tmp_path, service("web", port) + rule) as mesh,
        (aio_grpc_server if aio else sync_grpc_server)(mesh, port, secure=False),
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        channel.unary_unary("/test.Echo/Say")(b"")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_behind_a_unix_socket_no_host_header_chooses_the_policy(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    environ = {"SERVER_NAME": "web", "SERVER_PORT": "80", "HTTP_HOST": "web:80", "gunicorn.socket": ours}
    environ |= {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "RAW_URI": "/", "wsgi.url_scheme": "http"}
    started: list[str] = []
    with ours, theirs, mesh_of(tmp_path, service("web", 80)) as mesh:
        response = MeshWsgi(reached, mesh=mesh)(environ, lambda status, headers: started.append(status))
        assert b"".join(response) == b"no inbound policy"
    assert started[0].startswith("503")


def reached(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b"reached"]


def test_deadline_trace_and_baggage_go_on_in_what_the_application_sends(tmp_path: Path) -> None:
    # In a process of its own: a tracer provider is set once, and for all.
    command = [sys.executable, "-m", "tests.server.traced_hop", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=CLEAN_ENVIRONMENT)
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    seen = told["seen"]
    sent = dict(seen["headers"])
    assert sent["traceparent"].split("-")[1] == "0af7651916cd43dd8448eb211c80319c"
    assert sent["baggage"] == "tenant=7"
    assert seen["baggage"] == {"tenant": "7"}
    assert 0 < seen["left"] <= 40
    assert 0 < int(sent["x-envoy-expected-rq-timeout-ms"]) <= 40_000
    assert told["kinds"].count("SERVER") == 2


DURATION = "http.server.request.duration"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process that traces and measures has to tell."""
    command = [sys.executable, "-m", "tests.server.traced_framework", str(tmp_path_factory.mktemp("traced"))]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=CLEAN_ENVIRONMENT)
    assert run.returncode == 0, run.stderr
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


def test_requests_are_measured_and_denials_counted(told: dict[str, Any]) -> None:
    known = {"http.request.method": "GET", "url.scheme": "http"}
    durations = {point["http.response.status_code"]: count for point, count in told["metrics"][DURATION]}
    assert durations == {200: 2, 403: 1}
    assert all(known.items() <= point.items() for point, _ in told["metrics"][DURATION])
    [(denied, count)] = told["metrics"]["meshsdk.server.denials"]
    assert denied == {"meshsdk.details": "rbac_access_denied_matched_policy", "http.response.status_code": 403}
    assert count == 1


def test_spans_of_frameworks_and_headers_passed_on_by_hand_have_the_mesh_s_span_for_parent(
    told: dict[str, Any],
) -> None:
    own = {one["id"]: one["parent"] for one in told["spans"] if one["scope"] == "meshsdk"}
    assert set(own.values()) == {"b7ad6b7169203331"}
    [of_framework] = [one for one in told["spans"] if one["scope"] == "fastapi" and one["kind"] == "SERVER"]
    assert of_framework["parent"] in own
    for [seen] in (told["asgi"], told["wsgi"]):
        assert seen.split("-")[1] == "0af7651916cd43dd8448eb211c80319c"
        assert seen.split("-")[2] in own


def test_an_edit_that_cannot_be_carried_out_leaves_the_last_good_policy_in_force(tmp_path: Path) -> None:
    port = one_port()
    closed = policy("{action: DENY, rules: [{to: [{operation: {methods: [PUT]}}]}]}")
    broken = policy("{action: CUSTOM, provider: {name: nobody}, rules: [{}]}", "broken")
    with mesh_of(tmp_path, service("web", port) + closed) as mesh, serving(echo, mesh, port):
        assert httpx.put(f"http://127.0.0.1:{port}/").status_code == 403
        (tmp_path / "mesh" / "mesh.yaml").write_text(service("web", port) + closed + broken)
        time.sleep(0.6)  # Longer than an edit takes to be read.
        assert httpx.put(f"http://127.0.0.1:{port}/").status_code == 403
        assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 200


def test_an_edit_is_in_force_without_a_restart(tmp_path: Path) -> None:
    port = one_port()
    with mesh_of(tmp_path, service("web", port)) as mesh, serving(echo, mesh, port), httpx.Client() as client:
        assert client.get(f"http://127.0.0.1:{port}/").status_code == 200
        (tmp_path / "mesh" / "mesh.yaml").write_text(service("web", port) + policy("{}"))
        until = time.monotonic() + PATIENCE
        while client.get(f"http://127.0.0.1:{port}/").status_code != 403:
            assert time.monotonic() < until
            time.sleep(0.02)


def raw_listener(port: int, *filters: dict[str, Any]) -> str:
    """A server's listener with these filters, as a document of a folder."""
    types = "type.googleapis.com/envoy.extensions.filters"
    router = {"name": "router", "typed_config": {"@type": f"{types}.http.router.v3.Router"}}
    manager = {
        "@type": f"{types}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": {
            "name": "in",
            "virtual_hosts": [
                {"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "non_forwarding_action": {}}]}
            ],
        },
        "http_filters": [*filters, router],
    }
    document = {
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": f"xds.istio.io/grpc/lds/inbound/0.0.0.0:{port}",
        "filter_chains": [{"filters": [{"name": "manager", "typed_config": manager}]}],
    }
    return json.dumps(document)


HTTP = "type.googleapis.com/envoy.extensions.filters.http"
MUTATIONS = {
    "name": "mutations",
    "typed_config": {
        "@type": f"{HTTP}.header_mutation.v3.HeaderMutation",
        "mutations": {
            "request_mutations": [
                {"append": {"header": {"key": "x-checked", "value": "yes"}}},
                {"remove": "x-secret"},
            ],
            "response_mutations": [{"append": {"header": {"key": "x-mesh", "value": "seen"}}}],
        },
    },
}


@pytest.mark.parametrize("aio", [False, True], ids=["grpc", "grpc.aio"])
def test_filters_change_what_grpc_handlers_and_callers_get(tmp_path: Path, aio: bool) -> None:
    port = one_port()
    sent = (("x-secret", "1"), ("x-kept", "2"), ("x-some-bin", b"\x00\xff"))
    with (
        mesh_of(tmp_path, raw_listener(port, MUTATIONS)) as mesh,
        (aio_grpc_server if aio else sync_grpc_server)(mesh, port, secure=False),
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        answer, call = channel.unary_unary("/test.Echo/Say").with_call(b"", metadata=sent)
        stream = channel.unary_stream("/test.Echo/Down")(b"2", metadata=sent)
        pieces = list(stream)
    seen = json.loads(answer)["metadata"]
    assert (seen.get("x-checked"), seen.get("x-secret"), seen.get("x-kept")) == ("yes", None, "2")
    assert seen["x-some-bin"].encode("latin-1") == b"\x00\xff"
    initial = dict(call.initial_metadata())
    assert initial["x-mesh"] == "seen"
    assert aio or initial["x-served-by"] == "one", "the handler's own go out as well"
    assert aio or dict(call.trailing_metadata())["x-trailer"] == "end"
    assert len(pieces) == 2
    assert dict(stream.initial_metadata())["x-mesh"] == "seen"


@pytest.mark.parametrize("aio", [False, True], ids=["grpc", "grpc.aio"])
def test_grpc_calls_that_fail_make_admission_control_refuse_others(tmp_path: Path, aio: bool) -> None:
    port = one_port()
    admission = {
        "name": "admission",
        "typed_config": {
            "@type": f"{HTTP}.admission_control.v3.AdmissionControl",
            "success_criteria": {},
            "max_rejection_probability": {"default_value": {"value": 100}},
        },
    }
    codes: list[grpc.StatusCode] = []
    with (
        mesh_of(tmp_path, raw_listener(port, admission)) as mesh,
        (aio_grpc_server if aio else sync_grpc_server)(mesh, port, secure=False),
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        for name in ["NOT_FOUND"] * 20 + ["INTERNAL"] * 60:
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary("/test.Echo/Fail")(name.encode())
            codes.append(caught.value.code())
    assert set(codes[:20]) == {grpc.StatusCode.NOT_FOUND}
    assert codes[20:].count(grpc.StatusCode.UNAVAILABLE) > 5
    assert grpc.StatusCode.INTERNAL in codes[20:]


def test_a_websocket_that_policy_lets_in_carries_messages_both_ways(tmp_path: Path) -> None:
    port = one_port()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            return await echo(scope, receive, send)
        assert (await receive())["type"] == "websocket.connect"
        checked = dict(scope["headers"])[b"x-checked"].decode()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": f"{checked}:{message['text']}"})

    rbac = {
        "name": "rbac",
        "typed_config": {
            "@type": f"{HTTP}.rbac.v3.RBAC",
            "rules": {
                "policies": {
                    "one": {
                        "permissions": [{"url_path": {"path": {"exact": "/open"}}}],
                        "principals": [{"any": True}],
                    }
                }
            },
        },
    }
    yaml = raw_listener(port, rbac, MUTATIONS).replace("0.0.0.0", "127.0.0.1")
    with mesh_of(tmp_path, yaml) as mesh, serving(app, mesh, port):
        with connect(f"ws://127.0.0.1:{port}/open") as socket_:
            socket_.send("hello")
            assert socket_.recv(timeout=PATIENCE) == "yes:hello"
        with pytest.raises(InvalidStatus) as caught, connect(f"ws://127.0.0.1:{port}/closed"):
            pass
    assert caught.value.response.status_code == 403


def test_a_servers_routes_may_come_by_themselves_and_change(tmp_path: Path) -> None:
    port = one_port()
    listener = json.loads(raw_listener(port).replace("0.0.0.0", "127.0.0.1"))
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["route_config"]
    manager["rds"] = {"route_config_name": "inbound", "config_source": {"ads": {}, "resource_api_version": "V3"}}

    def routes(status: int) -> str:
        answer = {"match": {"prefix": "/closed"}, "direct_response": {"status": status}}
        open_ = {"match": {"prefix": "/"}, "non_forwarding_action": {}}
        document = {
            "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            "name": "inbound",
            "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [answer, open_]}],
        }
        return f"{json.dumps(listener)}\n---\n{json.dumps(document)}\n"

    with mesh_of(tmp_path, routes(418)) as mesh, serving(echo, mesh, port), httpx.Client() as client:
        assert client.get(f"http://127.0.0.1:{port}/open").status_code == 200
        assert client.get(f"http://127.0.0.1:{port}/closed").status_code == 418
        (tmp_path / "mesh" / "mesh.yaml").write_text(routes(451))
        until = time.monotonic() + PATIENCE
        while client.get(f"http://127.0.0.1:{port}/closed").status_code != 451:
            assert time.monotonic() < until
            time.sleep(0.02)


@pytest.mark.parametrize("place", ["filter", "route", "split"])
def test_a_header_about_the_peer_that_cannot_be_made_refuses_the_listener(tmp_path: Path, place: str) -> None:
    port = one_port()
    added = {"header": {"key": "x-peer", "value": "%DOWNSTREAM_TLS_SESSION_ID%"}}
    mutation = {"@type": f"{HTTP}.header_mutation.v3.HeaderMutation"}
    if place == "filter":
        mutation["mutations"] = {"request_mutations": [{"append": added}]}  # type: ignore[assignment]
    listener = json.loads(raw_listener(port, {"name": "mutation", "typed_config": mutation}))
    [host] = listener["filter_chains"][0]["filters"][0]["typed_config"]["route_config"]["virtual_hosts"]
    if place == "route":
        host["routes"][0]["request_headers_to_add"] = [added]
    elif place == "split":
        split = {"clusters": [{"name": "here", "weight": 1, "request_headers_to_add": [added]}]}
        host["routes"] = [{"match": {"prefix": "/"}, "route": {"weighted_clusters": split}}]
    refused = pytest.raises(NoRouteError, match="x-peer.*DOWNSTREAM_TLS_SESSION_ID% is not known to servers")
    with mesh_of(tmp_path, json.dumps(listener)) as mesh, refused:
        mesh.inbound(port).wait_ready()
