"""The relay between a Mesh and grpc-core: what is refused is told, what is lost comes back, what is unused goes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2

import meshsdk
from meshsdk.controlplane import Folder
from meshsdk.controlplane.server import ControlPlaneServer
from meshsdk.grpc.engine.names import KEEPER, channel_target, parts_of, resource_name
from meshsdk.grpc.engine.relay import _Process
from meshsdk.resources import ResourceType, decode
from tests.conftest import MakeMesh, destination_rule, service
from tests.grpc.conftest import MakeClient
from tests.grpc_client import SyncClient, counts, failures
from tests.grpc_server import GrpcServer

from ..patience import eventually
from ..processes import free_ports

Serve = Callable[..., GrpcServer]


def test_a_nack_of_grpc_cores_names_resource_and_reason(
    make_mesh: MakeMesh, connect: MakeClient, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """No configuration of ours is refused, as far as we know; so the relay is made to serve one that must be."""
    server = serve("one")
    mesh = make_mesh(service("ratings", server.port, port=9080))
    client = connect(mesh)
    assert client.call()["name"] == "one"
    relayed = mesh._grpc()
    relay = _Process.relay
    assert relay is not None
    name = next(name for kind, name in relayed._book.published if kind is ResourceType.CLUSTER)
    bad = dict(relayed._book.published)
    from envoy.config.cluster.v3 import cluster_pb2

    broken = cluster_pb2.Cluster(name=name, lb_policy=cluster_pb2.Cluster.MAGLEV)
    bad[(ResourceType.CLUSTER, name)] = broken.SerializeToString()
    caplog.set_level(logging.ERROR, "meshsdk.grpc")
    relay.publish(relayed._id, bad)
    (refused,) = eventually(lambda: mesh.status()["grpc"]["refused"])
    assert refused["name"] == "outbound|9080||ratings.default.svc.cluster.local"
    assert refused["type"].endswith(".Cluster")
    assert "INVALID_ARGUMENT" in refused["error"]
    assert any(refused["name"] in record.getMessage() for record in caplog.records)
    assert client.call()["name"] == "one"  # The last good configuration.
    relay.publish(relayed._id, relayed._book.published)
    eventually(lambda: not mesh.status()["grpc"]["refused"])


def test_a_removed_socket_is_opened_again_for_new_channels(
    make_mesh: MakeMesh, connect: MakeClient, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve("one")
    mesh = make_mesh(service("ratings", server.port, port=9080) + "---\n" + service("other", server.port, port=80))
    client = connect(mesh)
    assert client.call()["name"] == "one"
    relay = _Process.relay
    assert relay is not None
    relay._socket.unlink()
    assert client.call()["name"] == "one"
    assert connect(mesh, "other:80").call(wait_for_ready=True)["name"] == "one"
    assert "is opened again" in caplog.text


def test_a_management_server_that_goes_away_changes_nothing_for_calls(
    connect: MakeClient, serve: Serve, stack: ExitStack, tmp_path: Path
) -> None:
    folder = tmp_path / "served"
    folder.mkdir()
    one, two = serve("one"), serve("two")
    (folder / "mesh.yaml").write_text(service("ratings", one.port, port=9080))
    [port] = free_ports(1)
    server = ControlPlaneServer(Folder(folder), f"127.0.0.1:{port}")
    server.start()
    bootstrap = {"xds_servers": [{"server_uri": f"127.0.0.1:{port}", "channel_creds": [{"type": "insecure"}]}]}
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=bootstrap))
    client = connect(mesh)
    assert client.call(wait_for_ready=True)["name"] == "one"
    server.stop()
    eventually(lambda: mesh.status()["problem"])
    answers = client.try_many(200, at_once=4)
    assert not failures(answers), counts(answers)
    (folder / "mesh.yaml").write_text(service("ratings", two.port, port=9080))
    again = ControlPlaneServer(Folder(folder), f"127.0.0.1:{port}")
    again.start()
    stack.callback(again.stop)
    answers = []
    eventually(lambda: answers.append(client.call()) or answers[-1]["name"] == "two")


def test_configuration_churned_under_load_fails_no_call(
    make_mesh: MakeMesh, connect: MakeClient, serve: Serve, tmp_path: Path
) -> None:
    one, two = serve("one"), serve("two")
    versions = {one.port: "v1", two.port: "v2"}
    subsets = destination_rule(
        "ratings", "subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]"
    )
    client = connect(make_mesh(service("ratings", one.port, two.port, versions=versions, port=9080)))
    path = tmp_path / "mesh" / "mesh.yaml"
    answers: list[Any] = []
    for number in range(8):
        subset, header = f"v{number % 2 + 1}", f"{{request: {{set: {{x-round: '{number}'}}}}}}"
        rule = (
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: ratings}\n"
            f"spec: {{hosts: [ratings], http: [{{{f'headers: {header}, ' if number % 3 else ''}"
            f"route: [{{destination: {{host: ratings, subset: {subset}}}}}]}}]}}\n"
        )
        # In one step: a file that is found empty is a folder without services.
        fresh = tmp_path / "fresh.yaml"
        fresh.write_text(service("ratings", one.port, two.port, versions=versions, port=9080) + subsets + rule)
        fresh.replace(path)
        end = time.monotonic() + 0.6
        while time.monotonic() < end:
            answers += client.try_many(10, at_once=2)
    assert not failures(answers), counts(answers)
    assert len(counts(answers)) == 2


def test_resources_that_are_no_longer_used_are_no_longer_served(
    make_mesh: MakeMesh, clients: ExitStack, serve: Serve, tmp_path: Path
) -> None:
    server = serve("one")
    mesh = make_mesh(service("ratings", server.port, port=9080))
    client = SyncClient(mesh, "ratings:9080")
    clients.callback(client.close)
    assert client.call()["name"] == "one"
    relayed = mesh._grpc()
    assert [kind.name for kind, _ in relayed._book.published] == ["LISTENER", "CLUSTER", "ENDPOINTS"]
    (tmp_path / "mesh" / "mesh.yaml").write_text("# nothing\n")
    eventually(lambda: all("outbound" not in name for _, name in relayed._book.published))


@pytest.mark.parametrize("parts", [("1", "a"), ("1", "a/b", "~c~1"), ("1", "outbound|9080||x"), ("1", "%2F?#[]", "é ")])
def test_names_keep_their_parts(parts: tuple[str, ...]) -> None:
    name = resource_name(ResourceType.CLUSTER, *parts)
    assert parts_of(ResourceType.CLUSTER, name) == parts
    assert name.count("/") == 3 + len(parts)
    assert channel_target(*parts).endswith(name.rpartition("Cluster/")[2])
    assert parts_of(ResourceType.CLUSTER, "plain") == ()


def test_the_keepers_listener_is_there_whatever_meshes_come_and_go(
    make_mesh: MakeMesh, connect: MakeClient, serve: Serve
) -> None:
    """grpc-core prints an error, 15 seconds later, for each listener that it asks for and does not get."""
    assert connect(make_mesh(service("ratings", serve("one").port, port=9080))).call()["name"] == "one"
    relay = _Process.relay
    assert relay is not None
    name = resource_name(ResourceType.LISTENER, KEEPER)
    request = discovery_pb2.DiscoveryRequest(type_url=ResourceType.LISTENER.type_url, resource_names=[name])
    with grpc.insecure_channel(f"unix:{relay._socket}") as channel:
        stream = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel).StreamAggregatedResources(iter([request]))
        (packed,) = next(stream).resources
    listener = decode(ResourceType.LISTENER, packed.value)
    assert listener.name == name
