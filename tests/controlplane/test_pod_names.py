"""Single pods of a headless Service, asked for by the names that the cluster's DNS has for them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from meshsdk.controlplane.client import Client
from meshsdk.controlplane.folder import load
from meshsdk.resources import ResourceType, decode
from tests.conftest import MakeMesh
from tests.grpc_server import GrpcServer
from tests.patience import PATIENCE
from tests.servers import EchoServer

DB = "db.default.svc.cluster.local"
REGISTRY_ONLY = (
    "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n"
    "data: {mesh: 'outboundTrafficPolicy: {mode: REGISTRY_ONLY}'}\n"
)


def headless(*endpoints: tuple[str, int], cluster_ip: str = "None", port_name: str = "http") -> str:
    """A Service whose slices name their endpoints, as those of a StatefulSet's pods do."""
    parts = [
        "apiVersion: v1\nkind: Service\nmetadata: {name: db}\n"
        f"spec: {{clusterIP: {cluster_ip}, ports: [{{name: {port_name}, port: 8080}}]}}\n"
    ]
    parts += [
        f"apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, labels:"
        f" {{kubernetes.io/service-name: db}}}}\naddressType: IPv4\nports: [{{name: {port_name}, port: {port}}}]\n"
        f"endpoints: [{{addresses: [127.0.0.1], hostname: {name}, conditions: {{ready: true}}}}]\n"
        for name, port in endpoints
    ]
    return "---\n".join(parts)


def virtual_service(http: str) -> str:
    return (
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: db}\n"
        f"spec: {{hosts: [db], http: {http}}}\n"
    )


@pytest.mark.parametrize("more", ["", REGISTRY_ONLY], ids=["any", "registry only"])
def test_each_pod_is_called_by_its_own_name_under_the_rules_of_its_service(
    make_mesh: MakeMesh, echo: Callable[[str], EchoServer], more: str
) -> None:
    zero, one = echo("zero"), echo("one")
    yaml = headless(("db-0", zero.port), ("db-1", one.port)) + more
    rule = virtual_service("[{headers: {request: {set: {x-rule: db}}}, route: [{destination: {host: db}}]}]")
    with make_mesh(yaml + rule).client(timeout=PATIENCE) as client:
        for host, name in (
            (f"db-0.{DB}", "zero"),
            (f"db-1.{DB}", "one"),
            ("db-1.db", "one"),
            ("db-0.db.default", "zero"),
        ):
            for _ in range(3):
                answer = client.get(f"http://{host}:8080/").json()
                assert answer["name"] == name
                assert dict(answer["headers"])["x-rule"] == "db"
        assert {client.get("http://db:8080/").json()["name"] for _ in range(30)} == {"zero", "one"}


def test_a_pod_is_called_over_grpc(make_mesh: MakeMesh, stack: ExitStack) -> None:
    zero, one = stack.enter_context(GrpcServer("zero")), stack.enter_context(GrpcServer("one"))
    mesh = make_mesh(headless(("db-0", zero.port), ("db-1", one.port), port_name="grpc"))
    for target in (f"db-1.{DB}:8080", "db-1.db:8080"):
        with mesh.channel(target) as channel:
            for _ in range(5):
                channel.unary_unary("/demo.Echo/say")(b"x", timeout=PATIENCE, wait_for_ready=True)
    assert (len(zero.calls), len(one.calls)) == (0, 10)


@pytest.mark.parametrize(("cluster_ip", "names"), [("None", 1), ("10.96.0.1", 0)])
def test_only_headless_services_have_pods_by_name(tmp_path: Path, cluster_ip: str, names: int) -> None:
    (tmp_path / "m.yaml").write_text(headless(("db-0", 8080), cluster_ip=cluster_ip))
    found = load(tmp_path).view(Client()).grpc
    assert ((ResourceType.LISTENER, f"db-0.{DB}:8080") in found) == bool(names)


def test_the_endpoints_of_a_pod_are_its_own(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(headless(("db-0", 8080), ("db-1", 8081)))
    found = load(tmp_path).view(Client()).grpc
    name = f"original_dst@db-1.{DB}:8080|8080||{DB}"
    endpoints = decode(ResourceType.ENDPOINTS, found[(ResourceType.ENDPOINTS, name)])
    assert [str(one.address) for group in endpoints.localities for one in group.endpoints] == ["127.0.0.1:8081"]
    assert decode(ResourceType.CLUSTER, found[(ResourceType.CLUSTER, name)]).name == name
