"""Access logs of servers: what an application answers, and what policy answers in its place."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

import meshsdk

from ..certificates import SpiffeCa, spiffe
from ..conftest import destination_rule, service
from ..patience import PATIENCE
from ..processes import free_ports
from ..server.grpc_servers import aio_grpc_server, sync_grpc_server
from ..server.running import identity, peer_authentication, policy, serving
from .applications import application, send, wsgi_application
from .scraping import World

MAKERS = pytest.mark.parametrize("make", [application, wsgi_application])


class LoggedServer:
    """An application on the mesh with an access log."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self.path = folder / "access.log"
        [self.port] = free_ports(1)
        self.mesh: meshsdk.Mesh

    def serve(self, app: Any, *documents: str, text: str = "", who: Any = None) -> None:
        config = self._folder / "mesh"
        config.mkdir(exist_ok=True)
        (config / "mesh.yaml").write_text("".join(documents) or service("reviews", self.port))
        log = meshsdk.AccessLog(str(self.path), text)
        self.mesh = self._stack.enter_context(meshsdk.Mesh(config=config, access_log=log, identity=who))
        self._stack.enter_context(serving(app, self.mesh, self.port))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def lines(self) -> list[str]:
        """What is written, when something is: a request may be over a moment after its caller has the response."""
        deadline = time.monotonic() + PATIENCE
        while not self.path.exists() or not self.path.read_text():
            assert time.monotonic() < deadline, "nothing was written"
            time.sleep(0.01)
        return self.path.read_text().splitlines()


@pytest.fixture
def logged(tmp_path: Path, stack: ExitStack) -> LoggedServer:
    return LoggedServer(tmp_path, stack)


@MAKERS
def test_a_request_that_comes_is_a_line_in_istios_format(make: Callable[[], Any], logged: LoggedServer) -> None:
    logged.serve(make())
    headers = {"host": "reviews", "user-agent": "curl", "x-request-id": "an-id"}
    response = httpx.post(f"{logged.url}/?a=b", content=b"12345", headers=headers)
    [line] = logged.lines()
    expected = (
        r'\[[0-9TZ:.-]+\] "POST /\?a=b HTTP/1\.1" 200 - via_upstream - "-"'
        rf' 5 {len(response.content)} \d+ \d+ "-" "curl" "an-id" "reviews"'
        rf' "127\.0\.0\.1:{logged.port}" inbound\|{logged.port}\|\| - 127\.0\.0\.1:{logged.port} 127\.0\.0\.1:\d+ - \S+'
    )
    assert re.fullmatch(expected, line), line


@MAKERS
def test_what_policy_refuses_is_told_with_its_reason(make: Callable[[], Any], logged: LoggedServer) -> None:
    rules = policy("{action: ALLOW, rules: [{to: [{operation: {methods: [GET]}}]}]}")
    text = "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_HOST%"
    logged.serve(make(), service("reviews", logged.port), rules, text=text)
    assert httpx.post(logged.url, content=b"12345").status_code == 403
    assert logged.lines() == ["403 - rbac_access_denied_matched_policy[none] 0 19 -"]


@MAKERS
def test_an_application_that_fails_is_a_500(make: Callable[[], Any], logged: LoggedServer) -> None:
    logged.serve(_failing(make), text="%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%")
    assert httpx.get(logged.url).status_code == 500
    assert logged.lines() == ["500 - via_upstream"]


def _failing(make: Callable[[], Any]) -> Any:
    if make is application:

        async def asgi(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                await application()(scope, receive, send)
            else:
                raise RuntimeError("broken")

        return asgi

    def wsgi(environ: Any, start_response: Any) -> Any:
        raise RuntimeError("broken")

    return wsgi


@MAKERS
def test_the_line_of_a_peer_with_a_certificate_names_it(
    make: Callable[[], Any], logged: LoggedServer, tmp_path: Path, stack: ExitStack
) -> None:
    ca = SpiffeCa()
    documents = (
        service("reviews", logged.port)
        + destination_rule("reviews", "trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}")
        + peer_authentication("STRICT")
    )
    text = "%DOWNSTREAM_PEER_URI_SAN% %REQUESTED_SERVER_NAME% %DOWNSTREAM_LOCAL_URI_SAN% %DOWNSTREAM_TLS_VERSION%"
    logged.serve(make(), documents, text=text, who=identity(tmp_path, ca, "bookinfo-reviews"))
    client = stack.enter_context(
        meshsdk.Mesh(config=tmp_path / "mesh", identity=identity(tmp_path, ca, "bookinfo-productpage"))
    )
    assert send(client, "sync", "GET", "http://reviews/").status_code == 200
    [line] = logged.lines()
    name = "outbound_.80_._.reviews.default.svc.cluster.local"
    assert line == f"{spiffe('bookinfo-productpage')} {name} {spiffe('bookinfo-reviews')} TLSv1.3"


@MAKERS
def test_metrics_and_logs_are_had_at_once(make: Callable[[], Any], world: World, tmp_path: Path) -> None:
    world.configure(service("reviews", world.port))
    server = world.server_mesh(access_log=meshsdk.AccessLog(str(tmp_path / "log"), "%RESPONSE_CODE%"))
    client = world.client_mesh()
    with serving(make(), server, world.port):
        assert send(client, "sync", "GET", "http://reviews/").status_code == 200
        assert world.of_server().one()["response_code"] == "200"
    server.close()
    assert (tmp_path / "log").read_text() == "200\n"


GRPC_SERVERS = pytest.mark.parametrize("start", [sync_grpc_server, aio_grpc_server])
CALL = "%REQ(:PATH)% %PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %GRPC_STATUS% %ROUTE_NAME%"


def call_of(port: int, message: bytes) -> bytes:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer: bytes = channel.unary_unary("/test.Echo/Say")(message, timeout=PATIENCE)
        return answer


@GRPC_SERVERS
def test_a_grpc_call_that_comes_is_a_line(start: Any, tmp_path: Path, stack: ExitStack) -> None:
    [port] = free_ports(1)
    (tmp_path / "mesh.yaml").write_text(service("reviews", port))
    log = meshsdk.AccessLog(str(tmp_path / "log"), f"{CALL} %BYTES_RECEIVED% %BYTES_SENT%")
    mesh = stack.enter_context(meshsdk.Mesh(config=tmp_path, access_log=log))
    with start(mesh, port, secure=False):
        answer = call_of(port, b"{}")
    mesh.close()
    expected = f"/test.Echo/Say HTTP/2 200 - via_upstream OK default 7 {len(answer) + 5}\n"
    assert (tmp_path / "log").read_text() == expected


@GRPC_SERVERS
def test_a_grpc_call_that_policy_refuses_is_told_with_its_reason(start: Any, tmp_path: Path, stack: ExitStack) -> None:
    [port] = free_ports(1)
    rules = policy("{action: DENY, rules: [{to: [{operation: {paths: [/test.Echo/Say]}}]}]}")
    (tmp_path / "mesh.yaml").write_text(service("reviews", port) + rules)
    mesh = stack.enter_context(meshsdk.Mesh(config=tmp_path, access_log=meshsdk.AccessLog(str(tmp_path / "log"), CALL)))
    with start(mesh, port, secure=False), pytest.raises(grpc.RpcError):
        call_of(port, b"{}")
    mesh.close()
    details = "rbac_access_denied_matched_policy[ns[default]-policy[policy]-rule[0]]"
    assert (tmp_path / "log").read_text() == f"/test.Echo/Say HTTP/2 200 - {details} PermissionDenied default\n"
