"""gRPC's bootstrap format, whole: what is taken, and what is refused with which JSON path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import meshsdk
from meshsdk.bootstrap import load_bootstrap, parse_bootstrap

FULL: dict[str, Any] = {
    "xds_servers": [
        {
            "server_uri": "unix:///run/istio/proxy.sock",
            "channel_creds": [{"type": "unheard_of"}, {"type": "insecure"}],
            "server_features": ["xds_v3", "ignore_resource_deletion"],
        },
        {
            "server_uri": "istiod:15012",
            "channel_creds": [
                {
                    "type": "tls",
                    "config": {
                        "ca_certificate_file": "/ca.pem",
                        "certificate_file": "/cert.pem",
                        "private_key_file": "/key.pem",
                    },
                }
            ],
        },
    ],
    "node": {
        "id": "sidecar~10.0.0.1~app-1.shop~shop.svc.cluster.local",
        "cluster": "app",
        "locality": {"region": "eu", "zone": "eu-1", "sub_zone": "a"},
        "metadata": {"GENERATOR": "grpc"},
        "an_unknown_key": 1,
    },
    "certificate_providers": {"default": {"plugin_name": "file_watcher", "config": {"certificate_file": "/c"}}},
    "authorities": {"traffic": {"client_listener_resource_name_template": "xdstp://traffic/L/%s"}},
    "client_default_listener_resource_name_template": "x/%s",
    "server_listener_resource_name_template": "y/%s",
    "another_unknown_key": {},
}


def test_every_key_of_the_format_is_taken_and_unknown_ones_are_ignored() -> None:
    bootstrap = parse_bootstrap(FULL)
    assert [server.uri for server in bootstrap.servers] == ["unix:///run/istio/proxy.sock", "istiod:15012"]
    assert bootstrap.servers[0].credentials.kind == "insecure"
    assert bootstrap.servers[0].ignores_resource_deletion
    assert bootstrap.servers[1].credentials.private_key_file == "/key.pem"
    assert bootstrap.node.locality.sub_zone == "a"
    assert bootstrap.node.metadata == {"GENERATOR": "grpc"}
    assert bootstrap.certificate_providers["default"].plugin == "file_watcher"
    assert bootstrap.authorities["traffic"].client_listener_template == "xdstp://traffic/L/%s"
    assert bootstrap.listener_name("reviews:9080") == "x/reviews:9080"
    assert bootstrap.server_listener_template == "y/%s"


def test_the_namespace_comes_from_the_node_id_as_istio_writes_it() -> None:
    assert parse_bootstrap(FULL).node.namespace == "shop"
    assert parse_bootstrap(FULL).node.cluster_domain == "cluster.local"


TOKEN = {"type": "jwt_token_file", "config": {"jwt_token_file": "/token"}}


def with_call_creds(call_creds: Any, channel_creds: str = "tls") -> dict[str, Any]:
    server = {"server_uri": "istiod:15012", "channel_creds": [{"type": channel_creds}], "call_creds": call_creds}
    return {"xds_servers": [server]}


def test_all_call_credentials_that_are_known_are_used_and_the_others_left_out_by_name() -> None:
    other = {"type": "jwt_token_file", "config": {"jwt_token_file": "/other"}}
    bootstrap = parse_bootstrap(with_call_creds([TOKEN, {"type": "sts"}, other]))
    assert bootstrap.servers[0].token_files == ("/token", "/other")
    assert ["'sts'" in note for note in bootstrap.notes] == [True]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"xds_servers": []}, "xds_servers"),
        ({"xds_servers": "istiod"}, "xds_servers"),
        ({"xds_servers": [{"channel_creds": [{"type": "insecure"}]}]}, "xds_servers[0].server_uri"),
        ({"xds_servers": [{"server_uri": 1}]}, "xds_servers[0].server_uri"),
        ({"xds_servers": [{"server_uri": "a:1", "channel_creds": []}]}, "xds_servers[0].channel_creds"),
        (
            {
                "xds_servers": [
                    {"server_uri": "a:1", "channel_creds": [{"type": "tls", "config": {"private_key_file": "k"}}]}
                ]
            },
            "xds_servers[0].channel_creds[0].config",
        ),
        (with_call_creds("x"), "xds_servers[0].call_creds"),
        (with_call_creds(["x"]), "xds_servers[0].call_creds[0]"),
        (with_call_creds([{"type": 1}]), "xds_servers[0].call_creds[0].type"),
        (with_call_creds([{"type": "jwt_token_file"}]), "xds_servers[0].call_creds[0].config.jwt_token_file"),
        (
            with_call_creds([{"type": "jwt_token_file", "config": {"jwt_token_file": 1}}]),
            "xds_servers[0].call_creds[0].config.jwt_token_file",
        ),
        (with_call_creds([TOKEN], "insecure"), "xds_servers[0].call_creds"),
        ({"node": []}, "node"),
        ({"node": {"locality": {"zone": 3}}}, "node.locality.zone"),
        ({"authorities": {"a": {"client_listener_resource_name_template": "x/%s"}}}, "authorities['a']"),
        ({"certificate_providers": {"p": {}}}, "certificate_providers['p'].plugin_name"),
        ({"client_default_listener_resource_name_template": 5}, "client_default_listener_resource_name_template"),
    ],
)
def test_a_wrong_value_is_refused_with_its_json_path(change: dict[str, Any], path: str) -> None:
    with pytest.raises(meshsdk.BootstrapError) as caught:
        parse_bootstrap({**FULL, **change})
    assert caught.value.where.startswith(path)


def test_google_default_is_refused_by_name() -> None:
    servers = [{"server_uri": "td:443", "channel_creds": [{"type": "google_default"}]}]
    with pytest.raises(meshsdk.BootstrapError, match="google_default"):
        parse_bootstrap({"xds_servers": servers})


def test_the_path_in_the_environment_comes_before_the_inline_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bootstrap.json"
    path.write_text(json.dumps({**FULL, "node": {"id": "from-file"}}))
    monkeypatch.setenv("GRPC_XDS_BOOTSTRAP_CONFIG", json.dumps({**FULL, "node": {"id": "inline"}}))
    inline = load_bootstrap()
    assert inline is not None
    assert inline.node.id == "inline"
    monkeypatch.setenv("GRPC_XDS_BOOTSTRAP", str(path))
    from_file = load_bootstrap()
    assert from_file is not None
    assert from_file.node.id == "from-file"


def test_a_mesh_without_any_configuration_says_what_to_set() -> None:
    with pytest.raises(meshsdk.BootstrapError, match="MESHSDK_CONFIG"):
        meshsdk.Mesh()


def test_a_file_that_is_not_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    path.write_text("{")
    with pytest.raises(meshsdk.BootstrapError, match=r"b\.json"):
        meshsdk.Mesh(bootstrap=path)
