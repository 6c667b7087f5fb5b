"""What the page is made of: requests and why they went where they did, changes, and who may ask."""

from __future__ import annotations

import gc
import json
import os
import re
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

import meshsdk
from meshsdk.admin.guard import refusal
from meshsdk.admin.recent import MAX_RECENT

from ..certificates import SpiffeCa, spiffe
from ..conftest import destination_rule, service, virtual_service
from ..grpc_client import make_client
from ..patience import PATIENCE, eventually
from ..processes import CLEAN_ENVIRONMENT, free_ports, wait_for_port
from ..server.grpc_servers import aio_grpc_server, sync_grpc_server
from ..server.running import identity, peer_authentication, policy, serving
from ..servers import EchoServer, ScriptedServer, read_head
from ..telemetry.applications import application, send, wsgi_application
from .conftest import Page

ROOT = Path(__file__).parents[2]
BY_USER = (
    "[{name: for-jason, match: [{headers: {end-user: {exact: jason}}}], route: [{destination: {host: b}}]},"
    " {name: for-all, retries: {attempts: 2, retryOn: '503'}, route: [{destination: {host: a}}]}]"
)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_request_is_shown_with_why_it_went_where_it_did(page: Page, kind: str) -> None:
    with EchoServer("a") as server:
        server.statuses = [503]
        page.configure(service("a", server.port) + "---\n" + service("b", 1) + virtual_service("a", BY_USER))
        send(page.open(), kind, "GET", "http://a/reviews/1", headers={"end-user": "bob"})
        (line,) = page.json("/api/requests")
        shown = page.json("/api/request", number=str(line["number"]))
    assert line["url"] == "http://a/reviews/1"
    assert (line["method"], line["status"], line["attempts"], line["flags"]) == ("GET", 200, 2, "")
    assert (line["route"], line["endpoint"]) == ("for-all", f"127.0.0.1:{server.port}")
    assert line["cluster"] == "outbound|80||a.default.svc.cluster.local"
    why = shown["explanation"]
    assert why["skipped"] == [["for-jason", ["header end-user must match exact 'jason': it is 'bob'"]]]
    assert why["route"] == "for-all"
    assert why["retry"]["num_retries"] == 2
    assert [one["address"] for one in why["clusters"][0]["endpoints"]] == [f"127.0.0.1:{server.port}"]


def test_a_request_is_explained_by_the_configuration_that_it_was_decided_with(page: Page) -> None:
    with EchoServer("a") as one, EchoServer("b") as other:
        services = service("a", one.port) + "---\n" + service("b", other.port)
        page.configure(services + virtual_service("a", "[{name: before, route: [{destination: {host: a}}]}]"))
        mesh = page.open()
        with mesh.client() as client:
            client.get("http://a/")
            page.configure(services + virtual_service("a", "[{name: after, route: [{destination: {host: b}}]}]"))
            eventually(lambda: mesh.explain("GET", "http://a/").route == "after")
            client.get("http://a/")
        newer, older = page.json("/api/requests")
        assert page.json("/api/request", number=str(older["number"]))["explanation"]["route"] == "before"
        assert page.json("/api/request", number=str(newer["number"]))["explanation"]["route"] == "after"
    assert (older["endpoint"], newer["endpoint"]) == (f"127.0.0.1:{one.port}", f"127.0.0.1:{other.port}")


def test_requests_that_fail_or_are_answered_here_are_shown_too(page: Page) -> None:
    tea_here = "{name: tea, match: [{uri: {exact: /tea}}], directResponse: {status: 418}}"
    routes = f"[{tea_here}, {{route: [{{destination: {{host: a}}}}]}}]"
    page.configure(service("a", 1) + virtual_service("a", routes))
    mesh = page.open()
    with mesh.client() as client:
        assert client.get("http://a/tea").status_code == 418
        for url in ("http://a/", "http://nobody.invalid/"):
            with pytest.raises(httpx.ConnectError):
                client.get(url)
    outside, refused, tea = page.json("/api/requests")
    assert (tea["status"], tea["details"]) == (418, "direct_response")
    assert (refused["status"], refused["flags"], refused["endpoint"]) == (503, "URX,UF", "127.0.0.1:1")
    assert (outside["cluster"], outside["flags"]) == ("PassthroughCluster", "UF")
    (endpoint,) = page.json("/api/endpoints", cluster="outbound|80||a.default.svc.cluster.local")
    assert (endpoint["requests"], endpoint["errors"]) == (1, 1)
    assert page.json("/api/request", number=str(outside["number"]))["explanation"] is None


def test_the_ring_is_bounded_and_counts_go_on(page: Page) -> None:
    with EchoServer("a") as server:
        page.configure(
            service("a", server.port) + virtual_service("a", "[{name: one, route: [{destination: {host: a}}]}]")
        )
        mesh = page.open()
        with mesh.client() as client, ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda _: client.get("http://a/"), range(MAX_RECENT + 40)))
        requests = page.json("/api/requests")
        routes = page.json("/api/routes")["routes"]
    assert len(requests) == MAX_RECENT
    assert [one["number"] for one in requests] == list(range(MAX_RECENT + 40, 40, -1))
    assert {(one["name"], one["requests"]) for one in routes if one["requests"]} == {("one", MAX_RECENT + 40)}
    assert page.client.get("/api/request", params={"number": 1}).status_code == 404


@pytest.mark.parametrize("make", [application, wsgi_application])
def test_what_comes_to_servers_is_shown_with_who_sent_it(page: Page, tmp_path: Path, make: Any) -> None:
    ca, (port,) = SpiffeCa(), free_ports(1)
    denied = policy("{action: DENY, rules: [{to: [{operation: {paths: ['/private']}}]}]}")
    mutual = destination_rule("a", "trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}") + peer_authentication("STRICT")
    page.configure(service("a", port) + mutual + denied)
    mesh = page.open(identity=identity(tmp_path, ca, "web"))
    with serving(make(), mesh, port), mesh.client() as client:
        client.get("http://a/")
        assert client.get("http://a/private").status_code == 403
    seen = [one for one in page.json("/api/requests") if one["side"] == "server"]
    assert [(one["status"], one["principal"]) for one in seen] == [(403, spiffe("web")), (200, spiffe("web"))]
    edges = page.json("/api/overview")["graph"]
    assert {one["reporter"] for one in edges} == {"source", "destination"}
    assert all(one["mutual"] == one["requests"] for one in edges)


@pytest.mark.parametrize(("kind", "serve"), [("sync", sync_grpc_server), ("aio", aio_grpc_server)])
def test_grpc_calls_are_shown_on_both_sides(page: Page, kind: str, serve: Any) -> None:
    (port,) = free_ports(1)
    yaml = service("ratings", port, port=9080).replace("name: http", "name: grpc").replace("{http:", "{grpc:")
    page.configure(yaml)
    mesh = page.open()
    with serve(mesh, port, secure=False):
        client = make_client(kind, mesh, "ratings:9080")
        client.call()
        client.close()
        client_side, server_side = eventually(
            lambda: len(found := sorted(page.json("/api/requests"), key=lambda one: str(one["side"]))) == 2 and found
        )
    assert client_side["url"] == "http://ratings:9080/test.Echo/Say"
    assert (client_side["grpc_status"], client_side["endpoint"]) == ("0", f"127.0.0.1:{port}")
    assert server_side["url"] == "/test.Echo/Say"


def test_a_change_is_shown_as_its_difference(page: Page) -> None:
    rule = "trafficPolicy: {{connectionPool: {{http: {{http1MaxPendingRequests: {0}}}}}}}"
    page.configure(service("a", 1) + destination_rule("a", rule.format(7)))
    mesh = page.open()
    mesh.wait_ready("a")
    page.configure(service("a", 1) + destination_rule("a", rule.format(8)))
    eventually(lambda: any(one["what"] == "changed" for one in page.json("/api/changes")))
    changes = page.json("/api/changes")
    newest = changes[0]
    assert (newest["kind"], newest["name"]) == ("Cluster", "outbound|80||a.default.svc.cluster.local")
    lines = page.json("/api/change", number=str(newest["number"]))["lines"]
    assert [line.split() for line in lines if line[0] in "+-" and "pending" in line] == [
        ["-", '"max_pending_requests":', "7,"],
        ["+", '"max_pending_requests":', "8,"],
    ]
    assert {one["what"] for one in changes[1:]} == {"added"}


SECRETS = {
    "authorization": "Bearer geheim",
    "cookie": "session=geheim",
    "x-api-key": "geheim",
    "x-forwarded-client-cert": "geheim",
}


def test_no_path_tells_a_secret(page: Page, tmp_path: Path) -> None:
    """Those of requests, though routes look at them, and those of the configuration and the identity."""
    routes = (
        "[{match: [{headers: {authorization: {exact: other}, cookie: {regex: 'no'}}}],"
        " route: [{destination: {host: a}}]},"
        " {headers: {request: {set: {x-copy: '%REQ(authorization)%', x-auth: konfiguriert}}},"
        " route: [{destination: {host: a}}]}]"
    )
    own = identity(tmp_path, SpiffeCa(), "web")
    with EchoServer("a") as server:
        page.configure(service("a", server.port) + virtual_service("a", routes))
        mesh = page.open(identity=own)
        with mesh.client() as client:
            answer = client.get("http://a/x?access_token=geheim&plain=1", headers=SECRETS)
            assert "geheim" in json.dumps(answer.json())
        number = str(page.json("/api/requests")[0]["number"])
        own.credentials()
        paths = re.findall(r"^  (/\S+)$", page.text("/help"), re.MULTILINE)
        assert len(paths) > 15
        for path in paths:
            response = page.client.get(path, params={"number": number, "include_eds": "", "format": "json"})
            assert "geheim" not in response.text, path
            assert "konfiguriert" not in response.text, path
            assert "PRIVATE KEY" not in response.text, path
    shown = page.json("/api/request", number=number)
    assert shown["url"] == "http://a/x?access_token=[redacted]&plain=1"
    assert shown["explanation"]["skipped"][0][1] == [
        "header authorization does not match",
        "header cookie does not match",
    ]


def test_nothing_can_be_changed(page: Page) -> None:
    page.configure(service("a", 1))
    page.open()
    for path in ("/quitquitquit", "/logging", "/reset_counters", "/healthcheck/fail", "/api/clusters"):
        assert page.client.post(path).status_code == 404
    assert page.client.get("/quitquitquit").status_code == 404
    assert page.client.get("/api/explain").status_code == 404
    assert page.client.get("/../../etc/passwd").status_code == 404
    assert page.client.get("/..%2fadmin.py").status_code == 404
    assert page.client.put("/api/explain").status_code == 501


def test_a_question_is_answered_as_by_the_library(page: Page) -> None:
    page.configure(service("a", 1) + "---\n" + service("b", 2) + virtual_service("a", BY_USER))
    mesh = page.open()
    asked = {"method": "GET", "url": "http://a/x", "headers": {"end-user": "jason"}}
    answer = page.client.post("/api/explain", json=asked)
    assert answer.json() == json.loads(json.dumps(mesh.explain("GET", "http://a/x", {"end-user": "jason"}).to_dict()))
    assert answer.json()["route"] == "for-jason"
    for body in (
        "[]",
        "{",
        '{"url": "http://a:x/", "method": "GET"}',
        '{"url": "http://a/", "headers": {"a": 1}}',
    ):
        answer = page.client.post("/api/explain", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400, body
    # A form of another site could send this without asking the browser's leave.
    assert page.client.post("/api/explain", content=json.dumps(asked)).status_code == 400


@pytest.mark.parametrize(
    ("headers", "is_allowed"),
    [
        ({"host": "localhost:15000"}, True),
        ({"host": "127.0.0.1:15000"}, True),
        ({"host": "[::1]:15000"}, True),
        ({"host": "LOCALHOST"}, True),
        ({"host": "127.0.0.1"}, True),
        ({}, False),
        ({"host": ""}, False),
        ({"host": "evil.example"}, False),
        ({"host": "evil.example:15000"}, False),
        ({"host": "localhost.evil.example"}, False),
        ({"host": "127.0.0.1.evil.example"}, False),
        ({"host": "10.0.0.1:15000"}, False),
        ({"host": "localhost:15000", "origin": "http://localhost:15000"}, True),
        ({"host": "localhost:15000", "origin": "http://evil.example"}, False),
        ({"host": "localhost:15000", "origin": "http://localhost:8000"}, False),
        ({"host": "localhost:15000", "origin": "null"}, False),
        ({"host": "localhost:15000", "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, False),
        ({"host": "localhost:15000", "sec-fetch-site": "same-site", "sec-fetch-mode": "cors"}, False),
        ({"host": "localhost:15000", "sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}, True),
        (
            {
                "host": "localhost:15000",
                "sec-fetch-site": "cross-site",
                "sec-fetch-mode": "navigate",
                "sec-fetch-dest": "document",
            },
            True,
        ),
        (
            {
                "host": "localhost:15000",
                "sec-fetch-site": "cross-site",
                "sec-fetch-mode": "navigate",
                "sec-fetch-dest": "iframe",
            },
            False,
        ),
    ],
)
def test_pages_of_others_may_not_ask(headers: dict[str, str], is_allowed: bool) -> None:
    assert (refusal(headers, "127.0.0.1") == "") is is_allowed


def test_the_real_page_refuses_them_too(page: Page) -> None:
    page.configure(service("a", 1))
    page.open()
    for headers in ({"host": "evil.example"}, {"origin": "http://evil.example"}):
        assert page.client.get("/api/overview", headers=headers).status_code == 403
    answer = page.client.get("/")
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert page.client.head("/").text == ""


def test_it_listens_on_loopback_alone(page: Page) -> None:
    page.configure(service("a", 1))
    page.open()
    port = page.url.rpartition(":")[2]
    shown = subprocess.run(["cat", "/proc/net/tcp"], capture_output=True, text=True, check=True).stdout
    lines = [line.split() for line in shown.splitlines()[1:]]
    listening = {line[1].partition(":")[0] for line in lines if line[3] == "0A" and int(line[1][-4:], 16) == int(port)}
    assert listening == {"0100007F"}


def test_a_process_that_is_not_looked_at_loads_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / "mesh.yaml").write_text(service("a", 1))
    script = """
        import sys, meshsdk
        with meshsdk.Mesh(config=sys.argv[1]) as mesh:
            mesh.wait_ready("a")
            assert mesh.admin_url == ""
        assert not [name for name in sys.modules if name.startswith(("meshsdk.admin", "envoy.admin", "http.server"))]
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], check=True, cwd=ROOT, env=CLEAN_ENVIRONMENT
    )


def test_the_environment_names_the_port(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    page.configure(service("a", 1))
    (port,) = free_ports(1)
    monkeypatch.setenv("MESHSDK_ADMIN_PORT", str(port))
    with meshsdk.Mesh(config=page.folder) as mesh:
        assert eventually(lambda: mesh.admin_url) == f"http://127.0.0.1:{port}/"
    monkeypatch.setenv("MESHSDK_ADMIN_PORT", "x")
    with pytest.raises(meshsdk.BootstrapError, match="MESHSDK_ADMIN_PORT"):
        meshsdk.Mesh(config=page.folder)
    with pytest.raises(ValueError, match="admin_port"):
        meshsdk.Mesh(config=page.folder, admin_port=0)


APPLICATION = """
import os, flask, meshsdk
mesh = meshsdk.Mesh()
app = flask.Flask("web")
@app.get("/")
def answer():
    with mesh.client() as client:
        client.get("http://a/")
    return str(os.getpid())
"""


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["", "preload"])
def test_each_of_gunicorns_workers_has_a_page_of_its_own(page: Page, tmp_path: Path, options: tuple[str, ...]) -> None:
    (tmp_path / "shown_application.py").write_text(APPLICATION)
    port, admin_port = free_ports(2)
    with EchoServer("a") as server:
        page.configure(service("a", server.port))
        environment = {
            **CLEAN_ENVIRONMENT,
            "MESHSDK_CONFIG": str(page.folder),
            "MESHSDK_ADMIN_PORT": str(admin_port),
            "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
        }
        command = [sys.executable, "-m", "gunicorn", "-w", "3", "-b", f"127.0.0.1:{port}", *options]
        process = subprocess.Popen([*command, "shown_application:app"], env=environment, cwd=ROOT)
        try:
            wait_for_port(port)
            url, seen = f"http://127.0.0.1:{port}/", set[int]()
            with ThreadPoolExecutor(6) as threads:
                while len(seen) < 3:
                    seen |= {int(answer.text) for answer in threads.map(httpx.get, [url] * 6)}

            def pages() -> bool:
                try:
                    ports = httpx.get(f"http://127.0.0.1:{admin_port}/api/processes").json()
                    told = [httpx.get(f"http://127.0.0.1:{one}/api/overview").json() for one in ports]
                except httpx.TransportError:
                    return False  # Workers open theirs beside answering.
                return seen <= {one["process"]["pid"] for one in told if one["last_request"]}

            eventually(pages)
        finally:
            process.terminate()
            process.wait(PATIENCE)


def test_the_command_shows_all_of_a_folder(page: Page) -> None:
    page.configure(service("a", 1) + "---\n" + service("b", 1))
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "meshsdk", "admin", str(page.folder), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=CLEAN_ENVIRONMENT)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"the mesh is shown at http://127.0.0.1:{port}/\n"
        eventually(lambda: httpx.get(f"http://127.0.0.1:{port}/api/clusters").json()["total"] == 2)
    finally:
        process.terminate()
        assert process.wait(PATIENCE) == 0
        process.stdout.close()  # type: ignore[union-attr]


def test_a_response_that_the_collector_finds_while_another_is_noted_holds_nobody_up(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends there and then, in the thread that has the lock."""

    class Stream:
        """As clients of APIs have them: it holds its generator, which holds it."""

        def __init__(self, response: httpx.Response) -> None:
            self._response = response
            self.pieces = self._read()

        def _read(self) -> Iterator[bytes]:
            yield from self._response.iter_raw()

    class Clock:
        time = staticmethod(lambda: (gc.collect(), time.time())[1])

    def begin(connection: socket.socket, number: int) -> None:
        """The first response never ends."""
        read_head(connection)
        if number:
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            return
        connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
        connection.recv(1)

    with ScriptedServer(begin) as server:
        page.configure(service("a", server.port))
        mesh = page.open()
        with mesh.client() as client:
            stream = Stream(client.send(client.build_request("GET", "http://a/"), stream=True))
            next(stream.pieces)
            gc.disable()
            try:
                del stream
                monkeypatch.setattr("meshsdk.admin.recent.time", Clock)
                answered = threading.Thread(target=client.get, args=["http://a/"], daemon=True)
                answered.start()
                answered.join(PATIENCE)
            finally:
                gc.enable()
            assert not answered.is_alive()
        assert sorted(one["flags"] for one in page.json("/api/requests")) == ["", "DC"]
