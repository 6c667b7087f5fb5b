"""Ports that carry bytes: a VirtualService's tls and tcp routes say where their connections go."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from meshsdk.controlplane.client import Client
from meshsdk.controlplane.folder import load
from meshsdk.resources import ResourceType, decode
from tests.conftest import MakeMesh
from tests.servers import ScriptedServer, read_head

HOSTS = ("a.example.com", "b.example.com")


def entry(host: str, number: int, protocol: str, endpoint: int) -> str:
    return (
        f"apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {host}-{number}}}\n"
        f"spec: {{hosts: [{host}], resolution: STATIC, ports: [{{number: {number}, name: p, protocol: {protocol}}}],"
        f" endpoints: [{{address: 127.0.0.1, ports: {{p: {endpoint}}}}}]}}\n---\n"
    )


def rule(host: str, spec: str) -> str:
    return (
        f"apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: r}}\n"
        f"spec: {{hosts: ['{host}'], {spec}}}\n"
    )


def destinations(folder: Path, protocol: str, spec: str, client: Client, host: str = "*.example.com") -> dict[str, int]:
    """Hosts that connections to a.example.com go to, with weights."""
    (folder / "m.yaml").write_text("".join(entry(one, 443, protocol, 1) for one in HOSTS) + rule(host, spec))
    state = load(folder)
    assert not state.errors
    packed = state.view(client).grpc[(ResourceType.ROUTE_CONFIGURATION, "outbound|443||a.example.com")]
    [route] = decode(ResourceType.ROUTE_CONFIGURATION, packed).virtual_hosts[0].routes
    return {choice.name.rpartition("|")[2]: choice.weight for choice in route.action.clusters}


def to(host: str, weight: str = "") -> str:
    return f"{{destination: {{host: {host}}}{weight}}}"


TO_B = f"route: [{to('b.example.com')}]"


@pytest.mark.parametrize(
    ("protocol", "spec", "goes_to"),
    [
        ("TLS", f"tls: [{{match: [{{sniHosts: [a.example.com]}}], {TO_B}}}]", "b.example.com"),
        ("HTTPS", f"tls: [{{match: [{{sniHosts: ['*.example.com']}}], {TO_B}}}]", "b.example.com"),
        ("TLS", f"tls: [{{match: [{{sniHosts: [b.example.com]}}], {TO_B}}}]", "a.example.com"),
        ("TLS", f"tls: [{{match: [{{sniHosts: [a.example.com], port: 444}}], {TO_B}}}]", "a.example.com"),
        (
            "TLS",
            f"tls: [{{match: [{{sniHosts: ['*.example.com']}}], route: [{to('a.example.com')}]}},"
            f" {{match: [{{sniHosts: [a.example.com]}}], {TO_B}}}]",
            "b.example.com",
        ),
        ("TCP", f"tls: [{{match: [{{sniHosts: [a.example.com]}}], {TO_B}}}]", "a.example.com"),
        ("TCP", f"tcp: [{{{TO_B}}}]", "b.example.com"),
        ("TCP", f"tcp: [{{match: [{{port: 443}}], {TO_B}}}]", "b.example.com"),
        ("TCP", f"tcp: [{{match: [{{port: 80}}], {TO_B}}}]", "a.example.com"),
        ("TCP", f"tcp: [{{match: [{{destinationSubnets: [10.0.0.0/8]}}], {TO_B}}}]", "a.example.com"),
        ("TCP", f"tcp: [{{match: [{{sourceLabels: {{app: web}}}}], {TO_B}}}]", "b.example.com"),
        ("TCP", f"tcp: [{{match: [{{sourceLabels: {{app: x}}}}], {TO_B}}}]", "a.example.com"),
        ("TCP", f"http: [{{{TO_B}}}]", "a.example.com"),
        ("HTTP", f"tcp: [{{{TO_B}}}]", "a.example.com"),
    ],
)
def test_connections_go_where_the_routes_of_their_kind_say(
    tmp_path: Path, protocol: str, spec: str, goes_to: str
) -> None:
    client = Client(labels=(("app", "web"),))
    assert list(destinations(tmp_path, protocol, spec, client)) == [goes_to]


def test_connections_are_shared_by_weight(tmp_path: Path) -> None:
    spec = f"tcp: [{{route: [{to('a.example.com', ', weight: 30')}, {to('b.example.com', ', weight: 70')}]}}]"
    assert destinations(tmp_path, "TCP", spec, Client()) == {"a.example.com": 30, "b.example.com": 70}


def test_https_goes_by_its_server_name_and_stays_encrypted(make_mesh: MakeMesh, stack: Any) -> None:
    """The client's own TLS reaches the server of the other host: the mesh carries bytes."""
    authority = trustme.CA()
    trusted, own = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.configure_trust(trusted)
    authority.issue_cert("a.example.com").configure_cert(own)

    def script(connection: Any, number: int) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")

    server = stack.enter_context(ScriptedServer(script, own))
    port = httpx.URL(server.url).port or 0
    spec = f"tls: [{{match: [{{sniHosts: [a.example.com]}}], {TO_B}}}]"
    yaml = entry(HOSTS[0], 443, "TLS", 1) + entry(HOSTS[1], 443, "TLS", port) + rule("a.example.com", spec)
    with make_mesh(yaml).client(verify=trusted) as client:
        response = client.get("https://a.example.com/")
    assert (response.text, response.extensions["mesh"].cluster) == ("hello", "outbound|443||b.example.com")
