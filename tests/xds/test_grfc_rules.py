"""Rules of gRFCs A27, A36 and A74 for whoever is configured by xDS, each by a real management server."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

import meshsdk
from meshsdk.bootstrap import load_bootstrap, parse_bootstrap
from meshsdk.resources import ResourceType

from ..ads import AdsServer
from ..grpc.xds import cluster, endpoints, listener
from ..patience import PATIENCE, eventually
from ..processes import free_ports
from ..server.running import serving
from ..servers import EchoServer
from .test_grfc_fallback import requests_without_end, world
from .test_other_sources import with_rds

Echo = Callable[[str], EchoServer]
ROUTE = {"match": {"prefix": "/"}, "route": {"cluster": "c"}}
INSECURE = [{"type": "insecure"}]


class Client:
    """A management server, and a client by it."""

    def __init__(self, stack: ExitStack, *resources: dict[str, Any]) -> None:
        self.ads = stack.enter_context(AdsServer(*resources))
        self.mesh = stack.enter_context(meshsdk.Mesh(bootstrap=self.ads.bootstrap))
        self.http = stack.enter_context(self.mesh.client(timeout=PATIENCE))

    def served_by(self) -> str:
        return str(self.http.get("http://shop").headers["x-served-by"])


# A27: the bootstrap, and the way from a target to its endpoints.


def test_a27_the_path_in_the_environment_comes_before_the_text_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def document(uri: str) -> str:
        return json.dumps({"xds_servers": [{"server_uri": uri, "channel_creds": INSECURE}], "what_is_new": 1})

    (tmp_path / "bootstrap.json").write_text(document("file:1"))
    monkeypatch.setenv("GRPC_XDS_BOOTSTRAP_CONFIG", document("text:1"))
    monkeypatch.setenv("GRPC_XDS_BOOTSTRAP", str(tmp_path / "bootstrap.json"))
    for expected in ("file:1", "text:1"):
        found = load_bootstrap()
        assert found is not None
        assert found.servers[0].uri == expected
        monkeypatch.delenv("GRPC_XDS_BOOTSTRAP", raising=False)


def test_a27_the_first_channel_credentials_that_are_known_are_used() -> None:
    credentials = [{"type": "of the future"}, {"type": "tls"}, {"type": "insecure"}]
    document = {"xds_servers": [{"server_uri": "x:1", "channel_creds": credentials}]}
    assert parse_bootstrap(document).servers[0].credentials.kind == "tls"


def test_a27_one_leads_to_the_next_over_one_stream(stack: ExitStack, echo: Echo) -> None:
    whole, routes = with_rds({"ads": {}})
    client = Client(stack, whole, routes, cluster("c"), endpoints("c", [[echo("one").port]]))
    assert client.served_by() == "one"
    first = [one.type_url for one in client.ads.requests if not one.version_info]
    assert list(dict.fromkeys(first)) == [kind.type_url for kind in list(ResourceType)[:4]]
    assert client.ads.names(ResourceType.LISTENER) >= {"shop"}
    assert client.ads.names(ResourceType.CLUSTER) == client.ads.names(ResourceType.ENDPOINTS) == {"c"}


def test_a27_endpoints_that_are_called_unhealthy_get_nothing(stack: ExitStack, echo: Echo) -> None:
    states = ["UNHEALTHY", "DRAINING", "TIMEOUT", "DEGRADED", "HEALTHY", "UNKNOWN"]
    ports = [{"port": echo(state).port, "health_status": state} for state in states]
    client = Client(stack, listener("shop", [ROUTE]), cluster("c"), endpoints("c", [ports]))
    assert {client.served_by() for _ in range(30)} == {"HEALTHY", "UNKNOWN"}


# A36: servers.

PREFIX = "grpc/server?xds.resource.listening_address="


def server_listener(name: str, port: int, routes: list[Any], **manager: Any) -> dict[str, Any]:
    of_client = listener(name, routes)["api_listener"]["api_listener"]
    whole = {**of_client, **manager}
    if "rds" in manager:
        whole.pop("route_config")
    return {
        "@type": ResourceType.LISTENER.type_url,
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"name": "all", "filters": [{"name": "manager", "typed_config": whole}]}],
    }


async def hello(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        for event in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{event}.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


class Server:
    """A server, its listener's name, and its management server."""

    def __init__(self, stack: ExitStack) -> None:
        self.ads = stack.enter_context(AdsServer())
        [self.port] = free_ports(1)
        self.name = f"{PREFIX}127.0.0.1:{self.port}"
        document = {**self.ads.bootstrap, "server_listener_resource_name_template": f"{PREFIX}%s"}
        self.mesh = stack.enter_context(meshsdk.Mesh(bootstrap=document))
        self._stack = stack

    def start(self) -> None:
        self._stack.enter_context(serving(hello, self.mesh, self.port))

    def ask(self, path: str = "/") -> str:
        """The status; empty where there was none."""
        try:
            return str(httpx.get(f"http://127.0.0.1:{self.port}{path}").status_code)
        except httpx.HTTPError:
            return ""


@pytest.fixture
def server(stack: ExitStack) -> Server:
    return Server(stack)


OPEN = {"match": {"prefix": "/"}, "non_forwarding_action": {}}


@pytest.mark.parametrize(("address", "name"), [("0.0.0.0", f"{PREFIX}0.0.0.0:80"), ("::", f"{PREFIX}[::]:80")])
def test_a36_the_listener_of_a_socket_has_its_address_in_the_name(address: str, name: str) -> None:
    document = {
        "xds_servers": [{"server_uri": "x:1", "channel_creds": INSECURE}],
        "server_listener_resource_name_template": f"{PREFIX}%s",
    }
    assert parse_bootstrap(document).server_listener_name(address, 80) == name


def test_a36_without_a_template_there_is_no_server(stack: ExitStack) -> None:
    ads = stack.enter_context(AdsServer())
    with (
        meshsdk.Mesh(bootstrap=ads.bootstrap) as mesh,
        pytest.raises(meshsdk.BootstrapError, match="server_listener_resource_name_template"),
    ):
        mesh.inbound(80)


def test_a36_a_deletion_counts_and_an_outage_does_not(server: Server) -> None:
    server.ads.publish(server_listener(server.name, server.port, [OPEN]))
    server.start()
    assert server.ask() == "200"
    server.ads.publish()
    eventually(lambda: server.ask() != "200")
    server.ads.publish(server_listener(server.name, server.port, [OPEN]))
    eventually(lambda: server.ask() == "200")
    server.ads.__exit__(None, None, None)
    eventually(lambda: server.mesh.status()["problem"])
    assert server.ask() == "200"


def test_a36_routes_by_reference_are_waited_for_and_followed(server: Server) -> None:
    rds = {"config_source": {"ads": {}}, "route_config_name": "r"}
    whole = server_listener(server.name, server.port, [], rds=rds)

    def routes(*some: dict[str, Any]) -> dict[str, Any]:
        virtual_host = {"name": "all", "domains": ["*"], "routes": list(some)}
        return {"@type": ResourceType.ROUTE_CONFIGURATION.type_url, "name": "r", "virtual_hosts": [virtual_host]}

    server.ads.publish(whole)
    thread = threading.Thread(target=server.start)
    thread.start()
    eventually(lambda: server.ads.names(ResourceType.ROUTE_CONFIGURATION))
    assert server.ask() == ""
    server.ads.publish(whole, routes(OPEN))
    thread.join(PATIENCE)
    assert server.ask() == "200"
    server.ads.publish(whole, routes({"match": {"prefix": "/"}, "direct_response": {"status": 418}}))
    eventually(lambda: server.ask() == "418")


# A74: a configuration counts when all of it is here.


def test_a74_a_route_counts_when_its_cluster_and_endpoints_are_here(stack: ExitStack, echo: Echo) -> None:
    one, two = echo("one"), echo("two")
    client = Client(stack, *world("shop", one.port, "old"))
    assert client.served_by() == "one"
    route = {"match": {"prefix": "/"}, "route": {"cluster": "new"}}
    old = world("shop", one.port, "old")[1:]
    with requests_without_end(client.http, "http://shop") as told:
        client.ads.publish(listener("shop", [route]), *old)
        eventually(lambda: "new" in client.ads.names(ResourceType.CLUSTER))
        client.ads.publish(listener("shop", [route]), cluster("new"), *old)
        eventually(lambda: "new" in client.ads.names(ResourceType.ENDPOINTS))
        seen = len(told)
        eventually(lambda: len(told) > seen + 10)
        assert told[-1] == "one"
        client.ads.publish(listener("shop", [route]), cluster("new"), endpoints("new", [[two.port]]))
        eventually(lambda: told[-1] == "two")
    assert set(told) == {"one", "two"}


def test_a74_the_error_of_a_cluster_is_nothing_to_the_others(stack: ExitStack, echo: Echo) -> None:
    lost = {"match": {"prefix": "/lost"}, "route": {"cluster": "lost"}}
    client = Client(stack, listener("shop", [lost, ROUTE]), cluster("c"), endpoints("c", [[echo("one").port]]))
    assert client.served_by() == "one"
    assert client.http.get("http://shop/lost").status_code == 503


def test_a74_an_aggregate_passes_over_clusters_that_are_not_there(stack: ExitStack, echo: Echo) -> None:
    kind = "type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig"
    both = {
        "@type": ResourceType.CLUSTER.type_url,
        "name": "c",
        "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": {"name": "aggregate", "typed_config": {"@type": kind, "clusters": ["lost", "there"]}},
    }
    there = [cluster("there"), endpoints("there", [[echo("one").port]])]
    client = Client(stack, listener("shop", [ROUTE]), both, *there)
    assert client.served_by() == "one"
