"""Access logs of clients and servers, over real sockets: what a line says, and where it goes."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

import meshsdk
from meshsdk.access_log import ISTIO_JSON

from ..conftest import service, virtual_service
from ..patience import PATIENCE
from ..servers import EchoServer, ScriptedServer, read_head
from .applications import send

KINDS = pytest.mark.parametrize("kind", ["sync", "async"])


class Logged:
    """A mesh with an access log, and what it has written."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self.path = folder / "access.log"

    def mesh(self, *documents: str, **options: Any) -> meshsdk.Mesh:
        config = self._folder / "mesh"
        config.mkdir(exist_ok=True)
        (config / "mesh.yaml").write_text("".join(documents))
        options.setdefault("access_log", str(self.path))
        return self._stack.enter_context(meshsdk.Mesh(config=config, **options))

    def lines(self, mesh: meshsdk.Mesh) -> list[str]:
        assert mesh._runtime.access_logs is not None
        assert mesh._runtime.access_logs.flush()
        return self.path.read_text().splitlines()


@pytest.fixture
def logged(tmp_path: Path, stack: ExitStack) -> Logged:
    return Logged(tmp_path, stack)


TIME = r"\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\]"


@KINDS
def test_a_request_is_a_line_in_istios_format(kind: str, logged: Logged, echo: Any) -> None:
    server = echo("reviews")
    mesh = logged.mesh(service("reviews", server.port))
    response = send(mesh, kind, "POST", "http://reviews/a?b=c", content=b"12345", headers={"x-request-id": "an-id"})
    [line] = logged.lines(mesh)
    expected = (
        rf'{TIME} "POST /a\?b=c HTTP/1\.1" 200 - via_upstream - "-" 5 {len(response.content)} \d+ \d+ "-"'
        rf' "python-httpx/[\d.]+" "an-id" "reviews" "127\.0\.0\.1:{server.port}"'
        r" outbound\|80\|\|reviews\.default\.svc\.cluster\.local 127\.0\.0\.1:\d+ - - - default"
    )
    assert re.fullmatch(expected, line), line


@KINDS
def test_a_body_that_streams_is_counted_when_it_is_read(kind: str, logged: Logged, stack: ExitStack) -> None:
    def answer(connection: Any, number: int) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")

    server = stack.enter_context(ScriptedServer(answer))
    log = meshsdk.AccessLog(str(logged.path), "%RESPONSE_CODE% %BYTES_SENT% %RESPONSE_CODE_DETAILS%")
    mesh = logged.mesh(service("reviews", server.port), access_log=log)
    send(mesh, kind, "GET", "http://reviews/")
    assert logged.lines(mesh) == ["200 5 via_upstream"]


@KINDS
def test_a_caller_that_gives_up_is_a_downstream_that_left(kind: str, logged: Logged, stack: ExitStack) -> None:
    def hold(connection: Any, number: int) -> None:
        read_head(connection)
        connection.recv(1)

    server = stack.enter_context(ScriptedServer(hold))
    log = meshsdk.AccessLog(str(logged.path), "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%")
    mesh = logged.mesh(service("reviews", server.port), access_log=log)
    with pytest.raises(httpx.ReadTimeout):
        send(mesh, kind, "GET", "http://reviews/", timeout=0.1)
    assert logged.lines(mesh) == ["0 DC downstream_remote_disconnect"]


@KINDS
@pytest.mark.parametrize("replies", ["respond", "raise"])
def test_an_answer_of_the_meshs_own_is_told_the_same_whether_it_is_raised_or_not(
    kind: str, replies: Any, logged: Logged
) -> None:
    fault = "[{fault: {abort: {httpStatus: 418, percentage: {value: 100}}}, route: [{destination: {host: reviews}}]}]"
    log = meshsdk.AccessLog(
        str(logged.path),
        "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %BYTES_SENT% %UPSTREAM_CLUSTER%",
    )
    documents = service("reviews", 1) + virtual_service("reviews", fault)
    mesh = logged.mesh(documents, access_log=log, local_replies=replies)
    try:
        send(mesh, kind, "GET", "http://reviews/")
    except meshsdk.RequestError:
        assert replies == "raise"
    assert logged.lines(mesh) == ["418 FI fault_filter_abort 18 outbound|80||reviews.default.svc.cluster.local"]


def test_hosts_outside_the_mesh_are_told_as_a_sidecar_tells_of_them(logged: Logged, echo: Any) -> None:
    server = echo("outside")
    log = meshsdk.AccessLog(str(logged.path), "%RESPONSE_CODE% %RESPONSE_FLAGS% %UPSTREAM_CLUSTER% %UPSTREAM_HOST%")
    mesh = logged.mesh(access_log=log)
    send(mesh, "sync", "GET", f"http://127.0.0.1:{server.port}/")
    denying = logged.mesh(access_log=log, unknown_hosts="deny")
    with pytest.raises(meshsdk.NoRouteError):
        send(denying, "sync", "GET", f"http://127.0.0.1:{server.port}/")
    logged.lines(mesh)
    assert logged.lines(denying) == [f"200 - PassthroughCluster 127.0.0.1:{server.port}", "502 - - -"]


def test_a_json_format_keeps_numbers_and_says_null_for_what_is_missing(logged: Logged, echo: Any) -> None:
    log = meshsdk.AccessLog(str(logged.path), json_format={**ISTIO_JSON, "nested": {"x": "%REQ(X)%", "n": [1, "a"]}})
    mesh = logged.mesh(service("reviews", echo("reviews").port), access_log=log)
    send(mesh, "sync", "GET", "http://reviews/", headers={"x": 'a "quoted" \\ word'})
    [line] = logged.lines(mesh)
    told = json.loads(line)
    assert list(told) == sorted(told)
    assert (told["response_code"], told["bytes_received"], told["x_forwarded_for"]) == (200, 0, None)
    assert told["nested"] == {"x": 'a "quoted" \\ word', "n": [1, "a"]}
    assert told["upstream_service_time"].isdecimal()


def test_a_logger_of_pythons_gets_the_lines(logged: Logged, echo: Any, caplog: pytest.LogCaptureFixture) -> None:
    mesh = logged.mesh(
        service("reviews", echo("reviews").port), access_log=meshsdk.AccessLog(format="%PROTOCOL%", logger="mine")
    )
    with caplog.at_level(logging.INFO, logger="mine"):
        send(mesh, "sync", "GET", "http://reviews/")
        assert mesh._runtime.access_logs is not None
        assert mesh._runtime.access_logs.flush()
    assert [one.getMessage() for one in caplog.records if one.name == "mine"] == ["HTTP/1.1"]


@pytest.mark.parametrize("value", ["{path}", "json:{path}"])
def test_the_environment_asks_for_a_log(value: str, logged: Logged, echo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHSDK_ACCESS_LOG", value.format(path=logged.path))
    documents = service("reviews", echo("reviews").port)
    send(logged.mesh(documents, access_log=False), "sync", "GET", "http://reviews/")
    mesh = logged.mesh(documents, access_log=None)
    send(mesh, "sync", "GET", "http://reviews/")
    [line] = logged.lines(mesh)
    assert line.startswith("{" if value.startswith("json:") else "[")


def test_without_a_log_nothing_watches_a_request(logged: Logged) -> None:
    assert logged.mesh(service("reviews", 1), access_log=None)._runtime.access_logs is None


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"format": "%NONSENSE%"}, "NONSENSE"),
        ({"format": "100%"}, "a lone %"),
        ({"format": "%REQ()%"}, "needs the name of a header"),
        ({"format": "%RESPONSE_CODE:2%"}, "takes no length"),
        ({"json_format": {"a": {"b": ["%NONSENSE%"]}}}, "NONSENSE"),
        ({"filter": {"nonsense": {}}}, "no AccessLogFilter"),
        ({"filter": {}}, "must be of some kind"),
        ({"filter": "response.code >="}, "no expression"),
    ],
)
def test_a_log_that_cannot_be_written_is_refused_when_the_mesh_is_made(
    options: dict[str, Any], problem: str, logged: Logged
) -> None:
    with pytest.raises(meshsdk.ResourceError, match=problem):
        logged.mesh(access_log=meshsdk.AccessLog("-", **options))


@pytest.mark.parametrize(
    "chosen",
    [
        {"status_code_filter": {"comparison": {"op": "GE", "value": {"default_value": 500, "runtime_key": "x"}}}},
        "response.code >= 500",
        "response.code >= 500 && request.url_path.startsWith('/') && !has(request.referer)",
    ],
)
def test_a_filter_chooses_what_is_told(chosen: Any, logged: Logged, stack: ExitStack) -> None:
    server = stack.enter_context(EchoServer("reviews"))
    server.statuses = [200, 503, 200]
    log = meshsdk.AccessLog(str(logged.path), "%RESPONSE_CODE%", filter=chosen)
    mesh = logged.mesh(service("reviews", server.port), access_log=log)
    for _ in range(3):
        send(mesh, "sync", "GET", "http://reviews/")
    assert logged.lines(mesh) == ["503"]


HOSTILE = {
    "a tab and marks": ("a\tb", "a\tb"),
    "a move of the cursor": ("\x1b[2J", "\\x1b[2J"),
    "bytes that are no text": ("\xff\xfe", "\\xff\\xfe"),
    "a mark of direction": ("\u202e".encode().decode("latin-1"), "\\u202e"),
    "the end of a line in Unicode": ("\u2028".encode().decode("latin-1"), "\\u2028"),
    "letters": ("é".encode().decode("latin-1"), "é"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_server_says_cannot_begin_another_line_or_move_a_cursor(
    name: str, logged: Logged, stack: ExitStack
) -> None:
    value, shown = HOSTILE[name]

    def answer(connection: Any, number: int) -> None:
        read_head(connection)
        head = f"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-odd: {value}\r\n\r\n"
        connection.sendall(head.encode("latin-1"))

    server = stack.enter_context(ScriptedServer(answer))
    log = meshsdk.AccessLog(str(logged.path), "[%RESP(X-ODD)%]")
    mesh = logged.mesh(service("reviews", server.port), access_log=log)
    try:
        send(mesh, "sync", "GET", "http://reviews/")
    except httpx.RemoteProtocolError:
        assert logged.lines(mesh) == ["[-]"]  # Refused, as Envoy's codec does.
    else:
        assert logged.lines(mesh) == [f"[{shown}]"]


def test_a_value_of_64_kilobytes_is_cut(logged: Logged, echo: Any) -> None:
    log = meshsdk.AccessLog(str(logged.path), "%REQ(X-LONG)%")
    mesh = logged.mesh(service("reviews", echo("reviews").port), access_log=log)
    send(mesh, "sync", "GET", "http://reviews/", headers={"x-long": "x" * 60_000})
    [line] = logged.lines(mesh)
    assert line == f"{'x' * 8192}...(+{60_000 - 8192})"


LISTENER = """\
---
"@type": type.googleapis.com/envoy.config.listener.v3.Listener
name: reviews.test
api_listener:
  api_listener:
    "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
    stat_prefix: x
    route_config:
      virtual_hosts:
      - {name: v, domains: ["*"], routes: [{match: {prefix: /}, name: only, direct_response: {status: 204}}]}
    http_filters:
    - name: router
      typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
    access_log: [LOG]
"""
LOGGERS = "type.googleapis.com/envoy.extensions.access_loggers"


def with_log(kind: str, **fields: Any) -> str:
    log = {"name": "log", "typed_config": {"@type": f"{LOGGERS}.{kind}", **fields}}
    return LISTENER.replace("LOG", json.dumps(log))


def with_file(path: Path, text: str) -> str:
    return with_log("file.v3.FileAccessLog", path=str(path), log_format={"text_format_source": {"inline_string": text}})


@KINDS
def test_a_listeners_own_log_is_written_beside_the_applications(kind: str, logged: Logged, tmp_path: Path) -> None:
    document = with_file(tmp_path / "listener.log", "%ROUTE_NAME% %RESPONSE_CODE%|")
    mesh = logged.mesh(document, access_log=meshsdk.AccessLog(str(logged.path), "%RESPONSE_CODE%"))
    mesh.wait_ready("reviews.test")
    for _ in range(2):
        send(mesh, kind, "GET", "http://reviews.test/")
    assert logged.lines(mesh) == ["204", "204"]
    assert (tmp_path / "listener.log").read_text() == "only 204|only 204|"


@pytest.mark.parametrize("kind", ["an operator that is not known", "another access logger"])
def test_a_listeners_log_that_is_not_written_is_told_and_harms_no_request(
    kind: str, logged: Logged, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1s"}
    documents = {
        "an operator that is not known": with_file(tmp_path / "listener.log", "%NONSENSE%"),
        "another access logger": LISTENER.replace("LOG", json.dumps({"name": "log", "typed_config": unknown})),
    }
    mesh = logged.mesh(documents[kind], access_log=None)
    mesh.wait_ready("reviews.test")
    assert send(mesh, "sync", "GET", "http://reviews.test/").status_code == 204
    assert not (tmp_path / "listener.log").exists()
    assert any("access log" in one.getMessage() for one in caplog.records)


def test_a_log_that_a_listener_has_no_more_is_closed(logged: Logged, tmp_path: Path) -> None:
    mesh = logged.mesh(with_file(tmp_path / "listener.log", "%RESPONSE_CODE%|"), access_log=None)
    mesh.wait_ready("reviews.test")
    send(mesh, "sync", "GET", "http://reviews.test/")
    logs = mesh._runtime.access_logs
    assert logs is not None
    assert logs.follows
    logs.follow([])
    deadline = time.monotonic() + PATIENCE
    while any(one.name == "meshsdk-access-log" for one in threading.enumerate()):
        assert time.monotonic() < deadline, "the log is still open"
        time.sleep(0.01)
    assert (tmp_path / "listener.log").read_text() == "204|"


def test_strangers_with_long_names_are_not_remembered(logged: Logged, echo: Any) -> None:
    mesh = logged.mesh(access_log=meshsdk.AccessLog(str(logged.path), "%REQ(:AUTHORITY)%"))
    url = f"http://127.0.0.1:{echo('outside').port}/"
    for host in ("short", "x" * 1000):
        send(mesh, "sync", "GET", url, headers={"host": host})
    assert logged.lines(mesh) == ["short", "x" * 1000]
    assert mesh._runtime.access_logs is not None
    assert len(mesh._runtime.access_logs.known) == 1
