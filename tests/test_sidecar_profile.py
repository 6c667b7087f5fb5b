"""Profile sidecar, from a management server that knows sidecars to requests that arrive; in both variants."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

import meshsdk
from meshsdk.controlplane import Folder
from meshsdk.controlplane.server import ControlPlaneServer
from tests.conftest import service, virtual_service
from tests.grpc_server import GrpcServer
from tests.patience import PATIENCE, eventually
from tests.servers import EchoServer

ID = "sidecar~127.0.0.1~web.default~default.svc.cluster.local"
VARIANTS = {"incremental": [], "of the world": ["meshsdk.state_of_the_world"]}


class Istiod:
    """A folder, served to sidecars."""

    def __init__(self, folder: Path, features: list[str]) -> None:
        self._folder = folder
        self._features = features
        folder.mkdir()
        self._server = ControlPlaneServer(Folder(folder), "127.0.0.1:0")

    def serve(self, yaml: str) -> None:
        (self._folder / "mesh.yaml").write_text(yaml)
        self._server.start()

    def edit(self, yaml: str) -> None:
        (self._folder / "new").write_text(yaml)
        (self._folder / "new").replace(self._folder / "mesh.yaml")

    def stop(self) -> None:
        self._server.stop()

    def bootstrap(self, **metadata: Any) -> dict[str, Any]:
        server = {
            "server_uri": f"127.0.0.1:{self._server.port}",
            "channel_creds": [{"type": "insecure"}],
            "server_features": self._features,
        }
        return {"xds_servers": [server], "node": {"id": ID, "metadata": {"NAMESPACE": "default", **metadata}}}


@pytest.fixture(params=VARIANTS)
def istiod(request: pytest.FixtureRequest, tmp_path: Path, stack: ExitStack) -> Istiod:
    one = Istiod(tmp_path / "istiod", VARIANTS[request.param])
    stack.callback(one.stop)
    return one


def test_requests_go_by_the_port_and_the_host_and_follow_every_edit(
    istiod: Istiod, echo: Callable[[str], EchoServer], stack: ExitStack
) -> None:
    one, two = echo("one"), echo("two")
    istiod.serve(service("a", one.port))
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=istiod.bootstrap()))
    client = stack.enter_context(mesh.client(timeout=PATIENCE))

    async def by_asyncio() -> str:
        async with mesh.async_client(timeout=PATIENCE) as own:
            answer: str = (await own.get("http://a.default/")).json()["name"]
        return answer

    assert [client.get(url).json()["name"] for url in ("http://a/", "http://A.default.svc.cluster.local./")] == [
        "one"
    ] * 2
    assert asyncio.run(by_asyncio()) == "one"
    asked = {item["name"] for item in mesh.status()["resources"]}
    assert asked == {"127.0.0.1_80", "80", "outbound|80||a.default.svc.cluster.local"}
    istiod.edit(
        service("a", two.port)
        + virtual_service("a", "[{headers: {response: {set: {x-rule: new}}}, route: [{destination: {host: a}}]}]")
    )
    eventually(lambda: client.get("http://a/").headers.get("x-rule") == "new")
    assert client.get("http://a/").json()["name"] == "two"


def test_a_host_that_becomes_known_is_decided_on_and_one_that_leaves_is_not(
    istiod: Istiod, echo: Callable[[str], EchoServer], stack: ExitStack
) -> None:
    one, outside = echo("one"), echo("outside")
    istiod.serve(service("b", one.port, port=outside.port + 1))
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=istiod.bootstrap()))
    client = stack.enter_context(mesh.client(timeout=PATIENCE))
    url = f"http://localhost:{outside.port}/"
    entry = (
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: l}\n"
        "spec: {hosts: [localhost], resolution: STATIC,"
        f" ports: [{{number: {outside.port}, name: http, protocol: HTTP}}],"
        f" endpoints: [{{address: 127.0.0.1, ports: {{http: {one.port}}}}}]}}\n"
    )
    assert client.get(url).json()["name"] == "outside", "past the mesh"
    istiod.edit(service("b", one.port, port=outside.port + 1) + entry)
    eventually(lambda: client.get(url).json()["name"] == "one")
    istiod.edit(service("b", one.port, port=outside.port + 1))
    eventually(lambda: client.get(url).json()["name"] == "outside")


def test_unknown_hosts_may_be_denied(istiod: Istiod, echo: Callable[[str], EchoServer], stack: ExitStack) -> None:
    one = echo("one")
    istiod.serve(service("a", one.port))
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=istiod.bootstrap(), unknown_hosts="deny"))
    client = stack.enter_context(mesh.client(timeout=PATIENCE))
    assert client.get("http://a/").json()["name"] == "one"
    with pytest.raises(httpx.ConnectError, match="does not know"):
        client.get(f"http://127.0.0.1:{one.port}/")


def test_calls_go_the_same_way(istiod: Istiod, stack: ExitStack) -> None:
    server = stack.enter_context(GrpcServer("one"))
    istiod.serve(service("a", server.port).replace("name: http", "name: grpc").replace("{http: ", "{grpc: "))
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=istiod.bootstrap()))
    channel = stack.enter_context(mesh.channel("a:80"))
    channel.unary_unary("/demo.Echo/say")(b"x", timeout=PATIENCE, wait_for_ready=True)
    assert len(server.calls) == 1
    unknown = stack.enter_context(mesh.channel(f"127.0.0.1:{server.port}"))
    unknown.unary_unary("/demo.Echo/say")(b"x", timeout=PATIENCE, wait_for_ready=True)
    assert len(server.calls) == 2


def test_a_server_has_the_one_listener_of_a_sidecar(istiod: Istiod, stack: ExitStack) -> None:
    istiod.serve(service("a", 1))
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=istiod.bootstrap()))
    with pytest.raises(
        meshsdk.NoRouteError, match="listener virtualInbound: the management server has no such resource"
    ):
        mesh.inbound(8080).wait_ready(PATIENCE)


@pytest.mark.parametrize(
    ("metadata", "profile", "generator"),
    [
        ({}, None, None),
        ({"GENERATOR": "grpc"}, None, "grpc"),
        ({"GENERATOR": "grpc"}, "sidecar", None),
        ({}, "grpc", "grpc"),
    ],
)
def test_which_profile_is_what_the_metadata_says_or_the_argument(
    metadata: dict[str, str], profile: Any, generator: str | None
) -> None:
    server = {"server_uri": "127.0.0.1:1", "channel_creds": [{"type": "insecure"}]}
    with meshsdk.Mesh(
        bootstrap={"xds_servers": [server], "node": {"id": ID, "metadata": metadata}}, profile=profile
    ) as mesh:
        node = mesh._runtime.bootstrap.node
        assert (node.metadata.get("GENERATOR"), node.is_sidecar) == (generator, generator is None)
        names = mesh._runtime.listener_names("A", 80, port_is_explicit=True)
        assert names == (("a:80",) if node.is_sidecar else ("a:80", "a.default.svc.cluster.local:80"))


@pytest.mark.parametrize("node_id", ["", "me", "router~1.2.3.4~a.b~b.svc.cluster.local", "sidecar~1.2.3.4~a.b"])
def test_a_node_that_istiod_takes_for_no_sidecar_is_none(node_id: str) -> None:
    server = {"server_uri": "127.0.0.1:1", "channel_creds": [{"type": "insecure"}]}
    bootstrap = {"xds_servers": [server], "node": {"id": node_id}}
    with meshsdk.Mesh(bootstrap=bootstrap) as mesh:
        assert not mesh._runtime.bootstrap.node.is_sidecar
    with pytest.raises(meshsdk.BootstrapError, match=r"node\.id: must be sidecar~"):
        meshsdk.Mesh(bootstrap=bootstrap, profile="sidecar")
    with pytest.raises(ValueError, match="profile must be one of"):
        meshsdk.Mesh(bootstrap=bootstrap, profile="other")  # type: ignore[arg-type]


def test_nothing_is_kept_for_a_start_without_its_server_and_that_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = {"server_uri": "127.0.0.1:1", "channel_creds": [{"type": "insecure"}]}
    kept = tmp_path / "kept"
    with meshsdk.Mesh(bootstrap={"xds_servers": [server], "node": {"id": ID}}, cache_dir=kept):
        [told] = caplog.messages
    assert told == f"nothing is kept in {kept}: in profile sidecar a process starts by its management server only"
    assert not kept.exists()


def test_a_sidecar_has_no_listeners_of_other_authorities() -> None:
    server = {"server_uri": "127.0.0.1:1", "channel_creds": [{"type": "insecure"}]}
    bootstrap = {"xds_servers": [server], "node": {"id": ID}, "authorities": {"x": {}}}
    with (
        meshsdk.Mesh(bootstrap=bootstrap) as mesh,
        pytest.raises(meshsdk.BootstrapError, match="profile sidecar has no listeners of other authorities"),
    ):
        mesh._runtime.bootstrap.listener_names("a", 80, port_is_explicit=True, authority="x")
