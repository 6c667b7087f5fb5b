"""Names that are first used while the management server is still busy with earlier ones."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

import meshsdk
from meshsdk.controlplane import Folder
from meshsdk.resources import ResourceType
from meshsdk.xds.ads_server import AdsService
from tests.conftest import service
from tests.grpc.xds import TYPES, documents
from tests.grpc_server import GrpcServer
from tests.servers import EchoServer

HOSTS = [f"host-{number}" for number in range(8)]
PORTS = range(18_100, 18_108)
SAY = "/demo.Echo/say"

MakeMesh = Callable[..., meshsdk.Mesh]


def inbound_listener(port: int) -> dict[str, Any]:
    """A listener for a server of this process, as a management server sends it."""
    manager = {
        "@type": f"{TYPES}envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x",
        "route_config": {
            "name": "inbound",
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "non_forwarding_action": {}}],
                }
            ],
        },
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{TYPES}envoy.extensions.filters.http.router.v3.Router"}}
        ],
    }
    return {
        "@type": f"{TYPES}envoy.config.listener.v3.Listener",
        "name": f"xds.istio.io/grpc/lds/inbound/0.0.0.0:{port}",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "hcm", "typed_config": manager}]}],
    }


class SlowControlPlane:
    """Our own, which takes its time for each listener request, so that others come in the meantime."""

    def __init__(self, folder: Path) -> None:
        state = Folder(folder)
        state.refresh()
        assert not state.state.errors
        self._server = grpc.server(ThreadPoolExecutor(64))
        AdsService(state.state, self._on_request).add_to(self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def _on_request(self, request: Any) -> None:
        if request.type_url == ResourceType.LISTENER.type_url:
            time.sleep(0.1)

    def stop(self) -> None:
        self._server.stop(0).wait()


@pytest.fixture
def grpc_server() -> Iterator[GrpcServer]:
    with GrpcServer() as server:
        yield server


@pytest.fixture(params=[[], ["meshsdk.incremental"]], ids=["the state of the world", "incremental"])
def make(request: Any, tmp_path: Path, stack: Any, echo: Any, grpc_server: GrpcServer) -> MakeMesh:
    folder = tmp_path / "mesh"
    folder.mkdir()
    server = echo("here")
    services = [service(host, server.port) for host in HOSTS]
    services += [service(f"grpc-{host}", grpc_server.port) for host in HOSTS]
    listeners = documents(*map(inbound_listener, PORTS))
    (folder / "mesh.yaml").write_text("---\n".join([*services, listeners]))
    control_plane = SlowControlPlane(folder)
    stack.callback(control_plane.stop)

    def make(**options: Any) -> meshsdk.Mesh:
        bootstrap = {
            "xds_servers": [
                {
                    "server_uri": f"127.0.0.1:{control_plane.port}",
                    "channel_creds": [{"type": "insecure"}],
                    "server_features": request.param,
                }
            ],
            "node": {"id": "me"},
            "server_listener_resource_name_template": "xds.istio.io/grpc/lds/inbound/%s",
        }
        return stack.enter_context(meshsdk.Mesh(bootstrap=bootstrap, **options))

    return make


def one_after_the_other(function: Callable[[Any], Any], arguments: Any) -> list[Any]:
    """Start a call for each argument, 3 ms apart."""
    with ThreadPoolExecutor(len(arguments)) as threads:
        futures = []
        for argument in arguments:
            futures.append(threads.submit(function, argument))
            time.sleep(0.003)
        return [future.result() for future in futures]


def test_hosts_first_used_a_moment_apart_are_all_found(make: MakeMesh) -> None:
    with make().client(timeout=60) as client:
        responses = one_after_the_other(lambda host: client.get(f"http://{host}/"), HOSTS)
    found = [response.extensions["mesh"].cluster for response in responses]
    assert found == [f"outbound|80||{host}.default.svc.cluster.local" for host in HOSTS]


def test_the_same_for_async_clients(make: MakeMesh) -> None:
    mesh = make()

    async def get_all() -> list[str]:
        async with mesh.async_client(timeout=60) as client:
            tasks = []
            for host in HOSTS:
                tasks.append(asyncio.ensure_future(client.get(f"http://{host}/")))
                await asyncio.sleep(0.003)
            return [(await task).extensions["mesh"].cluster for task in tasks]

    found = asyncio.run(get_all())
    assert found == [f"outbound|80||{host}.default.svc.cluster.local" for host in HOSTS]


def test_wait_ready_finds_them_all(make: MakeMesh) -> None:
    mesh = make()
    one_after_the_other(lambda host: mesh.wait_ready(f"{host}:80", 60), HOSTS)


def test_grpc_channels_find_them_all(make: MakeMesh) -> None:
    mesh = make(unknown_hosts="deny")

    def call(host: str) -> bytes:
        with mesh.channel(f"grpc-{host}:80") as channel:
            return channel.unary_unary(SAY)(b"x", timeout=60)

    assert all(one_after_the_other(call, HOSTS))


def test_grpc_aio_channels_find_them_all(make: MakeMesh) -> None:
    mesh = make(unknown_hosts="deny")

    async def call(host: str) -> bytes:
        async with mesh.aio_channel(f"grpc-{host}:80") as channel:
            return await channel.unary_unary(SAY)(b"x", timeout=60)

    async def call_all() -> list[bytes]:
        tasks = []
        for host in HOSTS:
            tasks.append(asyncio.ensure_future(call(host)))
            await asyncio.sleep(0.003)
        return await asyncio.gather(*tasks)

    assert all(asyncio.run(call_all()))


def test_eight_ports_of_one_mesh_all_get_their_policy(make: MakeMesh) -> None:
    mesh = make()
    policies = one_after_the_other(lambda port: mesh.inbound(port).wait_ready(60), PORTS)
    assert all(policy.listener is not None for policy in policies)


def test_a_host_outside_the_mesh_is_told_from_one_that_has_not_come(make: MakeMesh, echo: Any) -> None:
    outside: EchoServer = echo("outside")
    mesh = make()
    seconds = []

    def get(host: str) -> str:
        began = time.monotonic()
        with mesh.client(timeout=60) as client:
            cluster = client.get(f"http://{host}:{outside.port}/").extensions["mesh"].cluster
        seconds.append(time.monotonic() - began)
        return cluster

    beside = threading.Thread(target=mesh.wait_ready, args=("host-0", 60))
    beside.start()
    assert one_after_the_other(get, ["127.0.0.1", "localhost"]) == ["PassthroughCluster", "PassthroughCluster"]
    beside.join()
    # Not by the timer, which gives a resource 15 seconds.
    assert max(seconds) < 12
