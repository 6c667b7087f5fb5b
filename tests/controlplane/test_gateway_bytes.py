"""TCPRoute and TLSRoute of Gateway API at Services. What is expected is what istiod 1.31 sends a sidecar."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshsdk.controlplane.client import Client
from meshsdk.controlplane.folder import load
from meshsdk.resources import ResourceType, decode
from tests.conftest import MakeMesh
from tests.patience import PATIENCE
from tests.servers import EchoServer

WORLD = """
apiVersion: v1
kind: Service
metadata: {name: db}
spec:
  ports: [{name: tcp-a, port: 9000}, {name: tcp-b, port: 9001}, {name: tls, port: 9443}, {name: http, port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: copy, namespace: other}
spec: {ports: [{name: tcp, port: 9000}, {name: tls, port: 9443}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: external}
spec:
  hosts: [a.example, b.example]
  resolution: STATIC
  ports: [{number: 443, name: tls, protocol: TLS}]
  endpoints: [{address: 192.0.2.9}]
"""
COPY = "{name: copy, namespace: other, port: 9000}"


def route(kind: str, parent: str, rule: str, *, more: str = "", namespace: str = "default", version: str = "v1") -> str:
    return (
        f"---\napiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\n"
        f"metadata: {{name: r, namespace: {namespace}}}\nspec: {{parentRefs: [{parent}], {more}rules: [{{{rule}}}]}}\n"
    )


def db(port: str = "") -> str:
    return f"{{group: '', kind: Service, name: db, namespace: default{port}}}"


def goes_to(folder: Path, yaml: str, host: str, port: int, namespace: str = "default") -> dict[str, int]:
    (folder / "m.yaml").write_text(WORLD + yaml)
    state = load(folder)
    assert not state.errors
    packed = state.view(Client(namespace)).grpc[(ResourceType.ROUTE_CONFIGURATION, f"outbound|{port}||{host}")]
    [found] = decode(ResourceType.ROUTE_CONFIGURATION, packed).virtual_hosts[0].routes
    return {one.name.removeprefix("outbound|"): one.weight for one in found.action.clusters}


DB, OTHER = "db.default.svc.cluster.local", "copy.other.svc.cluster.local"


@pytest.mark.parametrize(
    ("parent", "backends", "on_9000", "on_9001"),
    [
        (
            db(", port: 9000"),
            f"{COPY}, {{name: db, port: 9001, weight: 3}}, {{name: db, port: 80, weight: 0}}",
            {f"9000||{OTHER}": 1, f"9001||{DB}": 3},
            {f"9001||{DB}": 1},
        ),
        (db(), COPY, {f"9000||{OTHER}": 1}, {f"9000||{OTHER}": 1}),
        (
            db(", port: 9000"),
            "{name: db, port: 9000, weight: 0}",
            {"65535|zero-weight|internal.cluster.local": 1},
            {f"9001||{DB}": 1},
        ),
    ],
    ids=["one port, weights", "every port", "no weight"],
)
def test_a_tcp_route_says_where_connections_go(
    tmp_path: Path, parent: str, backends: str, on_9000: dict[str, int], on_9001: dict[str, int]
) -> None:
    yaml = route("TCPRoute", parent, f"backendRefs: [{backends}]")
    assert goes_to(tmp_path, yaml, DB, 9000) == on_9000
    assert goes_to(tmp_path, yaml, DB, 9001) == on_9001
    assert goes_to(tmp_path, yaml, DB, 80) == {f"80||{DB}": 1}


def test_a_route_of_a_consumer_holds_for_everybody(tmp_path: Path) -> None:
    """Other than an HTTPRoute."""
    yaml = route("TCPRoute", db(", port: 9000"), f"backendRefs: [{COPY}]", namespace="third")
    for namespace in ("default", "third", "another"):
        assert goes_to(tmp_path, yaml, DB, 9000, namespace) == {f"9000||{OTHER}": 1}


@pytest.mark.parametrize("names", ["", f"hostnames: [{DB}], "], ids=["the service's own name", "by name"])
def test_a_tls_route_is_for_ports_of_tls(tmp_path: Path, names: str) -> None:
    to = "backendRefs: [{name: copy, namespace: other, port: 9443}]"
    yaml = route("TLSRoute", db(), to, more=names, version="v1alpha2")
    assert goes_to(tmp_path, yaml, DB, 9443) == {f"9443||{OTHER}": 1}
    assert goes_to(tmp_path, yaml, DB, 9000) == {f"9000||{DB}": 1}


def test_a_tls_route_of_a_service_entry_is_for_the_server_names_that_it_names(tmp_path: Path) -> None:
    parent = "{group: networking.istio.io, kind: ServiceEntry, name: external}"
    yaml = route("TLSRoute", parent, "backendRefs: [{name: db, port: 9443}]", more="hostnames: [a.example], ")
    assert goes_to(tmp_path, yaml, "a.example", 443) == {f"9443||{DB}": 1}
    assert goes_to(tmp_path, yaml, "b.example", 443) == {"443||b.example": 1}


@pytest.mark.parametrize(
    ("yaml", "told"),
    [
        (route("TCPRoute", db(), "name: x"), "backendRefs: must be set"),
        (route("TCPRoute", db(), "backendRefs: [{name: db}]"), "port: must be set for a Service"),
        (route("TCPRoute", db(), "backendRefs: [{name: db, port: 80, filters: []}]"), "filters"),
        (route("TCPRoute", db(), f"backendRefs: [{COPY}], matches: []"), "matches"),
        (route("TCPRoute", db(), f"backendRefs: [{COPY}]", version="v2"), "gateway.networking.k8s.io"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path: Path, yaml: str, told: str) -> None:
    (tmp_path / "m.yaml").write_text(WORLD + yaml)
    assert any(told in one for one in load(tmp_path).errors)


def test_backends_that_are_not_there_and_other_parents_are_told(tmp_path: Path) -> None:
    gateway = route("TLSRoute", "{name: gateway}", "backendRefs: [{name: db, port: 9443}]", more="hostnames: [x], ")
    missing = route("TCPRoute", db(), "backendRefs: [{name: nowhere, port: 1}]")
    (tmp_path / "m.yaml").write_text(WORLD + gateway + missing.replace("name: r,", "name: s,"))
    texts = [one.text for one in load(tmp_path).problems]
    assert any("Gateway is for gateways" in one for one in texts)
    assert any("connections fail: there is no service 'nowhere.default.svc.cluster.local'" in one for one in texts)


def test_requests_go_where_the_route_says(make_mesh: MakeMesh, echo_pair: tuple[EchoServer, EchoServer]) -> None:
    one, two = echo_pair
    entries = "".join(
        f"---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\n"
        f"spec: {{hosts: [{name}.example], resolution: STATIC, ports: [{{number: 9000, name: tcp, protocol: TCP}}],"
        f" endpoints: [{{address: 127.0.0.1, ports: {{tcp: {server.port}}}}}]}}\n"
        for name, server in (("one", one), ("two", two))
    )
    parent = "{group: networking.istio.io, kind: ServiceEntry, name: one}"
    to = "backendRefs: [{group: networking.istio.io, kind: Hostname, name: two.example, port: 9000}]"
    with make_mesh(entries + route("TCPRoute", parent, to)).client(timeout=PATIENCE) as client:
        assert client.get("http://one.example:9000/").json()["name"] == "two"


@pytest.fixture
def echo_pair(echo: object) -> tuple[EchoServer, EchoServer]:
    return echo("one"), echo("two")  # type: ignore[operator]
