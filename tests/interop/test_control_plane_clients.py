"""Other people's xDS clients run from the same folder: grpcio's own, and the real Envoy; and meshsdk from a server."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.protobuf import json_format

import meshsdk
from meshsdk.controlplane import Folder
from meshsdk.controlplane.server import ControlPlaneServer
from meshsdk.resources import ResourceType, decode
from meshsdk.xds.ads_server import AdsService
from tests.certificates import SpiffeCa
from tests.chance import spread
from tests.conftest import destination_rule, service, virtual_service
from tests.processes import CLEAN_ENVIRONMENT, envoy, free_ports
from tests.server.running import answers, serving
from tests.servers import EchoServer

from ..patience import PATIENCE

MakeServer = Callable[[str], ControlPlaneServer]


@pytest.fixture
def make_server(tmp_path: Path, stack: ExitStack) -> MakeServer:
    def make(yaml: str) -> ControlPlaneServer:
        folder = tmp_path / "mesh"
        folder.mkdir(exist_ok=True)
        (folder / "mesh.yaml").write_text(yaml)
        server = ControlPlaneServer(Folder(folder), "127.0.0.1:0")
        server.start()
        stack.callback(server.stop)
        return server

    return make


def bootstrap(port: int) -> dict[str, Any]:
    server = {"server_uri": f"127.0.0.1:{port}", "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}
    return {"xds_servers": [server], "node": {"id": "test"}}


def grpc_echo(name: str, stack: ExitStack, secured: grpc.ServerCredentials | None = None) -> int:
    """A gRPC server that says its name."""

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(lambda request, context: name.encode())

    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((Handler(),))
    address = "127.0.0.1:0"
    port = server.add_insecure_port(address) if secured is None else server.add_secure_port(address, secured)
    server.start()
    stack.callback(lambda: server.stop(0))
    return int(port)


SPLIT = (
    "[{{route: [{{destination: {{host: a, subset: v1}}, weight: {}}},"
    " {{destination: {{host: a, subset: v2}}, weight: {}}}]}}]"
)
SUBSETS = "subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]"


def split_service(one: int, two: int, port: int = 80, *, weights: tuple[int, int] = (75, 25)) -> str:
    return (
        service("a", one, two, versions={one: "v1", two: "v2"}, port=port)
        + destination_rule("a", SUBSETS)
        + virtual_service("a", SPLIT.format(*weights))
    )


def test_a_native_grpc_client_follows_the_folder(make_server: MakeServer, stack: ExitStack) -> None:
    one, two = grpc_echo("v1", stack), grpc_echo("v2", stack)
    server = make_server(split_service(one, two))
    command = [sys.executable, "-m", "tests.interop.native_client", "xds:///a.default.svc.cluster.local:80", "300"]
    environment = {**CLEAN_ENVIRONMENT, "GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(bootstrap(server.port))}
    output = subprocess.run(
        command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=False
    )
    assert output.returncode == 0, output.stderr[-3000:]
    counts = Counter(output.stdout.split())
    assert abs(counts["v1"] - 225) <= spread(300, 0.75), counts


@pytest.mark.parametrize("api_type", ["GRPC", "DELTA_GRPC"])
def test_the_real_envoy_routes_by_the_folder_and_follows_an_edit(
    make_server: MakeServer, tmp_path: Path, stack: ExitStack, api_type: str
) -> None:
    one, two = stack.enter_context(EchoServer("v1")), stack.enter_context(EchoServer("v2"))
    (port,) = free_ports(1)
    server = make_server(split_service(one.port, two.port, port))
    stack.enter_context(envoy(envoy_bootstrap(server.port, api_type), [port], tmp_path))
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"host": "a"}) as client:
        names = Counter(client.get("/").json()["name"] for _ in range(300))
        assert abs(names["v1"] - 225) <= spread(300, 0.75), names
        path = tmp_path / "mesh" / "mesh.yaml"
        path.write_text(split_service(one.port, two.port, port, weights=(0, 100)))
        deadline = time.monotonic() + PATIENCE
        while any(client.get("/").json()["name"] == "v1" for _ in range(20)):
            assert time.monotonic() < deadline


def envoy_bootstrap(port: int, api_type: str) -> dict[str, object]:
    """An Envoy that gets everything by ADS."""
    source = {"ads": {}, "resource_api_version": "V3"}
    endpoint = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
    http2 = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    return {
        "node": {"id": "envoy", "cluster": "test"},
        "dynamic_resources": {
            "ads_config": {
                "api_type": api_type,
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
            },
            "lds_config": source,
            "cds_config": source,
        },
        "static_resources": {
            "clusters": [
                {
                    "name": "xds",
                    "type": "STATIC",
                    "typed_extension_protocol_options": http2,
                    "load_assignment": {"cluster_name": "xds", "endpoints": [{"lb_endpoints": [endpoint]}]},
                }
            ]
        },
    }


def test_meshsdk_gets_the_same_from_a_server_as_from_the_folder(
    make_server: MakeServer, tmp_path: Path, stack: ExitStack
) -> None:
    one, two = stack.enter_context(EchoServer("v1")), stack.enter_context(EchoServer("v2"))
    server = make_server(split_service(one.port, two.port))
    remote = stack.enter_context(meshsdk.Mesh(bootstrap=bootstrap(server.port)))
    local = stack.enter_context(meshsdk.Mesh(config=tmp_path / "mesh"))
    for url in ("http://a/x", "http://a.default/y?z=1", "http://elsewhere.example/"):
        ours, theirs = local.explain("GET", url), remote.explain("GET", url)
        assert ours == theirs
    with remote.client() as client:
        assert client.get("http://a/").json()["name"] in ("v1", "v2")


def test_incremental_clients_get_changes_and_removals(make_server: MakeServer, tmp_path: Path) -> None:
    server = make_server(service("a", 1) + "---\n" + service("b", 2))
    kind = ResourceType.LISTENER
    name, missing = "a.default.svc.cluster.local:80", "nobody:80"

    def requests() -> Any:
        first = discovery_pb2.DeltaDiscoveryRequest(
            type_url=kind.type_url, resource_names_subscribe=[name, "b.default.svc.cluster.local:80", missing]
        )
        first.node.id = "delta"
        yield first
        over.wait(PATIENCE)

    over = threading.Event()
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stream = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel).DeltaAggregatedResources(requests())
        first = next(stream)
        assert {resource.name for resource in first.resources} == {name, "b.default.svc.cluster.local:80"}
        assert list(first.removed_resources) == [missing]
        (tmp_path / "mesh" / "mesh.yaml").write_text(service("a", 1))
        second = next(stream)
        assert not second.resources
        assert list(second.removed_resources) == ["b.default.svc.cluster.local:80"]
        over.set()
        stream.cancel()


def test_a_native_grpc_client_knows_hosts_by_their_short_names(make_server: MakeServer, stack: ExitStack) -> None:
    server = make_server(service("a", grpc_echo("short", stack)))
    for target in ("a:80", "a.default:80", "a.default.svc:80"):
        command = [sys.executable, "-m", "tests.interop.native_client", f"xds:///{target}", "1"]
        environment = {**CLEAN_ENVIRONMENT, "GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(bootstrap(server.port))}
        root = Path(__file__).parents[2]
        output = subprocess.run(
            command, env=environment, cwd=root, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert output.stdout == "short\n", output.stderr[-3000:]


@pytest.mark.parametrize("account", ["bookinfo-a", "somebody-else"])
def test_a_native_grpc_client_speaks_mutual_tls(
    make_server: MakeServer, stack: ExitStack, tmp_path: Path, account: str
) -> None:
    ca = SpiffeCa()
    key, chain = ca.issue(f"spiffe://cluster.local/ns/default/sa/{account}")
    own_key, own_chain = ca.issue("spiffe://cluster.local/ns/default/sa/client")
    paths = {name: tmp_path / name for name in ("certificate_file", "private_key_file", "ca_certificate_file")}
    for path, pem in zip(paths.values(), (own_chain, own_key, ca.pem), strict=True):
        path.write_bytes(pem)
    mutual = grpc.ssl_server_credentials([(key, chain)], ca.pem, require_client_auth=True)
    allowed = "subjectAltNames: ['spiffe://cluster.local/ns/default/sa/bookinfo-a']"
    settings = f"trafficPolicy: {{tls: {{mode: ISTIO_MUTUAL, {allowed}}}}}"
    server = make_server(service("a", grpc_echo("mutual", stack, mutual)) + destination_rule("a", settings))
    told = bootstrap(server.port)
    provider = {"plugin_name": "file_watcher", "config": {name: str(path) for name, path in paths.items()}}
    told["certificate_providers"] = {"default": provider}
    seconds = "50" if account == "bookinfo-a" else "5"  # A server that is not trusted is tried until then.
    output = subprocess.run(
        [sys.executable, "-m", "tests.interop.native_client", "xds:///a.default.svc.cluster.local:80", "1", seconds],
        env={**CLEAN_ENVIRONMENT, "GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(told)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )
    if account == "bookinfo-a":
        assert output.stdout == "mutual\n", output.stderr[-3000:]
    else:
        assert not output.stdout
        assert "DEADLINE_EXCEEDED" in output.stderr, output.stderr[-3000:]


def asked_for(port: int, kind: ResourceType, names: list[str], node: dict[str, Any]) -> list[Any]:
    """What a control plane answers first."""
    request = json_format.ParseDict(
        {"node": node, "typeUrl": kind.type_url, "resourceNames": names}, discovery_pb2.DiscoveryRequest()
    )
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stream = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel).StreamAggregatedResources(
            iter([request]), timeout=PATIENCE
        )
        return list(next(stream).resources)


POLICY = (
    "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\n"
    "spec: {selector: {matchLabels: {app: a}}, action: DENY, rules: [{to: [{operation: {paths: [/x]}}]}]}\n"
)


@pytest.mark.parametrize(("address", "filters"), [("10.0.0.9", 1), ("10.0.0.8", 0)])
def test_servers_elsewhere_get_the_policy_of_their_workload(
    make_server: MakeServer, address: str, filters: int
) -> None:
    """By the address in their node's id: `0.0.0.0` is where each of them listens."""
    yaml = service("a", 8080).replace("127.0.0.1", "10.0.0.9") + "---\n"
    yaml += service("b", 8080).replace("127.0.0.1", "10.0.0.8") + POLICY
    server = make_server(yaml)
    node = {
        "id": f"sidecar~{address}~p.default~default.svc.cluster.local",
        "userAgentName": "meshsdk",
        "metadata": {"GENERATOR": "grpc"},
    }
    name = "xds.istio.io/grpc/lds/inbound/0.0.0.0:8080"
    [packed] = asked_for(server.port, ResourceType.LISTENER, [name], node)
    listener = decode(ResourceType.LISTENER, packed.value)
    assert listener.name == name
    assert {len(chain.manager.listener.filters) for chain in listener.chains} == {filters}


def test_a_server_of_the_control_plane_is_behind_its_policy(make_server: MakeServer, stack: ExitStack) -> None:
    [port] = free_ports(1)
    server = make_server(service("a", port) + POLICY)
    told = {**bootstrap(server.port), "server_listener_resource_name_template": "xds.istio.io/grpc/lds/inbound/%s"}
    with meshsdk.Mesh(bootstrap=told) as mesh, serving(answers, mesh, port):
        assert httpx.get(f"http://127.0.0.1:{port}/y").status_code == 200
        assert httpx.get(f"http://127.0.0.1:{port}/x").status_code == 403


class _Counting:
    """A state that says how often it was asked for a client's resources, and lets nobody have them for a while."""

    def __init__(self) -> None:
        self.asked = 0
        self.may_answer = threading.Event()

    def for_client(self, node: Any) -> dict[tuple[ResourceType, str], bytes]:
        self.asked += 1
        self.may_answer.wait(PATIENCE)
        return {}


@pytest.fixture
def counting(stack: ExitStack) -> tuple[_Counting, grpc.Channel]:
    state = _Counting()
    server = grpc.server(ThreadPoolExecutor(4))
    AdsService(state).add_to(server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    stack.callback(lambda: server.stop(0).wait())
    return state, stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}"))


def test_a_request_for_many_names_is_looked_up_once(counting: tuple[_Counting, grpc.Channel]) -> None:
    state, channel = counting
    state.may_answer.set()
    names = [f"h{number}:80" for number in range(1000)]
    request = discovery_pb2.DeltaDiscoveryRequest(
        type_url=ResourceType.LISTENER.type_url, resource_names_subscribe=names
    )
    stream = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel).DeltaAggregatedResources(iter([request]))
    assert sorted(next(stream).removed_resources) == sorted(names)
    assert state.asked <= 3


@pytest.mark.parametrize("variant", ["StreamAggregatedResources", "DeltaAggregatedResources"])
def test_a_client_that_asks_faster_than_it_is_answered_is_not_read_on(
    counting: tuple[_Counting, grpc.Channel], variant: str
) -> None:
    state, channel = counting
    sent = 0
    over = threading.Event()
    kind = discovery_pb2.DiscoveryRequest if variant.startswith("Stream") else discovery_pb2.DeltaDiscoveryRequest

    def requests() -> Any:
        nonlocal sent
        for number in range(2000):
            request = kind(type_url=ResourceType.LISTENER.type_url)
            request.node.id = f"{number:060000d}"
            yield request
            sent += 1
        over.wait(PATIENCE)

    stream = getattr(ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel), variant)(requests())
    before = -1
    while sent != before:
        before = sent
        time.sleep(1)
    # What HTTP/2 and the system hold for both sides; the requests are 120 MB.
    assert sent < 1000
    over.set()
    stream.cancel()
    state.may_answer.set()
