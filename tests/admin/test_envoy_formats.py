"""The admin paths of Envoy, in its formats: Envoy's own messages read them, and its own process shows the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from envoy.admin.v3 import certs_pb2, clusters_pb2, config_dump_pb2, server_info_pb2
from google.protobuf import json_format

from meshsdk.admin import dumped
from meshsdk.resources.message_types import class_of

from ..ads import AdsServer
from ..certificates import SpiffeCa
from ..conftest import destination_rule, service, virtual_service
from ..differential.subjects import Upstream, cluster
from ..patience import PATIENCE, eventually
from ..processes import envoy, free_ports
from ..server.running import identity
from ..servers import EchoServer
from .conftest import Page

_CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"


def parsed(message: Any, found: Any) -> Any:
    return json_format.ParseDict(found, message, ignore_unknown_fields=False)


@pytest.fixture
def shown(page: Page, tmp_path: Path) -> Any:
    """A page with two clusters, a route, one request and an identity."""
    with EchoServer("a") as server:
        page.configure(
            service("a", server.port, 1)
            + "---\n"
            + service("b", server.port)
            + virtual_service("b", "[{name: to-b, route: [{destination: {host: b}}]}]")
            + destination_rule("a", "trafficPolicy: {connectionPool: {http: {http1MaxPendingRequests: 7}}}")
        )
        mesh = page.open(identity=identity(tmp_path, SpiffeCa(), "shop"))
        with mesh.client() as client:
            client.get("http://b/")
            client.get("http://a/")
        yield page


def test_the_dump_is_a_config_dump_of_envoys(shown: Page) -> None:
    found = shown.json("/config_dump", include_eds="")
    parsed(config_dump_pb2.ConfigDump(), found)
    kinds = [one["@type"].rpartition(".")[2] for one in found["configs"]]
    assert kinds == [
        "BootstrapConfigDump",
        "ClustersConfigDump",
        "EndpointsConfigDump",
        "ListenersConfigDump",
        "ScopedRoutesConfigDump",
        "RoutesConfigDump",
        "SecretsConfigDump",
    ]
    of_kind = dict(zip(kinds, found["configs"], strict=True))
    clusters = of_kind["ClustersConfigDump"]["dynamic_active_clusters"]
    assert {one["cluster"]["name"] for one in clusters} == {
        "outbound|80||a.default.svc.cluster.local",
        "outbound|80||b.default.svc.cluster.local",
    }
    assert {one["client_status"] for one in clusters} == {"ACKED"}
    assert all(one["last_updated"].endswith("Z") and one["version_info"] for one in clusters)
    (endpoints, _) = of_kind["EndpointsConfigDump"]["dynamic_endpoint_configs"]
    assert len(endpoints["endpoint_config"]["endpoints"][0]["lb_endpoints"]) == 2
    assert len(of_kind["ListenersConfigDump"]["dynamic_listeners"]) == 2
    routes = of_kind["RoutesConfigDump"]["dynamic_route_configs"]
    names = [
        route.get("name") for one in routes for host in one["route_config"]["virtual_hosts"] for route in host["routes"]
    ]
    assert "to-b" in names
    assert "EndpointsConfigDump" not in json.dumps(shown.json("/config_dump"))


def test_a_dump_can_be_narrowed_as_envoys_can(shown: Page) -> None:
    found = shown.json("/config_dump", resource="dynamic_active_clusters", mask="cluster.name,cluster.type")
    assert [set(one) for one in found["configs"]] == [{"@type", "cluster"}] * 2
    assert {key for one in found["configs"] for key in one["cluster"]} == {"@type", "name", "type"}
    assert found["configs"][0]["@type"].endswith("envoy.admin.v3.ClustersConfigDump.DynamicCluster")
    found = shown.json("/config_dump", name_regex=r".*\|\|a\..*")
    assert [one["@type"].rpartition(".")[2] for one in found["configs"]] == ["ClustersConfigDump", "RoutesConfigDump"]
    assert len(found["configs"][0]["dynamic_active_clusters"]) == 1
    assert shown.client.get("/config_dump", params={"name_regex": "("}).status_code == 400
    assert shown.client.get("/config_dump", params={"resource": "no_such"}).status_code == 404


def listener(status: int) -> dict[str, Any]:
    """One that answers by itself, or, with a status that is none, is refused."""
    answer = {"match": {"prefix": "/"}, "direct_response": {"status": status}}
    router = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
        ".HttpConnectionManager",
        "route_config": {"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [answer]}]},
        "http_filters": [{"name": "router", "typed_config": router}],
    }
    return {
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": "a:80",
        "api_listener": {"api_listener": manager},
    }


def test_a_rejected_resource_is_told_with_its_error_and_the_last_good_one(page: Page) -> None:
    with AdsServer(listener(418)) as server:
        mesh = page.open(bootstrap=server.bootstrap)
        with mesh.client() as client:
            assert client.get("http://a:80/").status_code == 418
            server.publish(listener(42))
            eventually(lambda: page.json("/api/overview")["rejected"] == 1)
            assert client.get("http://a:80/").status_code == 418
    found = page.json("/config_dump", resource="dynamic_listeners")
    parsed(config_dump_pb2.ConfigDump(), page.json("/config_dump"))
    (one,) = found["configs"]
    assert one["client_status"] == "NACKED"
    assert "status" in one["error_state"]["details"]
    assert '"status": 418' in json.dumps(one["active_state"]["listener"])
    newest = page.json("/api/changes")[0]
    assert (newest["what"], newest["name"], newest["kind"]) == ("rejected", "a:80", "Listener")
    assert newest["error"] == one["error_state"]["details"]
    assert page.json("/api/resources")["resources"][0]["status"] == "NACKED", "what is wrong comes first"


def test_clusters_as_json_and_text(shown: Page) -> None:
    found = shown.json("/clusters", format="json")
    told = parsed(clusters_pb2.Clusters(), found)
    by_name = {one.name: one for one in told.cluster_statuses}
    one = by_name["outbound|80||a.default.svc.cluster.local"]
    assert one.circuit_breakers.thresholds[0].max_pending_requests.value == 7
    assert one.eds_service_name == one.name
    assert {host.address.socket_address.address for host in one.host_statuses} == {"127.0.0.1"}
    (host,) = by_name["outbound|80||b.default.svc.cluster.local"].host_statuses
    stats = {stat.name: stat.value for stat in host.stats}
    assert (stats["rq_total"], stats["rq_success"], stats["rq_error"], stats["rq_active"]) == (1, 1, 0, 0)
    lines = shown.text("/clusters").splitlines()
    name = "outbound|80||b.default.svc.cluster.local"
    assert f"{name}::default_priority::max_requests::4294967295" in lines
    address = f"127.0.0.1:{host.address.socket_address.port_value}"
    assert f"{name}::{address}::rq_success::1" in lines
    assert f"{name}::{address}::health_flags::healthy" in lines


def test_what_the_server_says_of_itself(shown: Page) -> None:
    told = parsed(server_info_pb2.ServerInfo(), shown.json("/server_info"))
    assert told.state == server_info_pb2.ServerInfo.LIVE
    assert shown.json("/server_info")["state"] == "LIVE"
    assert told.node.user_agent_name == "meshsdk"
    assert shown.text("/ready") == "LIVE\n"
    stats = dict(line.split(": ") for line in shown.text("/stats").splitlines())
    assert stats["cluster_manager.active_clusters"] == "2"
    assert stats["cluster.outbound|80||a.default.svc.cluster.local.membership_total"] == "2"
    assert 'destination_service_name="b"' in shown.text("/stats/prometheus")


def test_certificates_are_those_that_are_in_use(shown: Page, tmp_path: Path) -> None:
    assert shown.json("/certs") == {"certificates": []}, "looking waits for none"
    own = identity(tmp_path, SpiffeCa(), "web")
    own.credentials()
    used = Page(tmp_path / "used", shown._stack)
    used.configure("")
    used.open(identity=own)
    found = used.json("/certs")
    told = parsed(certs_pb2.Certificates(), found)
    (leaf, *_) = told.certificates[0].cert_chain
    assert leaf.subject_alt_names[0].uri == "spiffe://cluster.local/ns/default/sa/web"
    assert leaf.days_until_expiration >= 0
    assert told.certificates[0].ca_cert


def test_a_real_envoy_shows_the_same_of_a_cluster_and_hides_the_same(tmp_path: Path) -> None:
    """Its private key too, which both replace by the same words."""
    ca = SpiffeCa()
    key, certificate = ca.issue("spiffe://cluster.local/ns/default/sa/web")
    with Upstream() as upstream:
        config = cluster("a", upstream.port)
        config["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": "a",
                "common_tls_context": {
                    "tls_certificates": [
                        {
                            "certificate_chain": {"inline_string": certificate.decode()},
                            "private_key": {"inline_string": key.decode()},
                            "password": {"inline_bytes": "c2VjcmV0"},
                        }
                    ],
                },
            },
        }
        (port,) = free_ports(1)
        whole = {
            "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}},
            "static_resources": {"clusters": [config]},
        }
        with envoy(whole, [port], tmp_path):
            dump = httpx.get(f"http://127.0.0.1:{port}/config_dump?resource=static_clusters", timeout=PATIENCE).json()
    theirs = dump["configs"][0]["cluster"]
    made = class_of(_CLUSTER.rpartition("/")[2])
    assert made is not None
    message = json_format.ParseDict(config, made())
    ours = dumped.plain(_CLUSTER, message.SerializeToString())
    assert ours == theirs
    assert "PRIVATE" not in json.dumps(ours)
    assert json.dumps(ours).count("[redacted]") == 1


def test_a_type_that_nobody_knows_is_shown_by_its_name() -> None:
    made = class_of("envoy.config.cluster.v3.Cluster")
    assert made is not None
    message: Any = made(name="a")
    message.transport_socket.name = "x"
    message.transport_socket.typed_config.type_url = "type.googleapis.com/os.system"
    message.transport_socket.typed_config.value = b"whatever"
    found = dumped.plain(_CLUSTER, message.SerializeToString())
    assert found["transport_socket"]["typed_config"]["type_url"] == "type.googleapis.com/os.system"
    assert "value" not in found["transport_socket"]["typed_config"]


def test_a_dump_waits_for_nobody_and_tells_of_a_source_that_is_away(page: Page) -> None:
    page.configure("apiVersion: v1\nkind: Servi")
    mesh = page.open()
    with mesh.client() as client, pytest.raises(httpx.HTTPError):
        client.get("http://unknown.invalid/")
    eventually(lambda: page.client.get("/ready").status_code == 503)
    assert page.client.get("/ready").text == "PRE_INITIALIZING\n"
    assert page.json("/api/overview")["problem"]
