"""gRFC A71, fallback to another management server and the return from it, by servers that are killed and started."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

import meshsdk
from meshsdk.resources import ResourceType
from meshsdk.xds import Status

from ..ads import AdsServer
from ..grpc.xds import cluster, endpoints, listener
from ..patience import PATIENCE, eventually
from ..processes import free_ports
from ..servers import EchoServer
from .test_ads_client import CLUSTER, Client, MakeClient, ScriptedAds
from .test_ads_client import cluster as packed_cluster
from .test_ads_client import make_client as make_client

INCREMENTAL = ["meshsdk.incremental"]


def world(host: str, port: int, name: str = "") -> list[dict[str, Any]]:
    """A host with a cluster of its own."""
    name = name or f"cluster of {host}"
    route = {"match": {"prefix": "/"}, "route": {"cluster": name}}
    return [listener(host, [route]), cluster(name), endpoints(name, [[port]])]


class Pair:
    """A primary and a fallback, each on a port that it comes back to."""

    def __init__(self, stack: ExitStack, features: list[str]) -> None:
        self._stack = stack
        self._ports = free_ports(2)
        self._running: dict[int, ExitStack] = {}
        self.servers: dict[int, AdsServer] = {}
        stack.callback(lambda: [self.kill(index) for index in list(self._running)])
        self.bootstrap = {
            "xds_servers": [
                {
                    "server_uri": f"127.0.0.1:{port}",
                    "channel_creds": [{"type": "insecure"}],
                    "server_features": features,
                }
                for port in self._ports
            ],
            "node": {"id": "x"},
        }

    def start(self, index: int, *resources: dict[str, Any]) -> AdsServer:
        own = ExitStack()
        server = own.enter_context(AdsServer(*resources, port=self._ports[index]))
        self._running[index], self.servers[index] = own, server
        return server

    def kill(self, index: int) -> None:
        self._running.pop(index).close()


@pytest.fixture(params=[[], INCREMENTAL], ids=["state of the world", "incremental"])
def pair(request: pytest.FixtureRequest, stack: ExitStack) -> Pair:
    return Pair(stack, request.param)


@contextmanager
def requests_without_end(client: httpx.Client, url: str) -> Iterator[list[Any]]:
    """What comes of requests that are sent all the while: names of servers, and errors."""
    told: list[Any] = []
    is_over = threading.Event()

    def send() -> None:
        while not is_over.is_set():
            try:
                told.append(client.get(url).raise_for_status().headers["x-served-by"])
            except httpx.HTTPError as error:
                told.append(error)
            time.sleep(0.002)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield told
    finally:
        is_over.set()
        thread.join(PATIENCE)


def test_a71_with_everything_at_hand_nobody_else_is_asked_while_the_first_server_is_away(
    pair: Pair, echo: Callable[[str], EchoServer], stack: ExitStack
) -> None:
    mine, theirs = echo("primary's"), echo("fallback's")
    pair.start(0, *world("shop", mine.port))
    fallback = pair.start(1, *world("shop", theirs.port))
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=pair.bootstrap))
    client = stack.enter_context(mesh.client())
    assert client.get("http://shop").headers["x-served-by"] == "primary's"
    # A host that is known not to exist is at hand as well.
    with pytest.raises(meshsdk.NoRouteError):
        mesh.wait_ready("nowhere", PATIENCE)
    pair.kill(0)
    source: Any = mesh._runtime.source
    failures = source.failures
    eventually(lambda: source.failures >= failures + 2)
    assert client.get("http://shop").headers["x-served-by"] == "primary's"
    assert not fallback.requests
    assert "management server" in mesh.status()["problem"]


def test_a71_a_server_that_is_away_at_the_start_is_stood_in_for_until_it_comes(
    pair: Pair, echo: Callable[[str], EchoServer], stack: ExitStack
) -> None:
    mine, theirs = echo("primary's"), echo("fallback's")
    fallback = pair.start(1, *world("shop", theirs.port))
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=pair.bootstrap))
    client = stack.enter_context(mesh.client())
    assert client.get("http://shop", timeout=PATIENCE).headers["x-served-by"] == "fallback's"
    assert "is asked in its place" in mesh.status()["problem"]
    with requests_without_end(client, "http://shop") as told:
        # By another name of the cluster: what leads there is used when its endpoints are here (gRFC A74).
        pair.start(0, *world("shop", mine.port, "another name"))
        eventually(lambda: told and told[-1] == "primary's")
        # It is let go: what it says from now on counts no more.
        fallback.publish(*world("shop", 1))
        eventually(lambda: not mesh.status()["problem"])
        seen = len(told)
        eventually(lambda: len(told) > seen + 20)
    assert set(told) == {"fallback's", "primary's"}


def test_a71_what_is_new_comes_from_the_fallback_and_no_request_fails_on_the_way_there_and_back(
    pair: Pair, echo: Callable[[str], EchoServer], stack: ExitStack
) -> None:
    mine, theirs, other = echo("primary's"), echo("fallback's"), echo("other")
    pair.start(0, *world("shop", mine.port))
    fallback = pair.start(1, *world("shop", theirs.port), *world("new", other.port))
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=pair.bootstrap))
    client = stack.enter_context(mesh.client(timeout=PATIENCE))
    assert client.get("http://shop").headers["x-served-by"] == "primary's"
    with requests_without_end(client, "http://shop") as told:
        pair.kill(0)
        assert client.get("http://new").headers["x-served-by"] == "other"
        # It is asked for everything: only resources of one server are known to fit together.
        assert {"shop", "new"} <= fallback.names(ResourceType.LISTENER)
        eventually(lambda: told[-1] == "fallback's")
        pair.start(0, *world("shop", mine.port), *world("new", other.port))
        eventually(lambda: told[-1] == "primary's")
        assert client.get("http://new").headers["x-served-by"] == "other"
    assert set(told) == {"fallback's", "primary's"}


def test_a71_the_first_server_sends_all_again_though_it_is_as_it_was(
    echo: Callable[[str], EchoServer], make_client: MakeClient, stack: ExitStack
) -> None:
    [port] = free_ports(1)
    primary, fallback = ScriptedAds(port), ScriptedAds()
    stack.callback(fallback.stop)
    client: Client = make_client(port, others=(fallback.port,))
    client.subscribe(cluster={"a"})
    primary.request()
    primary.send(CLUSTER, "1", packed_cluster("a"))
    client.entry(CLUSTER, "a", Status.ACKED, "1")
    primary.stop()
    client.subscribe(cluster={"a", "b"})
    fallback.request()
    fallback.send(CLUSTER, "9", packed_cluster("a", connect_timeout="3s"), packed_cluster("b"))
    client.entry(CLUSTER, "b", Status.ACKED, "9")
    again = ScriptedAds(port)
    stack.callback(again.stop)
    # A version that it knows would have it say nothing, and what the other one sent would stay.
    assert again.request().version_info == ""
    again.send(CLUSTER, "1", packed_cluster("a"), packed_cluster("b"))
    client.entry(CLUSTER, "a", Status.ACKED, "1")
    fallback.request()
    eventually(lambda: len(client.source._connections) == 1)


def test_a71_with_all_servers_away_the_problem_names_each(make_client: MakeClient) -> None:
    ports = free_ports(3)
    client = make_client(ports[0], others=tuple(ports[1:]))
    client.subscribe(cluster={"a"})
    eventually(lambda: all(f"127.0.0.1:{port}" in client.source.problem for port in ports))
    client.subscribe(cluster={"a", "b"})
    assert not client.source.is_connected


def test_a71_async_clients_come_through_as_well(
    pair: Pair, echo: Callable[[str], EchoServer], stack: ExitStack
) -> None:
    theirs = echo("fallback's")
    pair.start(1, *world("shop", theirs.port))
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=pair.bootstrap))

    async def ask() -> str:
        async with mesh.async_client(timeout=PATIENCE) as client:
            return str((await client.get("http://shop")).headers["x-served-by"])

    assert asyncio.run(ask()) == "fallback's"


def test_servers_that_come_and_go_leave_nothing_behind(
    pair: Pair, echo: Callable[[str], EchoServer], stack: ExitStack
) -> None:
    mine, theirs = echo("primary's"), echo("fallback's")
    before = {thread.ident for thread in threading.enumerate()}
    with meshsdk.Mesh(bootstrap=pair.bootstrap) as mesh, mesh.client(timeout=PATIENCE) as client:
        for turn in range(3):
            hosts = [f"host{number}" for number in range(turn + 1)]
            pair.start(1, *(one for host in hosts for one in world(host, theirs.port)))
            # What is new each time comes from the fallback; then the first one is back, and then both are gone.
            assert client.get(f"http://host{turn}").headers["x-served-by"] == "fallback's"
            pair.start(0, *(one for host in hosts for one in world(host, mine.port)))
            eventually(lambda host=hosts[-1]: client.get(f"http://{host}").headers["x-served-by"] == "primary's")  # type: ignore[misc]
            pair.kill(0), pair.kill(1)
            for host in hosts:
                assert client.get(f"http://{host}").headers["x-served-by"] == "primary's"
        source: Any = mesh._runtime.source
        eventually(lambda: "management server" in source.problem)
    left = {thread.name for thread in threading.enumerate() if thread.ident not in before}
    assert not [name for name in left if name.startswith("meshsdk-ads ")]
