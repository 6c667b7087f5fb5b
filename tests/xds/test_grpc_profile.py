"""Endpoints that the control plane calls unhealthy: gRPC's rule, Envoy's, and istiod's for a folder."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

import meshsdk
from meshsdk.controlplane import Folder
from meshsdk.controlplane.server import ControlPlaneServer
from tests.grpc.xds import cluster, documents, endpoints, listener
from tests.grpc_server import GrpcServer
from tests.patience import PATIENCE
from tests.processes import free_ports
from tests.servers import EchoServer

SAY = "/demo.Echo/say"
HOST = "greeter:80"

# What a cluster says of balancing, and whether gRPC's rule holds for it.
PROFILES: dict[str, tuple[dict[str, Any], bool]] = {
    "nothing, as istiod": ({}, True),
    "what gRFC A55 reads": ({"common_lb_config": {"override_host_status": {"statuses": ["HEALTHY"]}}}, True),
    "something empty for Envoy": ({"common_lb_config": {}}, False),
    "a threshold for Envoy": ({"common_lb_config": {"healthy_panic_threshold": {"value": 60}}}, False),
}

MakeServed = Callable[..., meshsdk.Mesh]


@pytest.fixture
def served(tmp_path: Path, stack: ExitStack) -> MakeServed:
    """A Mesh whose management server has a cluster with these endpoints."""

    def make(ports: list[Any], **settings: Any) -> meshsdk.Mesh:
        route = {"match": {"prefix": "/"}, "route": {"cluster": "greeter"}}
        folder = tmp_path / "served"
        folder.mkdir()
        resources = (listener(HOST, [route]), cluster("greeter", **settings), endpoints("greeter", [ports]))
        (folder / "mesh.yaml").write_text(documents(*resources))
        server = ControlPlaneServer(Folder(folder), "127.0.0.1:0")
        server.start()
        stack.callback(server.stop)
        uri = {"server_uri": f"127.0.0.1:{server.port}", "channel_creds": [{"type": "insecure"}]}
        return stack.enter_context(meshsdk.Mesh(bootstrap={"xds_servers": [uri], "node": {"id": "me"}}))

    return make


def unhealthy(port: int) -> dict[str, Any]:
    return {"port": port, "health_status": "UNHEALTHY"}


def served_by(mesh: meshsdk.Mesh) -> Counter[str]:
    with mesh.client(timeout=30) as client:
        return Counter(client.get(f"http://{HOST}/").headers.get("x-served-by", "nobody") for _ in range(12))


@pytest.mark.parametrize("profile", PROFILES)
def test_unhealthy_endpoints_get_nothing_from_servers_of_grpcs_profile(
    served: MakeServed, echo: Callable[[str], EchoServer], profile: str
) -> None:
    settings, is_grpcs = PROFILES[profile]
    good, bad, worse, going = (echo(name).port for name in ("good", "bad", "worse", "going"))
    ports = [good, unhealthy(bad), unhealthy(worse), {"port": going, "health_status": "DRAINING"}]
    mesh = served(ports, **settings)
    names = served_by(mesh)
    assert (names["good"] == 12) is is_grpcs


@pytest.mark.parametrize("profile", PROFILES)
def test_where_all_are_unhealthy_nobody_answers(
    served: MakeServed, echo: Callable[[str], EchoServer], profile: str
) -> None:
    settings, is_grpcs = PROFILES[profile]
    mesh = served([unhealthy(echo("bad").port)], **settings)
    with mesh.client(timeout=30) as client:
        response = client.get(f"http://{HOST}/")
    flag = response.extensions["mesh"].flag
    assert (response.status_code, flag) == ((503, "UH") if is_grpcs else (200, ""))


@pytest.mark.parametrize("profile", PROFILES)
def test_the_same_over_grpc_channels(served: MakeServed, stack: ExitStack, profile: str) -> None:
    settings, is_grpcs = PROFILES[profile]
    good, bad, worse = (stack.enter_context(GrpcServer(name)) for name in ("good", "bad", "worse"))
    mesh = served([good.port, unhealthy(bad.port), unhealthy(worse.port)], **settings)
    until = time.monotonic() + PATIENCE
    with mesh.channel(HOST) as channel:
        for calls in itertools.count(1):
            channel.unary_unary(SAY)(b"x", timeout=30, wait_for_ready=True)
            # Before the others are connected, all calls go to one.
            if len(good.calls) < calls or (is_grpcs and calls == 12):
                break
            assert time.monotonic() < until
    assert (len(good.calls) == calls) is is_grpcs


def test_grpc_channels_to_nobody_but_unhealthy_endpoints_are_unavailable(served: MakeServed, stack: ExitStack) -> None:
    server = stack.enter_context(GrpcServer())
    with served([unhealthy(server.port)]).channel(HOST) as channel, pytest.raises(grpc.RpcError) as failure:
        channel.unary_unary(SAY)(b"x", timeout=30)
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
    assert server.calls == []


@pytest.mark.parametrize(("ready", "expected"), [([True, False, False], {"0": 12}), ([False] * 3, {"nobody": 12})])
def test_pods_of_a_folder_that_are_not_ready_get_nothing(
    make_mesh: Callable[..., meshsdk.Mesh],
    echo: Callable[[str], EchoServer],
    ready: list[bool],
    expected: dict[str, int],
) -> None:
    slices = "".join(
        f"""---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: greeter-{number}, labels: {{kubernetes.io/service-name: greeter}}}}
addressType: IPv4
ports: [{{name: http, port: {echo(str(number)).port}}}]
endpoints: [{{addresses: ["127.0.0.1"], conditions: {{ready: {str(is_ready).lower()}}}}}]
"""
        for number, is_ready in enumerate(ready)
    )
    mesh = make_mesh(
        "apiVersion: v1\nkind: Service\nmetadata: {name: greeter}\n"
        f"spec: {{ports: [{{name: http, port: 80}}]}}\n{slices}"
    )
    assert served_by(mesh) == expected


def of_istiod(port: int) -> tuple[dict[str, Any], ...]:
    """What istiod says of a ServiceEntry: no routes of a port of bytes, no endpoints where it is looked up."""
    found = []
    for number, hosts in ((port, []), (port + 1, [{"match": {"prefix": "/"}, "route": {}}])):
        name = f"outbound|{number}||localhost"
        one = listener(f"localhost:{number}", [])
        manager = one["api_listener"]["api_listener"]
        del manager["route_config"]
        manager["rds"] = {"route_config_name": name, "config_source": {"ads": {}}}
        virtual_hosts = [{"name": "all", "domains": ["*"], "routes": hosts}] if hosts else []
        for route in hosts:
            route["route"]["cluster"] = name  # type: ignore[index]
        routes = {"@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration", "name": name}
        found += [one, {**routes, "virtual_hosts": virtual_hosts}, cluster(name), endpoints(name, [])]
    return tuple(found)


@pytest.fixture
def outside(tmp_path: Path, stack: ExitStack) -> tuple[meshsdk.Mesh, list[int]]:
    """A Mesh whose management server knows `localhost` on two ports, as one of gRPC's profile; somebody is there."""
    ports = free_ports(2)
    while ports[1] != ports[0] + 1:
        ports = free_ports(2)
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "mesh.yaml").write_text(documents(*of_istiod(ports[0])))
    server = ControlPlaneServer(Folder(folder), "127.0.0.1:0")
    server.start()
    stack.callback(server.stop)
    uri = {"server_uri": f"127.0.0.1:{server.port}", "channel_creds": [{"type": "insecure"}]}
    mesh = meshsdk.Mesh(bootstrap={"xds_servers": [uri], "node": {"id": "me"}}, unknown_hosts="deny")
    return stack.enter_context(mesh), ports


def test_hosts_that_have_no_routes_or_no_endpoints_are_reached_by_their_names(
    outside: tuple[meshsdk.Mesh, list[int]], stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    mesh, ports = outside
    for port in ports:
        stack.enter_context(EchoServer("outside", port))
    with mesh.client(timeout=30) as client:
        of_bytes, of_name = (client.get(f"http://localhost:{port}/") for port in ports)
    assert (of_bytes.json()["name"], of_bytes.extensions["mesh"].cluster) == ("outside", "PassthroughCluster")
    assert (of_name.json()["name"], of_name.extensions["mesh"].cluster) == (
        "outside",
        f"outbound|{ports[1]}||localhost",
    )
    assert caplog.records == []


def test_the_same_hosts_over_grpc_channels(outside: tuple[meshsdk.Mesh, list[int]], stack: ExitStack) -> None:
    mesh, ports = outside
    for port in ports:
        server = stack.enter_context(GrpcServer(port=port))
        with mesh.channel(f"localhost:{port}") as channel:
            channel.unary_unary(SAY)(b"x", timeout=30, wait_for_ready=True)
        assert len(server.calls) == 1
