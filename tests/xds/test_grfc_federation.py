"""gRFC A47, federation: whose a name is, which servers are asked for it, and what fails with whom."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2, duration_pb2

import meshsdk
from meshsdk.bootstrap import parse_bootstrap
from meshsdk.resources import ResourceType
from meshsdk.xds import ControlLoop, ResourceCache, Status
from meshsdk.xds.federation import Federation
from meshsdk.xdstp import authority_of, filled_in, normalised, split_target

from ..ads import AdsServer
from ..grpc.xds import cluster, endpoints, listener
from ..grpc_client import SyncClient
from ..grpc_server import GrpcServer
from ..patience import PATIENCE, eventually
from ..processes import free_ports
from ..servers import EchoServer
from .test_ads_client import CLUSTER, Client, ScriptedAds
from .test_ads_client import cluster as packed_cluster
from .test_grfc_fallback import world

LISTENERS = "envoy.config.listener.v3.Listener"
OTHER = "xds.other.com"


def uri(authority: str, kind: ResourceType, rest: str) -> str:
    return f"xdstp://{authority}/{kind.type_url.rpartition('/')[2]}/{rest}"


def federated(authority: str, host: str, port: int, parameters: str = "") -> list[dict[str, Any]]:
    """A host whose every resource is an authority's."""
    name, users = (uri(authority, kind, f"c{parameters}") for kind in (ResourceType.CLUSTER, ResourceType.ENDPOINTS))
    route = {"match": {"prefix": "/"}, "route": {"cluster": name}}
    discovery = {"eds_config": {"ads": {}}, "service_name": users}
    return [
        listener(uri(authority, ResourceType.LISTENER, host), [route]),
        cluster(name, eds_cluster_config=discovery),
        endpoints(users, [[port]]),
    ]


# The examples of the proposal.
@pytest.mark.parametrize(
    ("fields", "authority", "name"),
    [
        ({}, None, "server.example.com"),
        (
            {"client_default_listener_resource_name_template": f"xdstp://xds.authority.com/{LISTENERS}/%s"},
            None,
            f"xdstp://xds.authority.com/{LISTENERS}/server.example.com",
        ),
        ({}, "xds.authority.com", f"xdstp://xds.authority.com/{LISTENERS}/server.example.com"),
        (
            {
                "authorities": {
                    "xds.authority.com": {
                        "client_listener_resource_name_template": "xdstp://xds.authority.com/"
                        f"{LISTENERS}/grpc/client/%s?project_id=1234"
                    }
                }
            },
            "xds.authority.com",
            f"xdstp://xds.authority.com/{LISTENERS}/grpc/client/server.example.com?project_id=1234",
        ),
    ],
)
def test_a47_targets_become_names_by_the_template_of_their_authority(
    fields: dict[str, Any], authority: str | None, name: str
) -> None:
    servers = [{"server_uri": "x:1", "channel_creds": [{"type": "insecure"}]}]
    document = {"xds_servers": servers, "authorities": {"xds.authority.com": {}}, **fields}
    assert parse_bootstrap(document).listener_name("server.example.com", authority) == name


def test_a47_a_template_must_be_of_its_authority() -> None:
    document = {
        "xds_servers": [{"server_uri": "x:1", "channel_creds": [{"type": "insecure"}]}],
        "authorities": {"a": {"client_listener_resource_name_template": "xdstp://b/%s"}},
    }
    with pytest.raises(meshsdk.BootstrapError, match=r"authorities\['a'\].client_listener_resource_name_template"):
        parse_bootstrap(document)


@pytest.mark.parametrize(
    ("name", "normal"),
    [
        ("shop?b=2&a=1", "shop?b=2&a=1"),
        ("xdstp://x/t/id?b=2&a=1", "xdstp://x/t/id?a=1&b=2"),
        ("xdstp://x/t/id?a=1&b=2&a=3", "xdstp://x/t/id?a=3&b=2"),
        ("xdstp://x/t/id?", "xdstp://x/t/id"),
        ("xdstp://x/t/id?b=2&a=1#alt=y", "xdstp://x/t/id?a=1&b=2#alt=y"),
        ("xdstp:t/id", "xdstp:t/id"),
    ],
)
def test_a47_context_parameters_stand_in_one_order(name: str, normal: str) -> None:
    assert normalised(name) == normal


@pytest.mark.parametrize(
    ("name", "authority"),
    [
        ("shop", None),
        ("xdstp://x.y/t/id", "x.y"),
        ("xdstp:///t/id", ""),
        ("xdstp:t/id", ""),
        ("xdstp://a%20b/t/i", "a b"),
    ],
)
def test_a47_the_authority_of_a_name(name: str, authority: str | None) -> None:
    assert authority_of(name) == authority


def test_a47_what_goes_into_a_uri_is_percent_encoded() -> None:
    assert filled_in("xdstp://x/t/%s", "[::1]:80/a b?c") == "xdstp://x/t/%5B::1%5D:80/a%20b%3Fc"
    assert filled_in("%s", "[::1]:80") == "[::1]:80"


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        ("shop:80", (None, "shop:80")),
        ("xds:///shop", (None, "shop")),
        ("xds://x.y/shop:80", ("x.y", "shop:80")),
        ("xds://shop", (None, "xds://shop")),
    ],
)
def test_a47_the_authority_of_a_target(target: str, parts: tuple[str | None, str]) -> None:
    assert split_target(target) == parts


@pytest.fixture
def two(stack: ExitStack, echo: Callable[[str], EchoServer]) -> tuple[AdsServer, AdsServer, dict[str, Any]]:
    """The top-level server and another authority's, both of which have a host `shop`."""
    top = stack.enter_context(AdsServer(*world("shop", echo("top's").port)))
    other = stack.enter_context(AdsServer(*federated(OTHER, "shop", echo("other's").port)))
    document = {**top.bootstrap, "authorities": {OTHER: {"xds_servers": [other.entry]}, "same": {}}}
    return top, other, document


Two = tuple[AdsServer, AdsServer, dict[str, Any]]


def test_a47_a_name_is_asked_of_the_servers_of_its_authority_alone(two: Two, stack: ExitStack) -> None:
    top, other, document = two
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=document))
    mine = stack.enter_context(mesh.client(timeout=PATIENCE))
    theirs = stack.enter_context(mesh.client(timeout=PATIENCE, authority=OTHER))
    assert mine.get("http://shop").headers["x-served-by"] == "top's"
    assert theirs.get("http://shop").headers["x-served-by"] == "other's"
    assert theirs.get("http://shop").extensions["mesh"].cluster == uri(OTHER, CLUSTER, "c")
    mesh.wait_ready(f"xds://{OTHER}/shop", PATIENCE)
    for kind in ResourceType:
        assert all(name.startswith(f"xdstp://{OTHER}/") for name in other.names(kind))
        assert not any(name.startswith("xdstp:") for name in top.names(kind))

    async def ask() -> str:
        async with mesh.async_client(timeout=PATIENCE, authority=OTHER) as client:
            return str((await client.get("http://shop")).headers["x-served-by"])

    assert asyncio.run(ask()) == "other's"


def test_a47_a_channel_names_the_authority_in_its_target(two: Two, stack: ExitStack) -> None:
    _, other, document = two
    server = stack.enter_context(GrpcServer("mine"))
    http2 = {
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
    }
    resources = federated(OTHER, "greeter:9000", server.port)
    resources[1].update(http2)
    other.publish(*resources)
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=document))
    client = SyncClient(mesh, f"xds://{OTHER}/greeter:9000")
    stack.callback(client.channel.close)
    assert client.call()["name"] == "mine"
    # Of the default authority it is no host of the mesh.
    with pytest.raises(meshsdk.NoRouteError):
        mesh.wait_ready("greeter:9000", PATIENCE)


def test_a47_an_authority_that_there_is_not_is_refused_where_it_is_named(two: Two, stack: ExitStack) -> None:
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=two[2]))
    for refused in (
        lambda: mesh.client(authority="nobody"),
        lambda: mesh.async_client(authority="nobody"),
        lambda: mesh.wait_ready("xds://nobody/shop"),
        lambda: mesh.channel("xds://nobody/shop"),
    ):
        with pytest.raises(meshsdk.BootstrapError, match="authorities: has no 'nobody'"):
            refused()


def test_a47_an_authority_that_there_is_not_is_the_error_of_what_leads_there(two: Two, stack: ExitStack) -> None:
    top, _, document = two
    lost = uri("nobody", CLUSTER, "c")
    routes = [
        {"match": {"prefix": "/lost"}, "route": {"cluster": lost}},
        {"match": {"prefix": "/"}, "direct_response": {"status": 204}},
    ]
    top.publish(listener("shop", routes))
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=document))
    client = stack.enter_context(mesh.client(timeout=PATIENCE))
    assert client.get("http://shop/").status_code == 204
    assert client.get("http://shop/lost").status_code == 503
    [told] = [one for one in mesh.status()["resources"] if one["name"] == lost]
    assert "authorities: has no 'nobody' (it has: 'same', 'xds.other.com')" in told["error"]


def test_a47_authorities_without_servers_share_the_stream_of_the_top_level_ones(two: Two, stack: ExitStack) -> None:
    top, _, document = two
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=document))
    for name in ("shop", "xds://same/shop"):
        with pytest.raises(meshsdk.NoRouteError) if "same" in name else ExitStack():
            mesh.wait_ready(name, PATIENCE)
    assert {"shop", uri("same", ResourceType.LISTENER, "shop")} <= top.names(ResourceType.LISTENER)
    assert list(mesh._runtime.source._clients) == [mesh._runtime.bootstrap.servers]  # type: ignore[union-attr]


def test_a47_the_failure_of_an_authority_is_nothing_to_the_others(
    two: Two, echo: Callable[[str], EchoServer], stack: ExitStack
) -> None:
    top, other, document = two
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=document))
    mine = stack.enter_context(mesh.client(timeout=PATIENCE))
    theirs = stack.enter_context(mesh.client(timeout=PATIENCE, authority=OTHER))
    assert {client.get("http://shop").status_code for client in (mine, theirs)} == {200}
    other.__exit__(None, None, None)
    eventually(lambda: other.entry["server_uri"] in mesh.status()["problem"])
    top.publish(*world("shop", echo("new").port))
    eventually(lambda: mine.get("http://shop").headers["x-served-by"] == "new")
    assert theirs.get("http://shop").headers["x-served-by"] == "other's"
    assert top.entry["server_uri"] not in mesh.status()["problem"]


class FederatedClient(Client):
    """A Federation on its own control loop."""

    def __init__(self, document: dict[str, Any], **options: Any) -> None:
        self.cache = ResourceCache()
        self.loop = ControlLoop("test")
        self.loop.start()
        self.source: Any = Federation(parse_bootstrap(document), self.cache, self.loop, **options)


@pytest.fixture
def scripted(stack: ExitStack) -> ScriptedAds:
    server = ScriptedAds()
    stack.callback(server.stop)
    return server


def entry(server: ScriptedAds) -> dict[str, Any]:
    return {"server_uri": f"127.0.0.1:{server.port}", "channel_creds": [{"type": "insecure"}]}


def test_a47_a_resource_is_known_whatever_the_order_of_its_parameters(scripted: ScriptedAds, stack: ExitStack) -> None:
    client = FederatedClient({"xds_servers": [entry(scripted)], "authorities": {"x": {}}})
    stack.callback(client.close)
    name = normalised(uri("x", CLUSTER, "c?b=2&a=1"))
    client.subscribe(cluster={name})
    assert list(scripted.request().resource_names) == [uri("x", CLUSTER, "c?a=1&b=2")]
    users = {"eds_config": {"ads": {}}, "service_name": "e"}
    scripted.send(CLUSTER, "1", packed_cluster(uri("x", CLUSTER, "c?b=2&a=1"), eds_cluster_config=users))
    assert client.entry(CLUSTER, name, Status.ACKED).resource.name == name  # type: ignore[union-attr]


def test_a47_equal_servers_share_a_channel_and_a_server_that_nobody_wants_is_let_go(
    scripted: ScriptedAds, stack: ExitStack
) -> None:
    other = ScriptedAds()
    stack.callback(other.stop)
    servers = [entry(scripted), entry(other)]
    document = {"xds_servers": [entry(scripted)], "authorities": {"x": {"xds_servers": servers}}}
    client = FederatedClient(document, idle_seconds=0.1)
    stack.callback(client.close)
    client.subscribe(cluster={"a", uri("x", CLUSTER, "c")})
    assert sorted(list(scripted.request().resource_names) + list(scripted.request().resource_names)) == [
        "a",
        uri("x", CLUSTER, "c"),
    ]
    assert [users for _, users in client.source._channels._open.values()] == [2]
    client.subscribe(cluster={"a"})
    eventually(lambda: len(client.source._clients) == 1)
    eventually(lambda: [users for _, users in client.source._channels._open.values()] == [1])
    client.subscribe(cluster={"a", uri("x", CLUSTER, "d")})
    eventually(lambda: len(client.source._clients) == 2)


def test_a47_a_server_of_the_process_is_configured_by_the_authority_of_its_template(
    echo: Callable[[str], EchoServer], stack: ExitStack
) -> None:
    other = stack.enter_context(AdsServer())
    top = stack.enter_context(AdsServer())
    template = f"xdstp://{OTHER}/{LISTENERS}/grpc/server/%s?project_id=1234"
    document = {
        **top.bootstrap,
        "authorities": {OTHER: {"xds_servers": [other.entry]}},
        "server_listener_resource_name_template": template,
    }
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=document))
    mesh.inbound(8080)
    name = f"xdstp://{OTHER}/{LISTENERS}/grpc/server/0.0.0.0:8080?project_id=1234"
    with pytest.raises(Exception, match="grpc/server"):
        mesh.inbound(8080).wait_ready(PATIENCE)
    assert other.names(ResourceType.LISTENER) == {name}
    assert not top.names(ResourceType.LISTENER)


def test_what_is_wanted_no_more_is_not_remembered_for_its_time_to_live(scripted: ScriptedAds, stack: ExitStack) -> None:
    client = FederatedClient({"xds_servers": [entry(scripted)]})
    stack.callback(client.close)
    client.subscribe(cluster={"a", "b"})
    scripted.request()
    lasting = any_pb2.Any()
    lasting.Pack(discovery_pb2.Resource(resource=packed_cluster("a"), ttl=duration_pb2.Duration(nanos=300_000_000)))
    scripted.send(CLUSTER, "1", lasting, packed_cluster("b"))
    client.entry(CLUSTER, "a", Status.ACKED)
    client.subscribe(cluster={"b"})
    eventually(lambda: not client.source._client(client.source._bootstrap.servers)._common.lifetimes._timers)
    assert client.cache.get(CLUSTER, "a") is None


def test_a71_each_authority_falls_back_by_itself(two: Two, stack: ExitStack) -> None:
    top, other, document = two
    [nobody] = free_ports(1)
    away = {"server_uri": f"127.0.0.1:{nobody}", "channel_creds": [{"type": "insecure"}]}
    document["authorities"][OTHER] = {"xds_servers": [away, other.entry]}
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=document))
    theirs = stack.enter_context(mesh.client(timeout=PATIENCE, authority=OTHER))
    assert theirs.get("http://shop").headers["x-served-by"] == "other's"
    mine = stack.enter_context(mesh.client(timeout=PATIENCE))
    assert mine.get("http://shop").headers["x-served-by"] == "top's"
    assert f"{other.entry['server_uri']} is asked in its place" in mesh.status()["problem"]
    assert not other.names(ResourceType.LISTENER) & top.names(ResourceType.LISTENER)
