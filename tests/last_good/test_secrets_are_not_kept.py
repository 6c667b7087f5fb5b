"""No secret reaches the disk, and nothing that may only be used for a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from google.protobuf import json_format

from meshsdk.admin.dumped import plain
from meshsdk.resources import ResourceType
from meshsdk.resources.inline_secrets import inline_secret
from tests.patience import eventually

from ..ads import AdsServer
from ..certificates import SpiffeCa, spiffe
from ..grpc.xds import cluster, endpoints, listener
from ..servers import EchoServer
from ..xds.test_secrets import World as SecretWorld
from .conftest import Plane

TYPES = "type.googleapis.com/"
TLS = f"{TYPES}envoy.extensions.transport_sockets.tls.v3"
FILTERS = f"{TYPES}envoy.extensions.filters.http"
MESSAGES = {
    ResourceType.CLUSTER: cluster_pb2.Cluster,
    ResourceType.ENDPOINTS: endpoint_pb2.ClusterLoadAssignment,
    ResourceType.ROUTE_CONFIGURATION: route_pb2.RouteConfiguration,
    ResourceType.LISTENER: listener_pb2.Listener,
}


def upstream_tls(certificate: dict[str, Any]) -> dict[str, Any]:
    context = {"@type": f"{TLS}.UpstreamTlsContext", "common_tls_context": {"tls_certificates": [certificate]}}
    return {"name": "c", "transport_socket": {"name": "tls", "typed_config": context}}


def route(**fields: Any) -> dict[str, Any]:
    match = fields.pop("match", {"prefix": "/"})
    one = {"match": match, "route": {"cluster": "c"}, **fields}
    return {"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [one]}]}


def header(name: str, **wants: Any) -> dict[str, Any]:
    return route(match={"prefix": "/", "headers": [{"name": name, **wants}]})


def adds(name: str, value: str) -> dict[str, Any]:
    return route(request_headers_to_add=[{"header": {"key": name, "value": value}}])


def filtered(config: dict[str, Any]) -> dict[str, Any]:
    return route(typed_per_filter_config={"f": config})


def metadata(struct: dict[str, Any]) -> dict[str, Any]:
    endpoint = {"endpoint": {}, "metadata": {"filter_metadata": {"istio": struct}}}
    return {"cluster_name": "c", "endpoints": [{"lb_endpoints": [endpoint]}]}


def keys_from(uri: str) -> dict[str, Any]:
    http_uri = {"uri": uri, "cluster": "idp", "timeout": "1s"}
    jwt = {
        "@type": f"{FILTERS}.jwt_authn.v3.JwtAuthentication",
        "providers": {"p": {"remote_jwks": {"http_uri": http_uri}}},
    }
    manager = {"@type": MANAGER, "stat_prefix": "x", "http_filters": [{"name": "jwt", "typed_config": jwt}]}
    return {"name": "l", "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}]}


MANAGER = f"{TYPES}envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
AUTHZ = f"{FILTERS}.ext_authz.v3.ExtAuthzPerRoute"
CLUSTER, ENDPOINTS, ROUTES = ResourceType.CLUSTER, ResourceType.ENDPOINTS, ResourceType.ROUTE_CONFIGURATION
LISTENER = ResourceType.LISTENER
PEM = {"inline_string": "x"}
STRUCT = f"{TYPES}xds.type.v3.TypedStruct"

SECRET = {
    "a private key": (CLUSTER, upstream_tls({"certificate_chain": PEM, "private_key": PEM})),
    "a key's password": (CLUSTER, upstream_tls({"private_key": {"filename": "/k"}, "password": PEM})),
    "a PKCS #12 archive": (CLUSTER, upstream_tls({"pkcs12": {"inline_bytes": "eHh4"}})),
    "a header that lets in": (ROUTES, adds("authorization", "Basic abc")),
    "a header whose value lets in": (ROUTES, adds("x-upstream", "Bearer abc")),
    "an API key that routes look for": (ROUTES, header("x-api-key", string_match={"exact": "k"})),
    "a struct with a password": (ENDPOINTS, metadata({"password": "x"})),
    "a struct deep down": (ENDPOINTS, metadata({"a": [{"b": {"client_secret": "x"}}]})),
    "a filter as a struct": (ROUTES, filtered({"@type": STRUCT, "type_url": "x/y.Z", "value": {"token": "x"}})),
    "what an authorization service is told": (
        ROUTES,
        filtered({"@type": AUTHZ, "check_settings": {"context_extensions": {"tenant": "geheim"}}}),
    ),
    "a password in a URI": (LISTENER, keys_from("https://user:geheim@idp/jwks")),
    "a token in a URI": (LISTENER, keys_from("https://idp/jwks?access_token=geheim")),
}

NONE = {
    "a key in a file": (CLUSTER, upstream_tls({"certificate_chain": PEM, "private_key": {"filename": "/k"}})),
    "headers of other kinds": (ROUTES, adds("x-envoy", "1")),
    "users chosen by cookie": (ROUTES, header("cookie", string_match={"safe_regex": {"regex": ".*user=jason.*"}})),
    "whether there is a token": (ROUTES, header("authorization", present_match=True)),
    "what istiod says of endpoints": (ENDPOINTS, metadata({"workload": "a-v1;default;a;v1;Kubernetes"})),
    "a filter as a struct": (ROUTES, filtered({"@type": STRUCT, "type_url": "x/y.Z", "value": {"debug": "1"}})),
    "where keys are had from": (LISTENER, keys_from("https://idp/jwks?page=1")),
    "a fault": (ROUTES, filtered({"@type": f"{FILTERS}.fault.v3.HTTPFault", "max_active_faults": 1})),
}


def found(kind: ResourceType, resource: dict[str, Any]) -> str:
    message = json_format.ParseDict(resource, MESSAGES[kind]())
    return inline_secret(kind.type_url, message.SerializeToString())


@pytest.mark.parametrize(("kind", "resource"), SECRET.values(), ids=SECRET.keys())
def test_a_secret_is_found(kind: ResourceType, resource: dict[str, Any]) -> None:
    assert found(kind, resource)


@pytest.mark.parametrize(("kind", "resource"), SECRET.values(), ids=SECRET.keys())
def test_nor_is_it_shown(kind: ResourceType, resource: dict[str, Any]) -> None:
    message = json_format.ParseDict(resource, MESSAGES[kind]())
    shown = json.dumps(plain(kind.type_url, message.SerializeToString()))
    assert not [word for word in ("geheim", "Basic abc", "Bearer abc", 'client_secret": "x') if word in shown]


@pytest.mark.parametrize(("kind", "resource"), NONE.values(), ids=NONE.keys())
def test_what_is_none_is_kept(kind: ResourceType, resource: dict[str, Any]) -> None:
    assert found(kind, resource) == ""


def test_what_cannot_be_looked_into_may_hold_one() -> None:
    assert "not known" in inline_secret(f"{TYPES}some.other.Type", b"")
    assert "cannot be read" in inline_secret(CLUSTER.type_url, b"\xff\xff")
    socket = base_pb2.TransportSocket(name="x")
    socket.typed_config.type_url = f"{TYPES}of.somebody.Elses"
    message = cluster_pb2.Cluster(name="c", transport_socket=socket)
    assert "of.somebody.Elses, a type that is not known" in inline_secret(CLUSTER.type_url, message.SerializeToString())


def test_a_cluster_with_its_key_is_not_on_disk_and_status_says_so(
    one_plane: Plane, echo: Callable[..., EchoServer], stack: ExitStack
) -> None:
    key, chain = (pem.decode() for pem in SpiffeCa().issue(spiffe("a")))
    tls = upstream_tls({"certificate_chain": {"inline_string": chain}, "private_key": {"inline_string": key}})
    socket = tls["transport_socket"]
    socket["typed_config"]["common_tls_context"]["validation_context"] = {"trusted_ca": {"inline_string": chain}}
    to = [{"match": {"prefix": "/s"}, "route": {"cluster": "s"}}, {"match": {"prefix": "/"}, "route": {"cluster": "a"}}]
    resources = [
        listener("a", to),
        cluster("a"),
        endpoints("a", [[echo("one").port]]),
        cluster("s", transport_socket=socket),
        endpoints("s", [[1]]),
    ]
    ads = stack.enter_context(AdsServer(*resources))
    one_plane.bootstrap = ads.bootstrap
    with one_plane.mesh() as mesh, mesh.client() as client:
        assert client.get("http://a/").status_code == 200
        told = eventually(lambda: mesh.status()["last_good"]["not_kept"])
    assert told == {"Cluster s": "transport_socket.typed_config.common_tls_context.tls_certificates.private_key"}
    data = one_plane.file.read_bytes()
    assert b"PRIVATE KEY" not in data
    assert b"cluster.v3.Cluster" in data, "the other one is there"


def test_certificates_that_the_server_delivers_are_not_on_disk(
    stack: ExitStack, tmp_path: Path, one_plane: Plane
) -> None:
    world = SecretWorld(stack, tmp_path)
    world.publish_secrets()
    one_plane.bootstrap = world.ads.bootstrap
    with one_plane.mesh() as mesh, mesh.client() as client:
        assert client.get("http://shop").is_success
    data = one_plane.file.read_bytes()
    assert b"cluster.v3.Cluster" in data
    assert b"tls.v3.Secret" not in data
    assert world.pair[0].splitlines()[1] not in data
