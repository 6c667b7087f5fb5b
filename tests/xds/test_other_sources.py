"""Resources from files, as Envoy reads them, and from management servers of their own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import json_format, text_format

import meshsdk
from meshsdk.bootstrap import ChannelCredentials
from meshsdk.controlplane.discovery_file import read_discovery_file
from meshsdk.errors import ResourceError
from meshsdk.resources import ResourceType, decode
from meshsdk.resources.config_source import FileOrigin, ServerOrigin, origin_of
from meshsdk.xds.cluster_server import servers_of_cluster

from ..ads import AdsServer
from ..conftest import MakeMesh
from ..grpc.xds import cluster, documents, endpoints, listener
from ..patience import PATIENCE, eventually
from ..servers import EchoServer
from .test_grfc_fallback import requests_without_end

Echo = Callable[[str], EchoServer]
ROUTE = {"match": {"prefix": "/"}, "route": {"cluster": "c"}}


def response(*resources: dict[str, Any]) -> dict[str, Any]:
    return {"version_info": "1", "resources": list(resources)}


def replace(path: Path, content: str | bytes) -> None:
    """In one step, as those do who change such files."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(fresh, path)


def from_file(path: Path, **more: Any) -> dict[str, Any]:
    return {"path_config_source": {"path": str(path), **more}}


def eds_from(source: dict[str, Any]) -> dict[str, Any]:
    return cluster("c", eds_cluster_config={"eds_config": source})


@pytest.fixture
def client_of(stack: ExitStack) -> Callable[..., tuple[meshsdk.Mesh, httpx.Client, AdsServer]]:
    def make(*resources: dict[str, Any]) -> tuple[meshsdk.Mesh, httpx.Client, AdsServer]:
        server = stack.enter_context(AdsServer(*resources))
        mesh = stack.enter_context(meshsdk.Mesh(bootstrap=server.bootstrap))
        return mesh, stack.enter_context(mesh.client(timeout=PATIENCE)), server

    return make


ClientOf = Callable[..., tuple[meshsdk.Mesh, httpx.Client, AdsServer]]


def as_message(document: dict[str, Any]) -> Any:
    return json_format.ParseDict(document, discovery_pb2.DiscoveryResponse())


@pytest.mark.parametrize(
    ("ending", "write"),
    [
        ("yaml", lambda document: "# Comments and all.\n" + json.dumps(document, indent=1)),
        ("json", json.dumps),
        ("pb", lambda document: as_message(document).SerializeToString()),
        ("pb_text", lambda document: text_format.MessageToString(as_message(document))),
    ],
)
def test_endpoints_come_from_a_file_and_follow_it(
    ending: str, write: Callable[[Any], str | bytes], tmp_path: Path, client_of: ClientOf, echo: Echo
) -> None:
    path = tmp_path / f"eds.{ending}"
    one, two = echo("one"), echo("two")
    replace(path, write(response(endpoints("c", [[one.port]]))))
    _, client, server = client_of(listener("shop", [ROUTE]), eds_from(from_file(path)))
    assert client.get("http://shop").headers["x-served-by"] == "one"
    with requests_without_end(client, "http://shop") as told:
        replace(path, write(response(endpoints("c", [[two.port]]))))
        eventually(lambda: told and told[-1] == "two")
    assert set(told) <= {"one", "two"}
    assert not server.names(ResourceType.ENDPOINTS)


def test_a_file_that_is_bad_changes_nothing_and_is_told_of_without_its_content(
    tmp_path: Path, client_of: ClientOf, echo: Echo, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "eds.yaml"
    one, two = echo("one"), echo("two")
    replace(path, json.dumps(response(endpoints("c", [[one.port]]))))
    mesh, client, _ = client_of(listener("shop", [ROUTE]), eds_from(from_file(path)))
    assert client.get("http://shop").headers["x-served-by"] == "one"
    replace(path, '{"resources": [{"@type": "hunter2"}]}')
    eventually(lambda: str(path) in mesh.status()["problem"])
    assert client.get("http://shop").headers["x-served-by"] == "one"
    [told] = [one for one in mesh.status()["resources"] if str(path) in one["name"]]
    assert told["status"] == "NACKED"
    assert "hunter2" not in f"{mesh.status()}{caplog.text}"
    os.unlink(path)
    eventually(lambda: "No such file" in mesh.status()["problem"])
    assert client.get("http://shop").headers["x-served-by"] == "one"
    # One bad resource: the others of the file are used.
    bad = endpoints("c", [[two.port]])
    bad["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]["port_value"] = 70_000
    replace(path, json.dumps(response(bad)))
    eventually(lambda: not mesh.status()["problem"])
    eventually(lambda: "port_value" in str(mesh.status()["resources"]))
    assert client.get("http://shop").headers["x-served-by"] == "one"
    replace(path, json.dumps(response(endpoints("c", [[two.port]]))))
    eventually(lambda: client.get("http://shop").headers["x-served-by"] == "two")


def test_a_watched_directory_is_exchanged_as_kubernetes_does(tmp_path: Path, client_of: ClientOf, echo: Echo) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "eds.yaml").write_text(json.dumps(response(endpoints("c", [[echo(name).port]]))))
    (tmp_path / "data").symlink_to("one")
    path = tmp_path / "eds.yaml"
    path.symlink_to("data/eds.yaml")
    source = from_file(path, watched_directory={"path": str(tmp_path)})
    _, client, _ = client_of(listener("shop", [ROUTE]), eds_from(source))
    assert client.get("http://shop").headers["x-served-by"] == "one"
    (tmp_path / "fresh").symlink_to("two")
    os.replace(tmp_path / "fresh", tmp_path / "data")
    eventually(lambda: client.get("http://shop").headers["x-served-by"] == "two")


def with_rds(source: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A listener whose routes come from elsewhere, and those."""
    whole = listener("shop", [ROUTE])
    manager = whole["api_listener"]["api_listener"]
    routes = {"@type": ResourceType.ROUTE_CONFIGURATION.type_url, **manager.pop("route_config")}
    manager["rds"] = {"config_source": source, "route_config_name": routes["name"]}
    return whole, routes


def test_routes_come_from_a_file(tmp_path: Path, client_of: ClientOf, echo: Echo) -> None:
    path = tmp_path / "rds.yaml"
    whole, routes = with_rds(from_file(path))
    replace(path, json.dumps(response(routes)))
    _, client, server = client_of(whole, cluster("c"), endpoints("c", [[echo("one").port]]))
    assert client.get("http://shop").headers["x-served-by"] == "one"
    assert not server.names(ResourceType.ROUTE_CONFIGURATION)


def test_a_folder_may_send_for_files_and_servers_as_well(
    tmp_path: Path, echo: Echo, stack: ExitStack, make_mesh: MakeMesh
) -> None:
    one, two, three = echo("one"), echo("two"), echo("three")
    path = tmp_path / "eds.yaml"
    replace(path, json.dumps(response(endpoints("c", [[one.port]]))))
    own = stack.enter_context(AdsServer(endpoints("d", [[three.port]])))
    of_server = cluster("d", eds_cluster_config={"eds_config": google(own, "GRPC")})
    route = {"match": {"prefix": "/d"}, "route": {"cluster": "d"}}
    mesh = make_mesh(documents(listener("shop", [route, ROUTE]), eds_from(from_file(path)), of_server))
    client = stack.enter_context(mesh.client(timeout=PATIENCE))
    assert client.get("http://shop").headers["x-served-by"] == "one"
    assert client.get("http://shop/d").headers["x-served-by"] == "three"
    replace(path, json.dumps(response(endpoints("c", [[two.port]]))))
    eventually(lambda: client.get("http://shop").headers["x-served-by"] == "two")


def test_what_a_file_does_not_have_is_missing(tmp_path: Path, client_of: ClientOf) -> None:
    path = tmp_path / "eds.yaml"
    replace(path, json.dumps(response()))
    mesh, client, _ = client_of(listener("shop", [ROUTE]), eds_from(from_file(path)))
    assert client.get("http://shop").status_code == 503
    assert [one["status"] for one in mesh.status()["resources"] if str(path) in one["name"]] == []


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("x.txt", b"", "must end with"),
        ("x.yaml", b"- 1", "is no DiscoveryResponse"),
        ("x.yaml", b"a: &a [*a]", "is no DiscoveryResponse"),
        ("x.yaml", b"\xff", "is no DiscoveryResponse"),
        (
            "x.json",
            b'{"resources": [{"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1s"}]}',
            "none of",
        ),
        ("x.pb", b"\xff\xff", "is no DiscoveryResponse"),
    ],
)
def test_other_files_are_refused(name: str, content: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=problem):
        read_discovery_file(str(tmp_path / name))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ValueError, match="is no regular file"):
        read_discovery_file(str(tmp_path / "pipe.yaml"))


def google(server: AdsServer, api_type: str) -> dict[str, Any]:
    target = {"target_uri": server.entry["server_uri"], "stat_prefix": "x"}
    return {"api_config_source": {"api_type": api_type, "grpc_services": [{"google_grpc": target}]}}


@pytest.mark.parametrize("api_type", ["GRPC", "DELTA_GRPC", "AGGREGATED_GRPC", "AGGREGATED_DELTA_GRPC"])
def test_endpoints_and_routes_come_from_a_server_of_their_own(
    api_type: str, client_of: ClientOf, echo: Echo, stack: ExitStack
) -> None:
    one, two = echo("one"), echo("two")
    own = stack.enter_context(AdsServer())
    whole, routes = with_rds(google(own, api_type))
    own.publish(routes, endpoints("c", [[one.port]]))
    mesh, client, server = client_of(whole, eds_from(google(own, api_type)))
    assert client.get("http://shop").headers["x-served-by"] == "one"
    own.publish(routes, endpoints("c", [[two.port]]))
    eventually(lambda: client.get("http://shop").headers["x-served-by"] == "two")
    assert own.names(ResourceType.ENDPOINTS) == {"c"}
    assert not server.names(ResourceType.ENDPOINTS)
    assert {one.type_url for one in own.requests if one.HasField("node")} <= {
        ResourceType.ENDPOINTS.type_url,
        ResourceType.ROUTE_CONFIGURATION.type_url,
    }
    own.__exit__(None, None, None)
    eventually(lambda: own.entry["server_uri"] in mesh.status()["problem"])
    assert client.get("http://shop").headers["x-served-by"] == "two"


def envoy_grpc(api_type: str = "GRPC") -> dict[str, Any]:
    service = {"envoy_grpc": {"cluster_name": "xds"}}
    return {"api_config_source": {"api_type": api_type, "grpc_services": [service]}}


def leading_to(*ports: int, kind: str = "STATIC", **more: Any) -> dict[str, Any]:
    """A cluster with endpoints of its own."""
    users = {key: value for key, value in endpoints("xds", [list(ports)]).items() if key != "@type"}
    return {"@type": ResourceType.CLUSTER.type_url, "name": "xds", "type": kind, "load_assignment": users, **more}


def port_of(server: AdsServer) -> int:
    return int(server.entry["server_uri"].rpartition(":")[2])


@pytest.mark.parametrize("kind", ["STATIC", "STRICT_DNS"])
@pytest.mark.parametrize("api_type", ["GRPC", "DELTA_GRPC"])
def test_a_cluster_leads_to_a_server_and_may_lead_elsewhere_later(
    api_type: str, kind: str, client_of: ClientOf, echo: Echo, stack: ExitStack
) -> None:
    first, second = (stack.enter_context(AdsServer(endpoints("c", [[echo(name).port]]))) for name in ("one", "two"))
    shop, made = listener("shop", [ROUTE]), eds_from(envoy_grpc(api_type))
    mesh, client, server = client_of(shop, made, leading_to(port_of(first), kind=kind))
    assert client.get("http://shop").headers["x-served-by"] == "one"
    with requests_without_end(client, "http://shop") as told:
        server.publish(shop, made, leading_to(port_of(second), kind=kind))
        eventually(lambda: told and told[-1] == "two")
        first.__exit__(None, None, None)
        seen = len(told)
        eventually(lambda: len(told) > seen + 10)
    assert set(told) == {"one", "two"}
    assert server.names(ResourceType.CLUSTER) == {"c", "xds"}
    assert not server.names(ResourceType.ENDPOINTS)
    assert not mesh.status()["problem"]


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ([], "cluster_name: the management server has no such resource"),
        ([cluster("xds")], "must be a cluster of static endpoints or of DNS"),
        ([leading_to()], "has no endpoints"),
    ],
    ids=["missing", "EDS", "empty"],
)
def test_a_cluster_that_leads_nowhere_is_told_of_and_traffic_fails(
    more: list[dict[str, Any]], problem: str, client_of: ClientOf, echo: Echo, stack: ExitStack
) -> None:
    shop, made = listener("shop", [ROUTE]), eds_from(envoy_grpc())
    mesh, client, server = client_of(shop, made, *more)
    assert client.get("http://shop").status_code == 503
    assert problem in mesh.status()["problem"]
    own = stack.enter_context(AdsServer(endpoints("c", [[echo("one").port]])))
    server.publish(shop, made, leading_to(port_of(own)))
    eventually(lambda: client.get("http://shop").status_code == 200)


def parsed_cluster(source: dict[str, Any]) -> Any:
    data = {key: value for key, value in eds_from(source).items() if key != "@type"}
    return decode(ResourceType.CLUSTER, json_format.ParseDict(data, cluster_pb2.Cluster()).SerializeToString())


@pytest.mark.parametrize(
    ("services", "problem"),
    [
        ({"api_type": "REST"}, "api_type: must be GRPC"),
        ({"api_type": "GRPC"}, "grpc_services: must name a server"),
        (
            {
                "api_type": "GRPC",
                "grpc_services": [
                    {
                        "google_grpc": {
                            "target_uri": "x:1",
                            "stat_prefix": "x",
                            "call_credentials": [{"access_token": "hunter2"}],
                        }
                    }
                ],
            },
            "call_credentials: are refused",
        ),
        (
            {
                "api_type": "GRPC",
                "grpc_services": [
                    {
                        "google_grpc": {
                            "target_uri": "x:1",
                            "stat_prefix": "x",
                            "channel_credentials": {"google_default": {}},
                        }
                    }
                ],
            },
            "google_default: is refused; use ssl_credentials",
        ),
    ],
)
def test_servers_that_cannot_be_asked_are_refused_by_the_field(services: dict[str, Any], problem: str) -> None:
    with pytest.raises(ResourceError, match=problem) as raised:
        parsed_cluster({"api_config_source": services})
    assert "hunter2" not in str(raised.value)


def test_a_name_says_its_source_and_gives_it_back() -> None:
    own = {
        "target_uri": "dns:///x:1",
        "stat_prefix": "x",
        "channel_credentials": {"ssl_credentials": {"root_certs": {"filename": "/a#b/ca.pem"}}},
    }
    source = {"api_config_source": {"api_type": "DELTA_GRPC", "grpc_services": [{"google_grpc": own}]}}
    assert origin_of(parsed_cluster(source).discovery.service_name) == (
        ServerOrigin("dns:///x:1", True, False, True, "/a#b/ca.pem"),
        "c",
    )
    source = from_file(Path("/a b/#?.yaml"), watched_directory={"path": "/a b"})
    assert origin_of(parsed_cluster(source).discovery.service_name) == (FileOrigin("/a b/#?.yaml", "/a b"), "c")
    assert origin_of("c") is None


TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"


def secured(**common: Any) -> Any:
    data = {key: value for key, value in leading_to(1, 2).items() if key != "@type"}
    context = {"@type": TLS, "common_tls_context": common}
    data["transport_socket"] = {"name": "tls", "typed_config": context}
    return decode(ResourceType.CLUSTER, json_format.ParseDict(data, cluster_pb2.Cluster()).SerializeToString())


def in_file(name: str) -> dict[str, str]:
    return {"filename": name}


def test_the_settings_of_a_cluster_secure_the_way_to_a_server() -> None:
    pair = {"certificate_chain": in_file("/cert.pem"), "private_key": in_file("/key.pem")}
    made = secured(validation_context={"trusted_ca": in_file("/ca.pem")}, tls_certificates=[pair])
    assert [(one.uri, one.credentials) for one in servers_of_cluster(made)] == [
        (f"127.0.0.1:{port}", ChannelCredentials("tls", "/ca.pem", "/cert.pem", "/key.pem")) for port in (1, 2)
    ]
    system = servers_of_cluster(secured(validation_context={"system_root_certs": {}}))
    assert system[0].credentials == ChannelCredentials("tls")


@pytest.mark.parametrize(
    ("context", "problem"),
    [
        ({"trusted_ca": {"inline_string": "PEM"}}, "must name files"),
        (
            {
                "trusted_ca": in_file("/ca.pem"),
                "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": "spiffe://x/y"}}],
            },
            "asks for more of a management server's peer than its name",
        ),
        ({"trusted_ca": in_file("/ca.pem"), "crl": in_file("/crl.pem")}, "asks for more"),
    ],
)
def test_settings_that_a_channel_cannot_keep_are_refused(context: dict[str, Any], problem: str) -> None:
    with pytest.raises(ResourceError, match=problem):
        servers_of_cluster(secured(validation_context=context))
