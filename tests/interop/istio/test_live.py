"""The real istiod as management server: clients and servers that live with it, also while it is killed."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

import meshsdk
from tests.certificates import SpiffeCa
from tests.grpc_server import GrpcServer
from tests.patience import PATIENCE, eventually
from tests.processes import free_ports, wait_for_port
from tests.server.running import answers, identity, peer_authentication, policy, serving
from tests.servers import EchoServer

from . import istiod

pytestmark = pytest.mark.interop

HOST = "a.default.svc.cluster.local"


@pytest.fixture(scope="module")
def program() -> Path:
    found = istiod.build()
    if found is None:
        pytest.skip("there is no Go on this machine")
    return found


class Istiod:
    """istiod over a folder, which is killed and started again to take up a change.

    Args:
        program: That runs it.
        folder: Where its documents are.
        profile: Of its workloads; of sidecars also in which variant they ask.
    """

    def __init__(self, program: Path, folder: Path, profile: str = "grpc") -> None:
        self._profile = profile
        self._program = program
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        [self.port] = free_ports(1)

    def serve(self, yaml: str) -> None:
        """Kill it where it runs, and have it serve this."""
        self.kill()
        self._folder.mkdir(exist_ok=True)
        (self._folder / "mesh.yaml").write_text(yaml)
        command = [str(self._program), "serve", "-listen", f"127.0.0.1:{self.port}", str(self._folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for_port(self.port, self._process)

    def edit(self, yaml: str) -> None:
        """Have it serve this from now on; it follows its folder."""
        whole = self._folder.parent / "edited.yaml"
        whole.write_text(yaml)
        whole.replace(self._folder / "mesh.yaml")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def bootstrap(self, labels: dict[str, str] | None = None, locality: str = "") -> dict[str, Any]:
        """Of a workload."""
        region, zone, _ = (*locality.split("/"), "", "")[:3]
        # Who has an endpoint's address is where that is to istiod, whatever it says itself.
        address = "192.0.2.1" if locality else "127.0.0.1"
        return {
            "xds_servers": [
                {
                    "server_uri": f"127.0.0.1:{self.port}",
                    "channel_creds": [{"type": "insecure"}],
                    "server_features": ["xds_v3", *_FEATURES[self._profile]],
                }
            ],
            "node": {
                "id": f"sidecar~{address}~web.default~default.svc.cluster.local",
                "locality": {"region": region, "zone": zone},
                "metadata": {
                    **({"GENERATOR": "grpc"} if self._profile == "grpc" else {}),
                    "NAMESPACE": "default",
                    "CLUSTER_ID": "Kubernetes",
                    "LABELS": labels or {},
                },
            },
            "server_listener_resource_name_template": "xds.istio.io/grpc/lds/inbound/%s",
        }


# How each profile asks.
_FEATURES: dict[str, list[str]] = {"grpc": [], "sidecar": [], "sidecar of the world": ["meshsdk.state_of_the_world"]}


@pytest.fixture(params=_FEATURES)
def real(request: pytest.FixtureRequest, program: Path, tmp_path: Path, stack: ExitStack) -> Istiod:
    one = Istiod(program, tmp_path / "istiod", request.param)
    stack.callback(one.kill)
    return one


def service(name: str, endpoints: dict[int, str], *, port: str = "http", labels: str = "") -> str:
    """A Service with a slice and a pod for each endpoint; of each a zone."""
    parts = [
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n"
        f"spec: {{clusterIP: 10.96.0.1, selector: {{app: {name}}},"
        f" ports: [{{name: {port}, port: 80, targetPort: {next(iter(endpoints))}}}]}}\n"
    ]
    for number, zone in endpoints.items():
        parts += [
            f"apiVersion: v1\nkind: Node\nmetadata: {{name: n{number}, labels: {{topology.kubernetes.io/region: eu,"
            f" topology.kubernetes.io/zone: {zone}}}}}\n",
            f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}-{number}, namespace: default,"
            f" labels: {{app: {name}, version: {zone}{labels}}}}}\nspec: {{nodeName: n{number},"
            f" serviceAccountName: {name}}}\nstatus: {{podIP: 127.0.0.1, phase: Running,"
            " conditions: [{type: Ready, status: 'True'}]}\n",
            f"apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}-{number},"
            f" namespace: default, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\n"
            f"ports: [{{name: {port}, port: {number}, protocol: TCP}}]\nendpoints: [{{addresses: [127.0.0.1],"
            f" nodeName: n{number}, conditions: {{ready: true}},"
            f" targetRef: {{kind: Pod, name: {name}-{number}, namespace: default}}}}]\n",
        ]
    return "---\n".join(parts)


def entry(endpoints: dict[int, str], protocol: str) -> str:
    """The service as a ServiceEntry, an endpoint of each zone and version: pods of one address are one to istiod."""
    listed = ", ".join(
        f"{{address: 127.0.0.1, ports: {{p: {number}}}, locality: eu/{version}, labels: {{version: {version}}}}}"
        for number, version in endpoints.items()
    )
    return (
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a, namespace: default}\n"
        f"spec: {{hosts: [{HOST}], resolution: STATIC, location: MESH_INTERNAL,"
        f" ports: [{{number: 80, name: p, protocol: {protocol}}}], endpoints: [{listed}]}}\n"
    )


def virtual_service(http: str) -> str:
    return (
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a, namespace: default}\n"
        f"spec: {{hosts: [a], http: {http}}}\n"
    )


def destination_rule(spec: str) -> str:
    return (
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a, namespace: default}\n"
        f"spec: {{host: a, {spec}}}\n"
    )


TO_A = "route: [{destination: {host: a}}]"


def test_services_are_found_and_routed_to_by_their_rules(
    real: Istiod, echo: Callable[[str], EchoServer], stack: ExitStack
) -> None:
    one, two = echo("one"), echo("two")
    real.serve(
        entry({one.port: "one", two.port: "two"}, "HTTP")
        + destination_rule("subsets: [{name: one, labels: {version: one}}, {name: two, labels: {version: two}}]")
        + virtual_service(
            "[{match: [{uri: {prefix: /two}}], rewrite: {uri: /x}, route: [{destination: {host: a, subset: two}}]},"
            " {match: [{headers: {x-user: {exact: ann}}}], directResponse: {status: 418}},"
            " {route: [{destination: {host: a, subset: one}, weight: 75}, {destination: {host: a, subset: two},"
            " weight: 25}]}]"
        )
    )
    with meshsdk.Mesh(bootstrap=real.bootstrap()) as mesh, mesh.client(timeout=PATIENCE) as client:
        for url in ("http://a/two/y", "http://a.default/two/y", f"http://{HOST}/two/y", f"http://{HOST}./two/y"):
            answer = client.get(url).json()
            assert (answer["name"], answer["path"]) == ("two", "/x/y")
        assert client.get("http://a/", headers={"x-user": "ann"}).status_code == 418
        names = Counter(client.get("http://a/").json()["name"] for _ in range(200))
    # Five standard deviations of a binomial with n=200, p=0.75.
    assert abs(names["one"] - 150) <= 31, names


def test_requests_are_tried_again_as_the_rules_say(real: Istiod, echo: Callable[[str], EchoServer]) -> None:
    server = echo("a")
    real.serve(
        service("a", {server.port: "z1"}) + virtual_service(f"[{{retries: {{attempts: 3, retryOn: 5xx}}, {TO_A}}}]")
    )
    with meshsdk.Mesh(bootstrap=real.bootstrap()) as mesh, mesh.client(timeout=PATIENCE) as client:
        server.statuses = [503, 503, 200]
        assert client.get("http://a/").status_code == 200
    assert len(server.seen) == 3


def test_calls_go_by_the_same_rules(real: Istiod, stack: ExitStack) -> None:
    one, two = stack.enter_context(GrpcServer("one")), stack.enter_context(GrpcServer("two"))
    real.serve(
        entry({one.port: "one", two.port: "two"}, "GRPC")
        + destination_rule("subsets: [{name: two, labels: {version: two}}]")
        + virtual_service("[{route: [{destination: {host: a, subset: two}}]}]")
    )
    with meshsdk.Mesh(bootstrap=real.bootstrap()) as mesh, mesh.channel("a:80") as channel:
        for _ in range(10):
            channel.unary_unary("/demo.Echo/say")(b"x", timeout=PATIENCE, wait_for_ready=True)
    assert (len(one.calls), len(two.calls)) == (0, 10)


def test_clients_stay_in_their_zone_and_go_elsewhere_where_it_has_nobody(
    real: Istiod, echo: Callable[[str], EchoServer]
) -> None:
    near, far = echo("near"), echo("far")
    rule = destination_rule("trafficPolicy: {outlierDetection: {consecutive5xxErrors: 5}}")
    real.serve(entry({near.port: "z1", far.port: "z2"}, "HTTP") + rule)
    with meshsdk.Mesh(bootstrap=real.bootstrap(locality="eu/z1")) as mesh, mesh.client(timeout=PATIENCE) as client:
        assert {client.get("http://a/").json()["name"] for _ in range(20)} == {"near"}
        real.serve(entry({far.port: "z2"}, "HTTP") + rule)
        eventually(lambda: client.get("http://a/").json()["name"] == "far")


@contextlib.contextmanager
def traffic(send: Callable[[], object]) -> Iterator[list[BaseException]]:
    """Requests without end; what they raise."""
    failures: list[BaseException] = []
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            try:
                send()
            except Exception as error:  # noqa: BLE001
                failures.append(error)
            time.sleep(0.005)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield failures
    finally:
        over.set()
        thread.join(PATIENCE)


def test_no_request_fails_while_istiod_is_killed_and_comes_back_with_other_rules(
    real: Istiod, echo: Callable[[str], EchoServer], stack: ExitStack
) -> None:
    one, two = echo("one"), stack.enter_context(GrpcServer("two"))
    world = service("a", {one.port: "z1"}) + "---\n" + service("b", {two.port: "z1"}, port="grpc")
    real.serve(world)
    with (
        meshsdk.Mesh(bootstrap=real.bootstrap()) as mesh,
        mesh.client(timeout=PATIENCE) as client,
        mesh.channel("b:80") as channel,
    ):
        say = channel.unary_unary("/demo.Echo/say")
        say(b"x", timeout=PATIENCE, wait_for_ready=True)
        client.get("http://a/").raise_for_status()
        with (
            traffic(lambda: client.get("http://a/").raise_for_status()) as over_http,
            traffic(lambda: say(b"x", timeout=PATIENCE)) as over_grpc,
        ):
            real.kill()
            time.sleep(1)
            real.serve(world + virtual_service(f"[{{headers: {{response: {{set: {{x-rule: new}}}}}}, {TO_A}}}]"))
            eventually(lambda: client.get("http://a/").headers.get("x-rule") == "new")
        assert (over_http, over_grpc) == ([], [])


MUTUAL = destination_rule("trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}")
ONLY_FRIENDS = "{action: ALLOW, rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/friend]}}]}]}"


def in_default(yaml: str) -> str:
    return yaml.replace("metadata: {name: ", "metadata: {namespace: default, name: ")


def test_servers_take_mutual_tls_and_let_in_whom_the_policies_say(real: Istiod, tmp_path: Path) -> None:
    ca, [port] = SpiffeCa(), free_ports(1)
    strict = in_default(peer_authentication("STRICT"))
    world = service("a", {port: "z1"}) + MUTUAL + strict
    real.serve(world + in_default(policy(ONLY_FRIENDS)))
    with (
        meshsdk.Mesh(bootstrap=real.bootstrap({"app": "a"}), identity=identity(tmp_path, ca, "a")) as mesh,
        serving(answers, mesh, port),
    ):
        for account, status in (("friend", 200), ("stranger", 403)):
            who = identity(tmp_path, ca, account)
            with (
                meshsdk.Mesh(bootstrap=real.bootstrap(), identity=who) as peer,
                peer.client(timeout=PATIENCE) as client,
            ):
                assert client.get("http://a/").status_code == status
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}/")
        # Without the policy, and open to all.
        real.serve(service("a", {port: "z1"}) + in_default(peer_authentication("DISABLE")))

        def is_open() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(f"http://127.0.0.1:{port}/").status_code == 200
            return False

        eventually(is_open)


def test_calls_to_a_server_of_grpc_pass_its_policies(real: Istiod, tmp_path: Path) -> None:
    ca, [port] = SpiffeCa(), free_ports(1)
    real.serve(
        service("a", {port: "z1"}, port="grpc")
        + MUTUAL
        + in_default(peer_authentication("STRICT"))
        + in_default(policy(ONLY_FRIENDS))
    )
    own = identity(tmp_path, ca, "a")
    with meshsdk.Mesh(bootstrap=real.bootstrap({"app": "a"}), identity=own) as mesh:
        server = GrpcServer(
            "a",
            credentials=mesh.server_credentials(),
            interceptors=[mesh.server_interceptor(port=port)],
            port=port,
        )
        with server:
            for account, code in (("friend", None), ("stranger", grpc.StatusCode.PERMISSION_DENIED)):
                who = identity(tmp_path, ca, account)
                with meshsdk.Mesh(bootstrap=real.bootstrap(), identity=who) as peer, peer.channel("a:80") as channel:
                    say = channel.unary_unary("/demo.Echo/say")
                    if code is None:
                        say(b"x", timeout=PATIENCE, wait_for_ready=True)
                        continue
                    with pytest.raises(grpc.RpcError) as failure:
                        say(b"x", timeout=PATIENCE, wait_for_ready=True)
                    assert failure.value.code() is code
