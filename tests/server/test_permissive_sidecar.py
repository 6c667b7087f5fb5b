"""Clients of a real Envoy that takes connections as Istio's sidecar does in PERMISSIVE, Istio's default."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

import meshsdk
from meshsdk.controlplane import Folder
from meshsdk.controlplane.server import ControlPlaneServer
from meshsdk.http.tls import speaks_http2
from meshsdk.resources import HttpProtocol

from ..ads import AdsServer
from ..certificates import SpiffeCa, spiffe
from ..conftest import destination_rule, service
from ..grpc.xds import cluster, documents, endpoints, listener
from ..processes import envoy, free_ports
from ..servers import ScriptedServer
from .running import identity, mesh_of

FILTERS = "type.googleapis.com/envoy.extensions.filters"
TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"

# pilot/pkg/networking/core/listener.go, allIstioMtlsALPNs.
ISTIO = ["istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"]
MUTUAL = "trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}"


@pytest.fixture(scope="module")
def ca() -> SpiffeCa:
    return SpiffeCa()


def answering(text: str) -> dict[str, Any]:
    """A connection manager that says which chain it is of."""
    answer = {"status": 200, "body": {"inline_string": text}}
    manager = {
        "@type": f"{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "codec_type": "AUTO",
        "route_config": {
            "virtual_hosts": [
                {"name": "in", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "direct_response": answer}]}
            ]
        },
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{FILTERS}.http.router.v3.Router"}}],
    }
    return {"name": "manager", "typed_config": manager}


def sidecar(port: int, place: Path, mode: str) -> dict[str, Any]:
    """An Envoy with the filter chains that istiod makes for an HTTP port (listener_inbound.go)."""
    context = {
        "@type": f"{TLS}.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_certificates": [
                {
                    "certificate_chain": {"filename": str(place / "cert.pem")},
                    "private_key": {"filename": str(place / "key.pem")},
                }
            ],
            "validation_context": {"trusted_ca": {"filename": str(place / "roots.pem")}},
        },
    }
    match: dict[str, Any] = {"transport_protocol": "tls"}
    if mode == "PERMISSIVE":
        match["application_protocols"] = ISTIO
    mutual = {
        "filter_chain_match": match,
        "filters": [answering("mutual")],
        "transport_socket": {"name": "tls", "typed_config": context},
    }
    plain = {"filter_chain_match": {"transport_protocol": "raw_buffer"}, "filters": [answering("plaintext")]}
    inspectors = [
        {
            "name": f"envoy.filters.listener.{name}_inspector",
            "typed_config": {"@type": f"{FILTERS}.listener.{name}_inspector.v3.{kind}Inspector"},
        }
        for name, kind in (("tls", "Tls"), ("http", "Http"))
    ]
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    one = {
        "name": "in",
        "address": address,
        "listener_filters": inspectors,
        "filter_chains": [mutual, *([plain] if mode == "PERMISSIVE" else [])],
    }
    return {"static_resources": {"listeners": [one]}}


@pytest.fixture(params=["PERMISSIVE", "STRICT"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def port(tmp_path: Path, ca: SpiffeCa, mode: str) -> Iterator[int]:
    [port] = free_ports(1)
    identity(tmp_path, ca, "web")
    [place] = tmp_path.glob("web-*")
    with envoy(sidecar(port, place, mode), [port], tmp_path):
        yield port


def by_folder(port: int, tmp_path: Path, ca: SpiffeCa, app_protocol: str) -> Any:
    """A mesh whose folder has a DestinationRule ISTIO_MUTUAL."""
    yaml = service("web", port).replace("name: http, port: 80", f"name: http, port: 80, appProtocol: {app_protocol}")
    return mesh_of(tmp_path, yaml + destination_rule("web", MUTUAL), identity(tmp_path, ca, "client"))


# As istiod's grpc profile has ISTIO_MUTUAL: certificate providers of the bootstrap, and nothing of ALPN.
GRPC_PROFILE = {
    "@type": f"{TLS}.UpstreamTlsContext",
    "common_tls_context": {
        "tls_certificate_provider_instance": {"instance_name": "default", "certificate_name": "default"},
        "combined_validation_context": {
            "default_validation_context": {
                "ca_certificate_provider_instance": {"instance_name": "default", "certificate_name": "ROOTCA"},
                "match_subject_alt_names": [{"exact": spiffe("web")}],
            }
        },
    },
}


@contextlib.contextmanager
def by_istiod(port: int, tmp_path: Path, ca: SpiffeCa, app_protocol: str) -> Iterator[meshsdk.Mesh]:
    """A mesh whose management server has a cluster of istiod's grpc profile."""
    settings: dict[str, Any] = {"transport_socket": {"name": "tls", "typed_config": GRPC_PROFILE}}
    if app_protocol == "http2":
        settings["http2_protocol_options"] = {}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "web"}}
    folder = tmp_path / "istiod"
    folder.mkdir()
    resources = documents(listener("web", [route]), cluster("web", **settings), endpoints("web", [[port]]))
    (folder / "mesh.yaml").write_text(resources)
    server = ControlPlaneServer(Folder(folder), "127.0.0.1:0")
    server.start()
    uri = {"server_uri": f"127.0.0.1:{server.port}", "channel_creds": [{"type": "insecure"}]}
    bootstrap = {"xds_servers": [uri], "node": {"id": "me"}}
    try:
        with meshsdk.Mesh(bootstrap=bootstrap, identity=identity(tmp_path, ca, "client")) as mesh:
            yield mesh
    finally:
        server.stop()


@contextlib.contextmanager
def by_mark(port: int, tmp_path: Path, ca: SpiffeCa, app_protocol: str) -> Iterator[meshsdk.Mesh]:
    """A mesh whose management server has the same without any DestinationRule: nothing but a mark on the endpoint."""
    settings: dict[str, Any] = {"http2_protocol_options": {}} if app_protocol == "http2" else {}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "web"}}
    mark = {
        "envoy.transport_socket_match": {"tlsMode": "istio"},
        "istio": {"workload": "web-0;default;web;;Kubernetes"},
    }
    endpoint = {"port": port, "metadata": {"filter_metadata": mark}}
    with (
        AdsServer(listener("web", [route]), cluster("web", **settings), endpoints("web", [[endpoint]])) as istiod,
        meshsdk.Mesh(bootstrap=istiod.bootstrap, identity=identity(tmp_path, ca, "client")) as mesh,
    ):
        yield mesh


SOURCES: dict[str, Callable[..., Any]] = {"folder": by_folder, "istiod": by_istiod}


def get_sync(mesh: meshsdk.Mesh) -> httpx.Response:
    with mesh.client(timeout=30) as client:
        return client.get("http://web/")


def get_async(mesh: meshsdk.Mesh) -> httpx.Response:
    async def get() -> httpx.Response:
        async with mesh.async_client(timeout=30) as client:
            return await client.get("http://web/")

    return asyncio.run(get())


@pytest.mark.parametrize("get", [get_sync, get_async])
@pytest.mark.parametrize(("app_protocol", "spoken"), [("http", "HTTP/1.1"), ("http2", "HTTP/2")])
@pytest.mark.parametrize("source", [*SOURCES.values(), by_mark])
def test_a_sidecar_takes_our_mutual_tls_for_the_meshs(
    port: int,
    tmp_path: Path,
    ca: SpiffeCa,
    source: Callable[..., Any],
    app_protocol: str,
    spoken: str,
    get: Callable[[meshsdk.Mesh], httpx.Response],
) -> None:
    with source(port, tmp_path, ca, app_protocol) as mesh:
        response = get(mesh)
    assert (response.text, response.http_version) == ("mutual", spoken)


@pytest.mark.parametrize("source", SOURCES)
def test_grpc_channels_reach_sidecars_in_strict_only(
    port: int, tmp_path: Path, ca: SpiffeCa, source: str, mode: str
) -> None:
    """Grpc-core offers `h2` and lets nobody add to it."""
    with (
        SOURCES[source](port, tmp_path, ca, "http2") as mesh,
        mesh.channel("web") as channel,
        pytest.raises(grpc.RpcError) as failure,
    ):
        channel.unary_unary("/demo.Echo/say")(b"", timeout=30)
    assert ("mutual" in failure.value.details()) is (mode == "STRICT")
    assert "plaintext" not in failure.value.details()


@pytest.mark.parametrize(
    ("taken", "app_protocol"),
    [(["istio"], "http"), (["http/1.1"], "http"), ([], "http"), (["istio", "http/1.1"], "http")],
)
def test_servers_may_choose_any_of_the_names_or_none(
    tmp_path: Path, ca: SpiffeCa, taken: list[str], app_protocol: str
) -> None:
    identity(tmp_path, ca, "web")
    [place] = tmp_path.glob("web-*")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(place / "roots.pem"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(place / "cert.pem", place / "key.pem")
    if taken:
        context.set_alpn_protocols(taken)

    def answer(connection: socket.socket, number: int) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(65536)
            body = json.dumps(secured.selected_alpn_protocol()).encode()
            secured.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))

    with ScriptedServer(answer) as server, by_folder(server.port, tmp_path, ca, app_protocol) as mesh:
        assert get_sync(mesh).json() == (taken[0] if taken else None)


@pytest.mark.parametrize(
    ("chosen", "protocol", "expected"),
    [
        (None, HttpProtocol.HTTP1, False),
        (None, HttpProtocol.HTTP2, True),
        (None, HttpProtocol.NEGOTIATED, False),
        ("istio", HttpProtocol.HTTP1, False),
        ("istio", HttpProtocol.HTTP2, True),
        ("istio-h2", HttpProtocol.HTTP2, True),
        ("istio-http/1.1", HttpProtocol.HTTP1, False),
        ("h2", HttpProtocol.NEGOTIATED, True),
        ("http/1.1", HttpProtocol.NEGOTIATED, False),
    ],
)
def test_what_a_server_chose_says_what_is_spoken(chosen: str | None, protocol: HttpProtocol, expected: bool) -> None:
    assert speaks_http2(chosen, protocol) is expected
