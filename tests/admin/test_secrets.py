"""What lets a caller in is shown nowhere, whatever it is called and wherever it stands."""

from __future__ import annotations

import base64
import json
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2  # noqa: F401 - for what is read from JSON.
from google.protobuf import any_pb2, duration_pb2, json_format
from xds.type.v3 import typed_struct_pb2  # noqa: F401 - likewise.

from meshsdk.admin import dumped, recent
from meshsdk.admin.history import History
from meshsdk.admin.recent import Recent
from meshsdk.admin.redaction import REDACTED, shown_error, shown_head, shown_reason, shown_url
from meshsdk.exchange import Directory, Exchange
from meshsdk.exchange.directory import compile_target
from meshsdk.resources.message_types import class_of
from meshsdk.routing import RequestHead
from meshsdk.sensitive import is_sensitive
from meshsdk.server import side_port
from meshsdk.server.side_port import Answer, SidePort
from meshsdk.telemetry.workload import NOBODY

from ..conftest import service, virtual_service
from ..patience import PATIENCE
from ..processes import envoy, free_ports
from ..server.running import serving
from ..servers import EchoServer
from ..telemetry.applications import application
from ..telemetry.test_hostile_peers import metadata_of
from .conftest import Page

_CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"

SECRET = (
    "api_key api-key apikey APIKEY access_key private_key user_key appkey subscription-key X-Amz-Signature sig"
    " X-Goog-Signature jwt assertion SAMLResponse pass passphrase pin otp hmac sid PHPSESSID ticket bearer code"
    " code_verifier access_token id_token token secret client_secret password passwd session_id"
    " ocp-apim-subscription-key"
    " x-functions-key x-goog-iap-jwt-assertion x-amzn-oidc-data dpop x-hub-signature-256 x-csrf-token authorization"
    " proxy-authorization cookie set-cookie x-forwarded-client-cert x-auth-request-user"
).split()
PLAIN = "page q id name limit sort end-user user-agent accept :authority x-request-id keyboard".split()


@pytest.mark.parametrize("name", SECRET)
def test_names_that_tell_of_secrets(name: str) -> None:
    assert is_sensitive(name)
    head = RequestHead("GET", "http", "a", f"/x?{name}=geheim&page=2", [(name.encode(), b"geheim")])
    assert "geheim" not in shown_url(head)
    assert "page=2" in shown_url(head)
    assert shown_head(head, [name.lower()]).raw_headers[0][1] == REDACTED.encode()


@pytest.mark.parametrize("name", PLAIN)
def test_names_that_tell_of_none(name: str) -> None:
    assert not is_sensitive(name)
    head = RequestHead("GET", "http", "a", f"/x?{name}=jason", [(name.encode(), b"jason")])
    assert "jason" in shown_url(head)
    assert shown_head(head, [name]).raw_headers[0][1] == b"jason"


@pytest.mark.parametrize(
    "target",
    [
        "/x?a=1;token=geheim",
        "/x?next=http%3A%2F%2Fb%2F%3Ftoken%3Dgeheim",
        "/x?next=https://u:geheim@b/",
        "/x?v=Bearer%20geheim",
        "/x?v=eyJgeheim.eyJb.c",
        "/x?a%5Ftoken=geheim",
    ],
)
def test_values_that_look_like_secrets(target: str) -> None:
    assert "geheim" not in shown_url(RequestHead("GET", "http", "a", target))


def test_a_header_that_nobody_looks_at_is_not_shown() -> None:
    headers = [
        (b"x-own", b"geheim"),
        (b"Accept", b"*/*"),
        (b"End-User", b"jason"),
        (b"referer", b"http://b/?token=geheim"),
    ]
    shown = shown_head(RequestHead("GET", "http", "u:geheim@a", "/", headers), ["end-user"])
    assert [value for _, value in shown.raw_headers] == [b"[redacted]", b"*/*", b"jason", b"[redacted]"]
    assert shown.authority == "a"


def test_reasons_and_errors_say_nothing_of_secret_values() -> None:
    assert shown_reason("header x-api-key must match exact 'geheim': it is 'b'") == "header x-api-key does not match"
    assert shown_reason("query parameter token must match exact 'geheim': it is not there").endswith("does not match")
    assert "'bob'" in shown_reason("header end-user must match exact 'jason': it is 'bob'")
    error = "a: X.header.value: must be a legal HTTP header value, is 'Basic geheim\\n'"
    assert shown_error(error) == "a: X.header.value: must be a legal HTTP header value"


def test_what_is_typed_as_a_struct_is_hidden_as_by_a_real_envoy(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    inside = {"common_tls_context": {"tls_certificates": [{"private_key": {"inline_string": "geheim"}}]}}
    typed = {
        "@type": "type.googleapis.com/xds.type.v3.TypedStruct",
        "type_url": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "value": inside,
    }
    config = {
        "name": "a",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": "a"},
        "metadata": {"typed_filter_metadata": {"x": typed}},
    }
    whole: dict[str, object] = {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}},
        "static_resources": {"clusters": [config]},
    }
    with envoy(whole, [port], tmp_path):
        url = f"http://127.0.0.1:{port}/config_dump?resource=static_clusters"
        theirs = httpx.get(url, timeout=PATIENCE).json()["configs"][0]["cluster"]
    made = class_of(_CLUSTER.rpartition("/")[2])
    assert made is not None
    ours = dumped.plain(_CLUSTER, json_format.ParseDict(config, made()).SerializeToString())
    assert "geheim" not in json.dumps(theirs)
    assert ours == theirs


def cluster_with(metadata: Any) -> bytes:
    made = class_of(_CLUSTER.rpartition("/")[2])
    assert made is not None
    message: Any = made(name="a")
    message.metadata.CopyFrom(metadata)
    packed: bytes = message.SerializeToString()
    return packed


def test_fields_of_metadata_are_hidden_by_their_names() -> None:
    metadata = base_pb2.Metadata()
    metadata.filter_metadata["x"].update(
        {"password": "geheim", "deep": {"api_key": "geheim", "list": [{"token": "geheim"}]}}
    )
    metadata.filter_metadata["x"].update({"said": "Bearer geheim", "plain": "shown"})
    shown = json.dumps(dumped.plain(_CLUSTER, cluster_with(metadata)))
    assert "geheim" not in shown
    assert '"plain": "shown"' in shown


@pytest.mark.parametrize(
    "odd",
    [
        any_pb2.Any(type_url="type.googleapis.com/envoy.config.core.v3.base_pb2.X"),
        any_pb2.Any(type_url="type.googleapis.com/envoy._bin.x"),
        any_pb2.Any(type_url="x", value=b"\xff"),
        any_pb2.Any(
            type_url="type.googleapis.com/google.protobuf.Duration",
            value=duration_pb2.Duration(seconds=10**17).SerializeToString(),
        ),
    ],
    ids=["module", "binary", "bytes", "range"],
)
def test_one_odd_value_hides_itself_alone(odd: any_pb2.Any) -> None:
    metadata = base_pb2.Metadata()
    metadata.typed_filter_metadata["x"].CopyFrom(odd)
    shown = dumped.plain(_CLUSTER, cluster_with(metadata))
    assert shown["@type"]


def test_a_caller_cannot_say_that_it_is_an_identity(page: Page) -> None:
    (port,) = free_ports(1)
    page.configure(service("a", port))
    mesh = page.open()
    told = metadata_of("spiffe://cluster", NAMESPACE="local/ns/default/sa/admin").decode()
    with serving(application(), mesh, port):
        for name in (told, metadata_of("productpage-v1").decode()):
            httpx.get(f"http://127.0.0.1:{port}/", headers={"x-envoy-peer-metadata": name})
    says, pretends = page.json("/api/requests")
    assert (says["principal"], says["caller"]) == ("", "productpage-v1.default")
    assert (pretends["principal"], pretends["caller"]) == ("", "")
    assert "sa/admin" not in page.text("/api/overview")


def test_routes_of_one_path_are_told_apart(page: Page) -> None:
    there = "route: [{destination: {host: a}}]"
    matches = f"[{{match: [{{headers: {{x: {{exact: y}}}}}}], {there}}}, {{{there}}}]"
    with EchoServer("a") as server:
        page.configure(service("a", server.port) + virtual_service("a", matches))
        mesh = page.open()
        with mesh.client() as client:
            for value in ("y", "n", "n"):
                client.get("http://a/", headers={"x": value})
    routes = [one for one in page.json("/api/routes")["routes"] if one["listener"] == "a.default.svc.cluster.local:80"]
    assert [(one["place"], one["requests"]) for one in routes] == [(0, 1), (1, 2)]


def test_pushes_of_configuration_are_not_kept_without_bound(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a table of its own, which a request and the past would hold."""
    monkeypatch.setattr(recent, "_MAX_ROUTES", 50)
    monkeypatch.setattr("meshsdk.admin.history._MAX_ROUTES", 50)
    seen = Recent(lambda: None)
    past = History()
    with EchoServer("a") as server:
        routes = ", ".join("{route: [{destination: {host: a}}]}" for _ in range(10))
        page.configure(service("a", server.port) + virtual_service("a", f"[{routes}]"))
        mesh = page.open()
        mesh.wait_ready("a")
        target = next(one for one in mesh._runtime.directory.targets.values() if one.table is not None)
        assert target.table is not None
        for version in range(1, 40):
            compiled = compile_target(target.view, None)
            assert compiled.table is not None
            head = RequestHead("GET", "http", "a", "/")
            route = compiled.table.routes[0]
            assert route.forward is not None
            cluster = mesh._runtime.directory.clusters["outbound|80||a.default.svc.cluster.local"]
            exchange = Exchange(head, route, route.forward, route.forward.destinations[0], cluster, lambda: 0.5)
            exchange.table, exchange.clusters = compiled.table, mesh._runtime.directory.clusters
            seen.sent(head, exchange, None, (200, "", ""), "", 1)
            past.keep(Directory(version, {"a": compiled}))
    kept = {id(one.decided.exchange.table) for one in seen.after(0) if one.decided and one.decided.exchange}  # type: ignore[union-attr]
    assert len(kept) == 5
    assert len(seen.after(0)) == 39
    assert len(past._kept) == 5
    assert past._kept[-1][1].version == 39


def test_a_request_that_ends_after_the_mesh_is_closed_is_not_failed(page: Page) -> None:
    page.configure(service("a", 1))
    mesh = page.open()
    metrics = mesh._runtime.metrics
    assert metrics is not None
    mesh.close()
    metrics.after_fork()  # A child's first request.
    metrics.recent.received(RequestHead("GET", "http", "a", "/"), "", NOBODY, (200, "", ""), 1)
    assert metrics.recent.last == 1


def test_slow_readers_get_long_answers_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_port._Handler, "timeout", 1.0)
    (port,) = free_ports(1)
    body = base64.b64encode(bytes(9_000_000))
    served = SidePort("long", port, lambda asked: Answer(200, "text/plain", body), address="127.0.0.1")
    served.start()
    try:
        while not served.port:
            time.sleep(0.01)
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as reader:
            reader.sendall(b"GET / HTTP/1.0\r\n\r\n")
            got = 0
            while piece := reader.recv(400_000):
                got += len(piece)
                time.sleep(0.05)
    finally:
        served.close()
    assert got > len(body)
