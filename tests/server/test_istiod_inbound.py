"""Servers by inbound listeners of istiod's grpc profile, byte for byte in its shape (pilot grpcgen/lds.go)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

import meshsdk
from meshsdk.controlplane import Folder
from meshsdk.controlplane.server import ControlPlaneServer

from ..certificates import SpiffeCa, spiffe
from ..conftest import destination_rule, service
from .grpc_servers import aio_grpc_server, sync_grpc_server
from .running import identity, mesh_of, one_port, serving
from .test_serve import MUTUAL, reaches, who_asks

FILTERS = "type.googleapis.com/envoy.extensions.filters"
OWN = {"instance_name": "default", "certificate_name": "default"}
ROOTS = {"instance_name": "default", "certificate_name": "ROOTCA"}

TLS_CONTEXT = {
    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
    "require_client_certificate": True,
    "common_tls_context": {
        "tls_certificate_provider_instance": OWN,
        "tls_certificate_certificate_provider_instance": OWN,
        "combined_validation_context": {
            "default_validation_context": {"ca_certificate_provider_instance": ROOTS},
            "validation_context_certificate_provider_instance": ROOTS,
        },
    },
}


def rbac(name: str, action: str, caller: str) -> dict[str, Any]:
    """A filter as buildInboundFilterChain makes it of the policies of one action."""
    principal = {"authenticated": {"principal_name": {"exact": caller}}}
    rule = {
        "permissions": [{"and_rules": {"rules": [{"any": True}]}}],
        "principals": [{"and_ids": {"ids": [{"or_ids": {"ids": [principal]}}]}}],
    }
    rules = {"action": action, "policies": {"default-policy-0": rule}}
    return {"name": name, "typed_config": {"@type": f"{FILTERS}.http.rbac.v3.RBAC", "rules": rules}}


ALLOW = rbac("envoy.filters.http.rbac", "ALLOW", spiffe("friend"))
DENY = rbac("envoy.filters.http.rbac.DENY", "DENY", spiffe("eve"))


def inbound(port: int, *filters: dict[str, Any], secure: bool = True) -> dict[str, Any]:
    """The listener of a port. Neither its connection manager nor its virtual host has the name that Envoy asks for."""
    kind = "mtls" if secure else "plaintext"
    router = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{FILTERS}.http.router.v3.Router"}}
    manager = {
        "@type": f"{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "route_config": {
            "name": "inbound",
            "virtual_hosts": [
                {"domains": ["*"], "routes": [{"match": {"prefix": "/"}, "non_forwarding_action": {}}]},
            ],
        },
        "http_filters": [*filters, router],
    }
    chain: dict[str, Any] = {
        "name": f"inbound-{kind}",
        "filters": [{"name": f"inbound-hcm{kind}", "typed_config": manager}],
    }
    if secure:
        chain["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": TLS_CONTEXT}
    return {
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": f"xds.istio.io/grpc/lds/inbound/0.0.0.0:{port}",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": port}},
        "filter_chains": [chain],
    }


@pytest.fixture(scope="module")
def ca() -> SpiffeCa:
    return SpiffeCa()


@contextlib.contextmanager
def server_mesh(folder: Path, ca: SpiffeCa, listener: dict[str, Any]) -> Iterator[meshsdk.Mesh]:
    """The mesh of a server whose management server has this listener."""
    place = folder / "istiod"
    place.mkdir()
    (place / "listener.json").write_text(json.dumps(listener))
    # The same for servers that listen on loopback only, as those of tests do.
    (place / "loopback.json").write_text(json.dumps(listener).replace("0.0.0.0", "127.0.0.1"))
    control_plane = ControlPlaneServer(Folder(place), "127.0.0.1:0")
    control_plane.start()
    uri = {"server_uri": f"127.0.0.1:{control_plane.port}", "channel_creds": [{"type": "insecure"}]}
    bootstrap = {
        "xds_servers": [uri],
        "server_listener_resource_name_template": "xds.istio.io/grpc/lds/inbound/%s",
        "node": {"id": "sidecar~10.0.0.1~web.default~default.svc.cluster.local", "metadata": {"GENERATOR": "grpc"}},
    }
    try:
        with meshsdk.Mesh(bootstrap=bootstrap, identity=identity(folder, ca, "web")) as mesh:
            yield mesh
    finally:
        control_plane.stop()


RULES = {
    "no policy": ((), {"friend", "eve", "stranger"}),
    "ALLOW": ((ALLOW,), {"friend"}),
    "DENY": ((DENY,), {"friend", "stranger"}),
    "DENY and ALLOW": ((DENY, ALLOW), {"friend"}),
}


@pytest.mark.parametrize("rules", RULES)
def test_strict_with_rules_lets_in_whom_they_say(tmp_path: Path, ca: SpiffeCa, rules: str) -> None:
    filters, let_in = RULES[rules]
    port = one_port()
    yaml = service("web", port) + destination_rule("web", MUTUAL)
    got_in = set()
    with server_mesh(tmp_path, ca, inbound(port, *filters)) as mesh, serving(who_asks, mesh, port):
        for name in ("friend", "eve", "stranger"):
            with mesh_of(tmp_path, yaml, identity(tmp_path, ca, name), name) as peer, peer.client() as client:
                response = client.get("http://web/")
            assert (response.status_code, response.text) in ((200, spiffe(name)), (403, "RBAC: access denied"))
            got_in |= {name} if response.status_code == 200 else set()
        with httpx.Client() as bare:
            assert not reaches(lambda: bare.get(f"http://127.0.0.1:{port}/"))
    assert got_in == let_in


@pytest.mark.parametrize("running", [sync_grpc_server, aio_grpc_server])
def test_grpc_servers_take_the_same_listeners(tmp_path: Path, ca: SpiffeCa, running: Callable[..., Any]) -> None:
    port = one_port()
    yaml = service("web", port).replace("name: http, port: 80", "name: grpc, port: 80").replace("{http:", "{grpc:")
    yaml += destination_rule("web", MUTUAL)
    codes = {}
    with server_mesh(tmp_path, ca, inbound(port, DENY, ALLOW)) as mesh, running(mesh, port):
        for name in ("friend", "eve", "stranger"):
            with mesh_of(tmp_path, yaml, identity(tmp_path, ca, name), name) as peer, peer.channel("web") as channel:
                try:
                    channel.unary_unary("/demo.Echo/say")(b"", timeout=30)
                    codes[name] = grpc.StatusCode.OK
                except grpc.RpcError as error:
                    codes[name] = error.code()
    denied = grpc.StatusCode.PERMISSION_DENIED
    assert codes == {"friend": grpc.StatusCode.OK, "eve": denied, "stranger": denied}


def test_a_plaintext_listener_serves_plaintext_by_its_rules(tmp_path: Path, ca: SpiffeCa) -> None:
    port = one_port()
    with (
        server_mesh(tmp_path, ca, inbound(port, ALLOW, secure=False)) as mesh,
        serving(who_asks, mesh, port),
        httpx.Client() as bare,
    ):
        assert bare.get(f"http://127.0.0.1:{port}/").status_code == 403, "plaintext proves nobody"
