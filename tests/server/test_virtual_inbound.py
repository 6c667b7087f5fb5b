"""Servers by a listener of istiod's shape: virtualInbound, one for all ports, as sidecars have it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import meshsdk
from meshsdk.controlplane.folder import Folder
from meshsdk.controlplane.server import ControlPlaneServer

from ..certificates import SpiffeCa, spiffe
from ..conftest import destination_rule, service
from ..processes import free_ports
from .running import identity, mesh_of, serving
from .test_serve import MUTUAL, reaches, who_asks

HTTP = "type.googleapis.com/envoy.extensions.filters.http"
NETWORK = "type.googleapis.com/envoy.extensions.filters.network"
ISTIO = ["istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"]


def http_chain(name: str, port: int, caller: str) -> dict[str, Any]:
    """What istiod makes for an HTTP port: metadata exchange, then a connection manager with RBAC and its recorders."""
    principal = {"authenticated": {"principal_name": {"exact": caller}}}
    policy = {"permissions": [{"any": True}], "principals": [principal]}
    rbac = {"@type": f"{HTTP}.rbac.v3.RBAC", "rules": {"policies": {"ns[default]-policy[a]-rule[0]": policy}}}
    cluster = f"inbound|{port}||"
    manager = {
        "@type": f"{NETWORK}.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": f"inbound_0.0.0.0_{port};",
        "route_config": {
            "name": cluster,
            "virtual_hosts": [
                {
                    "name": f"inbound|http|{port}",
                    "domains": ["*"],
                    "routes": [
                        {"name": "default", "match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}
                    ],
                }
            ],
            "validate_clusters": False,
        },
        "http_filters": [
            {"name": "envoy.filters.http.rbac", "typed_config": rbac},
            {
                "name": "envoy.filters.http.grpc_stats",
                "typed_config": {
                    "@type": f"{HTTP}.grpc_stats.v3.FilterConfig",
                    "emit_filter_state": True,
                    "stats_for_all_methods": False,
                },
            },
            {"name": "envoy.filters.http.fault", "typed_config": {"@type": f"{HTTP}.fault.v3.HTTPFault"}},
            {"name": "envoy.filters.http.cors", "typed_config": {"@type": f"{HTTP}.cors.v3.Cors"}},
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{HTTP}.router.v3.Router"}},
        ],
        "server_name": "istio-envoy",
        "use_remote_address": False,
        "forward_client_cert_details": "APPEND_FORWARD",
        "set_current_client_cert_details": {"subject": True, "dns": True, "uri": True},
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "normalize_path": True,
    }
    return {"name": name, "filters": [{"name": "manager", "typed_config": manager}]}


def secured(chain: dict[str, Any], alpn: list[str]) -> dict[str, Any]:
    matcher = {"san_type": "URI", "matcher": {"prefix": "spiffe://cluster.local/"}}
    ads: dict[str, Any] = {"ads": {}, "resource_api_version": "V3"}
    context = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "alpn_protocols": alpn,
            "tls_certificate_sds_secret_configs": [{"name": "default", "sds_config": ads}],
            "combined_validation_context": {
                "default_validation_context": {"match_typed_subject_alt_names": [matcher]},
                "validation_context_sds_secret_config": {"name": "ROOTCA", "sds_config": ads},
            },
        },
    }
    return {**chain, "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context}}


def passing(name: str, match: dict[str, Any]) -> dict[str, Any]:
    """A chain that carries bytes: black hole and catch-all."""
    proxy = {"@type": f"{NETWORK}.tcp_proxy.v3.TcpProxy", "stat_prefix": name, "cluster": name}
    return {"name": name, "filter_chain_match": match, "filters": [{"name": "tcp", "typed_config": proxy}]}


def virtual_inbound(strict: int, permissive: int, caller: str) -> dict[str, Any]:
    def matched(port: int, transport: str, protocols: list[str] | None = None) -> dict[str, Any]:
        match: dict[str, Any] = {"destination_port": port, "transport_protocol": transport}
        return {"filter_chain_match": {**match, "application_protocols": protocols} if protocols else match}

    catch_all = http_chain("virtualInbound-catchall-http", 15006, caller)
    return {
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": "virtualInbound",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": 15006}},
        "use_original_dst": True,
        "traffic_direction": "INBOUND",
        "filter_chains": [
            passing("virtualInbound-blackhole", {"destination_port": 15006}),
            {**secured(http_chain("strict", strict, caller), ["h2", "http/1.1"]), **matched(strict, "tls")},
            {
                **secured(http_chain("permissive", permissive, caller), ["h2", "http/1.1"]),
                **matched(permissive, "tls", ISTIO),
            },
            {**http_chain("open", permissive, caller), **matched(permissive, "raw_buffer")},
            {
                **secured(catch_all, ["istio-peer-exchange", "h2", "http/1.1"]),
                "filter_chain_match": {"transport_protocol": "tls", "application_protocols": ISTIO},
            },
            passing("virtualInbound", {}),
        ],
    }


@pytest.fixture
def ports() -> tuple[int, int]:
    strict, permissive = free_ports(2)
    return strict, permissive


@pytest.fixture
def server(tmp_path: Path, ports: tuple[int, int]) -> Iterator[tuple[SpiffeCa, meshsdk.Mesh]]:
    """A mesh whose management server has one listener for all servers."""
    ca, folder = SpiffeCa(), tmp_path / "istiod"
    folder.mkdir()
    (folder / "listener.json").write_text(json.dumps(virtual_inbound(*ports, caller=spiffe("friend"))))
    control_plane = ControlPlaneServer(Folder(folder), "127.0.0.1:0")
    control_plane.start()
    bootstrap = {
        "xds_servers": [
            {"server_uri": f"127.0.0.1:{control_plane.port}", "channel_creds": [{"type": "insecure"}]},
        ],
        "server_listener_resource_name_template": "virtualInbound",
        "node": {"id": "sidecar~10.0.0.1~web.default~default.svc.cluster.local"},
    }
    with meshsdk.Mesh(bootstrap=bootstrap, identity=identity(tmp_path, ca, "web")) as mesh:
        yield ca, mesh
    control_plane.stop()


def test_each_port_has_its_own_chains_of_the_one_listener(
    tmp_path: Path, ports: tuple[int, int], server: tuple[SpiffeCa, meshsdk.Mesh]
) -> None:
    ca, mesh = server
    strict, permissive = ports
    yaml = "".join(
        service(name, port) + destination_rule(name, MUTUAL) + "---\n"
        for name, port in (("strict", strict), ("open", permissive))
    )
    with (
        serving(who_asks, mesh, strict),
        serving(who_asks, mesh, permissive),
        mesh_of(tmp_path, yaml, identity(tmp_path, ca, "friend"), "friend") as friend,
        mesh_of(tmp_path, yaml, identity(tmp_path, ca, "eve"), "eve") as eve,
        friend.client() as ours,
        eve.client() as theirs,
        httpx.Client() as bare,
    ):
        assert ours.get("http://strict/").text == spiffe("friend")
        assert ours.get("http://open/").text == spiffe("friend")
        assert theirs.get("http://strict/").status_code == 403
        assert theirs.get("http://open/").status_code == 403
        assert bare.get(f"http://127.0.0.1:{permissive}/").status_code == 403, "plaintext proves nobody"
        assert not reaches(lambda: bare.get(f"http://127.0.0.1:{strict}/"))


def test_a_port_that_the_listener_does_not_know_lets_nobody_in(
    tmp_path: Path, server: tuple[SpiffeCa, meshsdk.Mesh]
) -> None:
    ca, mesh = server
    [port] = free_ports(1)
    yaml = service("web", port) + destination_rule("web", MUTUAL)
    with (
        serving(who_asks, mesh, port),
        mesh_of(tmp_path, yaml, identity(tmp_path, ca, "eve"), "eve") as eve,
        eve.client() as theirs,
        httpx.Client() as bare,
    ):
        assert theirs.get("http://web/").status_code == 403
        assert not reaches(lambda: bare.get(f"http://127.0.0.1:{port}/"))
