"""CSDS: what a process knows of the mesh, told to gRPC's tools, and read from gRPC's own clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.admin.v3.config_dump_shared_pb2 import ClientResourceStatus
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.service.status.v3 import csds_pb2, csds_pb2_grpc

import meshsdk
from meshsdk.resources import ResourceType
from meshsdk.xds import Status

from ..ads import AdsServer
from ..certificates import SpiffeCa, spiffe
from ..conftest import service
from ..grpc.xds import cluster, endpoints, listener
from ..interop.test_control_plane_clients import grpc_echo
from ..last_good.conftest import Plane
from ..patience import PATIENCE, eventually
from ..processes import CLEAN_ENVIRONMENT
from ..servers import EchoServer
from ..test_cli import run
from ..xds.test_secrets import World as SecretWorld

Echo = Callable[..., EchoServer]

CLUSTER = ResourceType.CLUSTER.type_url
CLIENT = Path(__file__).with_name("grpc_client.py")
TO_A = [{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]


@contextlib.contextmanager
def told(mesh: meshsdk.Mesh) -> Iterator[tuple[str, Any]]:
    """A gRPC server that tells of a mesh: its address and gRPC's own stub for it."""
    server = grpc.server(ThreadPoolExecutor(4))
    mesh.add_csds_servicer(server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    with grpc.insecure_channel(address) as channel:
        yield address, csds_pb2_grpc.ClientStatusDiscoveryServiceStub(channel)
    server.stop(0).wait()


def fetch(stub: Any, **request: Any) -> Any:
    [config] = stub.FetchClientStatus(csds_pb2.ClientStatusRequest(**request), timeout=PATIENCE).config
    return config


def of(config: Any, kind: str, name: str) -> Any:
    [found] = [one for one in config.generic_xds_configs if one.type_url == kind and one.name == name]
    return found


@pytest.fixture
def one_plane(tmp_path: Path) -> Plane:
    """A control plane over a folder."""
    return Plane(tmp_path, [])


@pytest.fixture
def ads(stack: ExitStack, echo: Echo) -> AdsServer:
    """A management server of one service."""
    return stack.enter_context(AdsServer(*service_a(echo("a").port)))


def service_a(port: int, **fields: Any) -> list[dict[str, Any]]:
    return [listener("a", TO_A), cluster("a", **fields), endpoints("a", [[port]])]


@pytest.fixture
def mesh(stack: ExitStack, ads: AdsServer) -> meshsdk.Mesh:
    """It was asked for `a`, and for a host that is none of the mesh's."""
    node = {
        "id": "shop-1",
        "cluster": "shop",
        "locality": {"zone": "z"},
        "metadata": {"APP": "shop", "API_TOKEN": "s3cret"},
    }
    one = stack.enter_context(meshsdk.Mesh(bootstrap={**ads.bootstrap, "node": node}))
    one.wait_ready("a", PATIENCE)
    one.explain("GET", "http://outside.example/", timeout=PATIENCE)
    return one


def test_each_resource_is_told_as_it_came_with_its_version_and_its_time(mesh: meshsdk.Mesh, echo: Echo) -> None:
    with told(mesh) as (_, stub):
        config = fetch(stub)
    found = {(one.type_url.rpartition(".")[2], one.name) for one in config.generic_xds_configs}
    assert {("Listener", "a"), ("Cluster", "a"), ("ClusterLoadAssignment", "a")} <= found
    one = of(config, CLUSTER, "a")
    assert one.client_status == ClientResourceStatus.ACKED
    assert one.version_info
    assert abs(one.last_updated.ToSeconds() - time.time()) < PATIENCE
    message = cluster_pb2.Cluster()
    assert one.xds_config.Unpack(message)
    assert (message.name, message.type) == ("a", cluster_pb2.Cluster.EDS)
    assignment = endpoint_pb2.ClusterLoadAssignment()
    assert of(config, ResourceType.ENDPOINTS.type_url, "a").xds_config.Unpack(assignment)
    assert assignment.endpoints
    outside = of(config, ResourceType.LISTENER.type_url, "outside.example")
    assert outside.client_status == ClientResourceStatus.DOES_NOT_EXIST
    assert not outside.HasField("xds_config")


def test_the_node_is_told_without_what_lets_in(mesh: meshsdk.Mesh) -> None:
    with told(mesh) as (_, stub):
        node = fetch(stub).node
    assert (node.id, node.cluster, node.locality.zone, node.user_agent_name) == ("shop-1", "shop", "z", "meshsdk")
    assert node.user_agent_version == meshsdk.__version__
    assert node.metadata["APP"] == "shop"
    assert node.metadata["API_TOKEN"] == "[redacted]"


def test_a_refused_update_is_told_with_its_version_beside_the_last_good_one(
    mesh: meshsdk.Mesh, ads: AdsServer, echo: Echo
) -> None:
    with told(mesh) as (_, stub):
        before = of(fetch(stub), CLUSTER, "a")
        ads.publish(*service_a(echo("b").port, lb_policy="RING_HASH", ring_hash_lb_config={"minimum_ring_size": 2**30}))
        after = eventually(lambda: (one := of(fetch(stub), CLUSTER, "a")).HasField("error_state") and one)
    assert after.client_status == ClientResourceStatus.NACKED
    assert (after.version_info, after.xds_config) == (before.version_info, before.xds_config)
    assert "minimum_ring_size" in after.error_state.details
    assert after.error_state.version_info not in ("", before.version_info)
    assert abs(after.error_state.last_update_attempt.ToSeconds() - time.time()) < PATIENCE


def test_secrets_are_not_told(mesh: meshsdk.Mesh, ads: AdsServer, echo: Echo) -> None:
    key, chain = (pem.decode() for pem in SpiffeCa().issue(spiffe("a")))
    context = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": {
            "tls_certificates": [
                {"certificate_chain": {"inline_string": chain}, "private_key": {"inline_string": key}}
            ],
            "validation_context": {"trusted_ca": {"inline_string": chain}},
        },
    }
    ads.publish(*service_a(echo("b").port, transport_socket={"name": "tls", "typed_config": context}))
    with told(mesh) as (address, stub):
        one = eventually(lambda: b"CERTIFICATE" in (found := of(fetch(stub), CLUSTER, "a")).xds_config.value and found)
        shown = run("status", address, "--json").stdout
    assert b"PRIVATE KEY" not in one.SerializeToString()
    assert "BEGIN CERTIFICATE" in shown
    assert "PRIVATE KEY" not in shown


def test_certificates_that_the_server_delivers_are_told_without_their_keys(stack: ExitStack, tmp_path: Path) -> None:
    world = SecretWorld(stack, tmp_path)
    world.publish_secrets()
    assert world.client.get("http://shop").is_success
    with told(world.mesh) as (_, stub):
        config = fetch(stub)
    mine, theirs = (of(config, ResourceType.SECRET.type_url, name) for name in ("mine", "theirs"))
    assert mine.client_status == theirs.client_status == ClientResourceStatus.ACKED
    assert b"BEGIN CERTIFICATE" in mine.xds_config.value
    assert b"[redacted]" in mine.xds_config.value
    assert world.pair[0].splitlines()[1] not in config.SerializeToString()


def test_contents_are_left_out_where_nobody_wants_them(mesh: meshsdk.Mesh) -> None:
    with told(mesh) as (_, stub):
        config = fetch(stub, exclude_resource_contents=True)
    assert of(config, CLUSTER, "a").client_status == ClientResourceStatus.ACKED
    assert not any(one.HasField("xds_config") for one in config.generic_xds_configs)


def test_whoever_asks_for_some_nodes_is_refused_by_name(mesh: meshsdk.Mesh) -> None:
    with told(mesh) as (_, stub), pytest.raises(grpc.RpcError, match="node_matchers") as caught:
        fetch(stub, node_matchers=[{"node_id": {"exact": "other"}}])
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_stream_is_answered_at_each_request(mesh: meshsdk.Mesh, ads: AdsServer, echo: Echo) -> None:
    with told(mesh) as (_, stub):
        requests: list[Any] = [csds_pb2.ClientStatusRequest()] * 2
        answers = list(stub.StreamClientStatus(iter(requests), timeout=PATIENCE))
    assert [len(answer.config) for answer in answers] == [1, 1]


def test_a_mesh_that_is_closed_says_so(mesh: meshsdk.Mesh) -> None:
    with told(mesh) as (_, stub):
        mesh.close()
        with pytest.raises(grpc.RpcError, match="closed") as caught:
            fetch(stub)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_servers_of_asyncio_tell_the_same(mesh: meshsdk.Mesh) -> None:
    async def ask() -> tuple[Any, Any, grpc.StatusCode]:
        server = grpc.aio.server()
        mesh.add_csds_servicer(server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = csds_pb2_grpc.ClientStatusDiscoveryServiceStub(channel)
            single = await stub.FetchClientStatus(csds_pb2.ClientStatusRequest())
            streamed = [one async for one in stub.StreamClientStatus(iter([csds_pb2.ClientStatusRequest()]))]
            try:
                await stub.FetchClientStatus(csds_pb2.ClientStatusRequest(node_matchers=[{}]))
                code = grpc.StatusCode.OK
            except grpc.aio.AioRpcError as error:
                code = error.code()
        await server.stop(None)
        return single, streamed[0], code

    single, streamed, code = asyncio.run(ask())
    assert single == streamed
    assert of(single.config[0], CLUSTER, "a").client_status == ClientResourceStatus.ACKED
    assert code is grpc.StatusCode.INVALID_ARGUMENT


def test_the_command_shows_a_table_and_is_content(mesh: meshsdk.Mesh) -> None:
    with told(mesh) as (address, _):
        result = run("status", address)
        as_json = run("status", address, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    assert f"shop-1 meshsdk {meshsdk.__version__}" in result.stdout
    assert {"Listener", "Cluster", "ClusterLoadAssignment", "ACKED", "DOES_NOT_EXIST"} <= set(result.stdout.split())
    [client] = json.loads(as_json.stdout)
    [one] = [one for one in client["resources"] if one["type"] == CLUSTER]
    assert (one["name"], one["status"], one["error"]) == ("a", "ACKED", "")
    assert one["contents"]["type"] == "EDS"


def test_the_command_exits_with_one_where_an_update_was_refused(mesh: meshsdk.Mesh, ads: AdsServer, echo: Echo) -> None:
    ads.publish(*service_a(echo("b").port, lb_policy="RING_HASH", ring_hash_lb_config={"minimum_ring_size": 2**30}))
    eventually(lambda: any(one["error"] for one in mesh.status()["resources"]))
    with told(mesh) as (address, _):
        result = run("status", address)
    assert result.returncode == 1
    assert "NACKED" in result.stdout
    assert "minimum_ring_size" in result.stdout


def test_the_command_exits_with_one_where_something_is_missing(mesh: meshsdk.Mesh, ads: AdsServer) -> None:
    ads.publish(listener("a", TO_A))
    eventually(lambda: mesh._runtime.cache.counts[ResourceType.CLUSTER, Status.DOES_NOT_EXIST])
    with told(mesh) as (address, _):
        assert run("status", address).returncode == 1


def test_the_command_says_why_nobody_answers(mesh: meshsdk.Mesh, ads: AdsServer) -> None:
    uri = ads.bootstrap["xds_servers"][0]["server_uri"]
    without = run("status", uri)
    nobody = run("status", "127.0.0.1:1", "--timeout", "1")
    assert (without.returncode, nobody.returncode) == (2, 2)
    assert "has no ClientStatusDiscoveryService" in without.stderr
    assert "UNAVAILABLE" in nobody.stderr


def test_what_grpcs_own_clients_tell_is_shown_too(one_plane: Plane, stack: ExitStack) -> None:
    port = grpc_echo("one", stack)
    one_plane.write(service("a", port).replace("name: http", "name: grpc").replace("{http:", "{grpc:"))
    stack.enter_context(one_plane.running())
    environment = {**CLEAN_ENVIRONMENT, "GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(one_plane.bootstrap)}
    address, answer = grpc_process(stack, environment, "xds:///a:80", PATIENCE)
    assert answer == "one"
    good = run("status", address, "--json")
    assert good.returncode == 0
    [client] = json.loads(good.stdout)
    assert {one["status"] for one in client["resources"]} == {"ACKED"}
    assert {"Listener", "Cluster", "ClusterLoadAssignment"} <= {
        one["type"].rpartition(".")[2] for one in client["resources"]
    }
    with one_plane.mesh() as mesh, told(mesh) as (_, stub):
        mesh.wait_ready("a:80", PATIENCE)
        ours = {(one.type_url, one.name) for one in fetch(stub).generic_xds_configs}
    theirs = {(one["type"], one["name"]) for one in client["resources"]}
    assert theirs <= ours, "and ours tells the same"


@pytest.mark.soak  # grpc-core waits 15 seconds for it.
def test_a_listener_that_grpc_misses_is_a_reason_to_fail(one_plane: Plane, stack: ExitStack) -> None:
    one_plane.write(service("b", 1))
    stack.enter_context(one_plane.running())
    environment = {**CLEAN_ENVIRONMENT, "GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(one_plane.bootstrap)}
    address, answer = grpc_process(stack, environment, "xds:///a:80", PATIENCE)
    assert answer == "UNAVAILABLE"
    result = run("status", address)
    assert result.returncode == 1
    assert "DOES_NOT_EXIST" in result.stdout


def grpc_process(stack: ExitStack, environment: dict[str, str], target: str, timeout: float) -> tuple[str, str]:
    command = [sys.executable, str(CLIENT), target, str(timeout)]
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    assert process.stdout is not None
    port, answer = process.stdout.readline().split()
    return f"127.0.0.1:{port}", answer
