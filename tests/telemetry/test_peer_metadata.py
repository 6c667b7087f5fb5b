"""Peers tell each other who they are, as sidecars do; what strangers say is bounded."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.protobuf import json_format, struct_pb2

from meshsdk.telemetry import peer_metadata

from ..conftest import service
from ..server.running import serving
from ..servers import EchoServer
from .applications import application, send
from .scraping import World


def metadata_of(encoded: str) -> dict[str, Any]:
    message = struct_pb2.Struct()
    message.ParseFromString(base64.b64decode(encoded))
    told: dict[str, Any] = json_format.MessageToDict(message)
    return told


def test_peers_of_the_mesh_are_told_who_calls_as_sidecars_tell_it(world: World) -> None:
    with EchoServer("reviews") as server:
        world.configure(service("reviews", server.port))
        headers = send(world.client_mesh(), "sync", "GET", "http://reviews/").json()["headers"]
    assert metadata_of(headers["x-envoy-peer-metadata"]) == {
        "CLUSTER_ID": "Kubernetes",
        "NAMESPACE": "default",
        "WORKLOAD_NAME": "productpage-v1",
        "LABELS": {
            "app": "productpage",
            "version": "v1",
            "service.istio.io/canonical-name": "productpage",
            "service.istio.io/canonical-revision": "v1",
        },
    }
    assert headers["x-envoy-peer-metadata-id"].startswith("sidecar~")


def sidecar_metadata(**more: Any) -> str:
    message = struct_pb2.Struct()
    message.update({"WORKLOAD_NAME": "ratings-v1", "NAMESPACE": "prod", "CLUSTER_ID": "east", "number": 4, **more})
    message["LABELS"] = {"app": "a", "app.kubernetes.io/name": "ratings", "version": "v1"}
    return base64.b64encode(message.SerializeToString(deterministic=True)).decode()


def test_each_header_of_a_peer_is_answered_only_if_it_came(world: World) -> None:
    world.configure(service("reviews", world.port))
    with serving(application(), world.server_mesh(), world.port):
        url = f"http://127.0.0.1:{world.port}/"
        both = {"x-envoy-peer-metadata-id": "a", "x-envoy-peer-metadata": sidecar_metadata()}
        for sent in ({}, {"x-envoy-peer-metadata": sidecar_metadata()}, both):
            answer = httpx.get(url, headers=sent)
            assert {name for name in answer.headers if name.startswith("x-envoy-peer")} == set(sent)
            assert not any(name.startswith("x-envoy-peer") for name in answer.json()["headers"])
        assert metadata_of(answer.headers["x-envoy-peer-metadata"])["WORKLOAD_NAME"] == "reviews-v2"
        page = world.of_server(3)
    assert page.value(source_workload="ratings-v1", source_workload_namespace="prod", source_cluster="east") == 2
    assert page.value(source_app="ratings", source_version="v1", source_canonical_service="unknown") == 2
    assert page.value(source_workload="unknown", source_canonical_revision="latest") == 1


HOSTILE = {
    "no base 64": "%%%",
    "no protobuf": base64.b64encode(b"\xff\xff\xff\xff\xff").decode(),
    "a length that is not there": base64.b64encode(b"\x0a\x7f1").decode(),
    "long": sidecar_metadata(junk="x" * 9000),
    "a name that is long": sidecar_metadata(WORKLOAD_NAME="x" * 600),
    "a name with a line": sidecar_metadata(WORKLOAD_NAME='x"\n} 1\nistio_requests_total 5'),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_a_stranger_says_cannot_break_the_page(world: World, case: str) -> None:
    world.configure(service("reviews", world.port))
    with serving(application(), world.server_mesh(), world.port):
        headers = {"x-envoy-peer-metadata-id": "a", "x-envoy-peer-metadata": HOSTILE[case]}
        assert httpx.get(f"http://127.0.0.1:{world.port}/", headers=headers).status_code == 200
        page = world.of_server()
    assert page.one()["source_workload"] == "unknown"


def test_strangers_take_no_room_from_others(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_metadata, "MAX_STRANGERS", 5)
    world.configure(service("reviews", world.port))
    server = world.server_mesh()
    with serving(application(), server, world.port), httpx.Client() as client:
        for number in range(9):
            told = {
                "x-envoy-peer-metadata-id": str(number),
                "x-envoy-peer-metadata": sidecar_metadata(WORKLOAD_NAME=f"w{number}"),
            }
            client.get(f"http://127.0.0.1:{world.port}/", headers=told)
        page = world.of_server(9)
        metrics = server._runtime.metrics
    assert page.value() == 9
    assert page.value(source_workload="unknown") == 4
    assert metrics is not None
    assert len(metrics.known) == 6, "and none in memory"


def test_endpoints_tell_of_their_workload_where_they_do_not_answer_themselves(world: World, tmp_path: Path) -> None:
    """As istiod writes it into EDS."""
    with EchoServer("reviews") as server:
        endpoint = {
            "endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": server.port}}},
            "metadata": {"filter_metadata": {"istio": {"workload": "reviews-v3;prod;reviews;v3;west"}}},
        }
        write_raw(world, endpoint)
        send(world.client_mesh(), "sync", "GET", "http://reviews/")
    labels = world.of_client().one()
    assert labels["destination_workload"] == "reviews-v3"
    assert labels["destination_workload_namespace"] == "prod"
    assert labels["destination_canonical_service"] == "reviews"
    assert labels["destination_canonical_revision"] == "v3"
    assert labels["destination_cluster"] == "west"
    assert labels["destination_app"] == labels["destination_version"] == "unknown"


@pytest.mark.parametrize("location", ["MESH_EXTERNAL", "MESH_INTERNAL"])
def test_only_services_of_the_mesh_are_told_who_calls(world: World, location: str) -> None:
    with EchoServer("there") as server:
        world.configure(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: there}\n"
            f"spec: {{hosts: [there.example.com], location: {location}, resolution: STATIC,"
            f" ports: [{{name: http, number: 80, protocol: HTTP}}],"
            f" endpoints: [{{address: 127.0.0.1, ports: {{http: {server.port}}}}}]}}\n"
        )
        with world.client_mesh().client() as client:
            assert client.get("http://there.example.com/").status_code == 200
        [request] = server.seen
    assert ("x-envoy-peer-metadata" in request["headers"]) == (location == "MESH_INTERNAL")
    labels = world.of_client().one()
    assert labels["destination_workload"] == "there-0"


def write_raw(world: World, endpoint: dict[str, Any]) -> None:
    name = "outbound|80||reviews.prod.svc.cluster.local"
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
    route = {"match": {"prefix": "/"}, "route": {"cluster": name}}
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
        ".HttpConnectionManager",
        "stat_prefix": "x",
        "route_config": {"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    documents = [
        {
            "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
            "name": "reviews:80",
            "api_listener": {"api_listener": manager},
        },
        {
            "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            "name": name,
            "type": "STATIC",
            "load_assignment": assignment,
        },
    ]
    world.configure("\n---\n".join(map(json.dumps, documents)))
