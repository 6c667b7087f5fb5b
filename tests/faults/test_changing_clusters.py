"""Clusters come and go under traffic: nobody's request fails for it, and nothing stays open."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

import meshsdk
from meshsdk.discovery import Graph
from tests.ads import AdsServer
from tests.conftest import MakeMesh
from tests.grpc.xds import TYPES, cluster, documents, endpoints, listener
from tests.grpc_client import make_client
from tests.grpc_server import GrpcServer
from tests.loops import LOOPS, make_loop
from tests.servers import EchoServer, ScriptedServer, read_head

from ..patience import PATIENCE, eventually

Echo = Callable[..., EchoServer]
LISTENER = "a:80"
CHANGES = 60


def world(name: str, port: int, *, route: str = "", **fields: Any) -> tuple[dict[str, Any], ...]:
    """Everything of one cluster, and a route that leads to it or to another."""
    return (
        cluster(name, **fields),
        endpoints(name, [[port]]),
        http_listener({"match": {"prefix": "/"}, "route": {"cluster": route or name, "timeout": "0s"}}),
    )


def http_listener(*routes: dict[str, Any]) -> dict[str, Any]:
    """The listener, with its routes by RDS: they come after the clusters."""
    return listener(LISTENER, routes)


HTTP2: dict[str, Any] = {
    "typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": f"{TYPES}envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
}


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Traffic:
    """Requests in the background until stopped: from threads, and from tasks of one event loop."""

    def __init__(self, mesh: meshsdk.Mesh, kind: str, url: str = "http://a/", *, grpc: bool = False) -> None:
        self.answered = 0
        self.failures: list[str] = []
        self.is_over = False
        self._mesh, self._url, self._stop, self._idle = mesh, url, threading.Event(), threading.Event()
        self._request: dict[str, Any] = {"method": "GET", "url": url}
        if grpc:
            headers = {"content-type": "application/grpc", "te": "trailers"}
            self._request = {"method": "POST", "url": f"{url}test.Echo/Say", "headers": headers, "content": bytes(5)}
        self._client = mesh.client() if kind == "sync" else None
        run = [self._sync] * 8 if kind == "sync" else [lambda: self._async(kind)]
        self._threads = [threading.Thread(target=one) for one in run]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self.pause()
        self.is_over = True
        self._idle.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        if self._client is not None:
            self._client.close()
        assert not [thread for thread in self._threads if thread.is_alive()]

    def pause(self) -> None:
        """No more requests; the client stays open."""
        self._stop.set()

    def wait_for(self, more: int) -> None:
        goal = self.answered + more
        eventually(lambda: self.answered >= goal)

    def _take(self, response: httpx.Response) -> None:
        if response.status_code == 200:
            self.answered += 1
        else:
            self.failures.append(f"{response.status_code} {response.text} {response.extensions['mesh']}")

    def _sync(self) -> None:
        assert self._client is not None
        while not self._stop.is_set():
            try:
                self._take(self._client.request(**self._request))
            except httpx.HTTPError as error:
                self.failures.append(repr(error))
        self._idle.wait(PATIENCE)

    def _async(self, kind: str) -> None:
        async def worker(client: httpx.AsyncClient) -> None:
            while not self._stop.is_set():
                try:
                    self._take(await client.request(**self._request))
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))

        async def run() -> None:
            async with self._mesh.async_client() as client:
                await asyncio.gather(*(worker(client) for _ in range(8)))
                while not self.is_over:
                    await asyncio.sleep(0.01)

        with asyncio.Runner(loop_factory=make_loop(kind)) as runner:
            runner.run(run())


KINDS = ("sync", *LOOPS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("protocol", ["http1", "http2"])
def test_sixty_changes_of_cluster_leave_no_connection_behind(
    kind: str, protocol: str, stack: ExitStack, echo: Echo
) -> None:
    is_http2 = protocol == "http2"
    fields = HTTP2 if is_http2 else {}
    ports = [stack.enter_context(GrpcServer(str(n))).port if is_http2 else echo().port for n in range(2)]
    ads = stack.enter_context(AdsServer(*world("c", ports[0], **fields)))
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=ads.bootstrap))
    with Traffic(mesh, kind, grpc=is_http2) as traffic:
        traffic.wait_for(50)
        before = descriptors()
        for number in range(CHANGES):
            ads.publish(*world(f"c{number}", ports[number % 2], **fields))
            eventually(lambda number=number: set(mesh._runtime.directory.clusters) == {f"c{number}"})  # type: ignore[misc]
            traffic.wait_for(16)
        traffic.pause()
        # Each of the eight may have a connection, and each connection has two ends here.
        eventually(lambda: descriptors() <= before + 4)
    assert not traffic.failures


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_cluster_to_leave_takes_its_idle_connections_along_at_once(
    kind: str, stack: ExitStack, echo: Echo
) -> None:
    server = echo()
    ads = stack.enter_context(AdsServer(*world("c", server.port)))
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=ads.bootstrap))
    with Traffic(mesh, kind) as traffic:
        traffic.wait_for(20)
        traffic.pause()
        assert server.connections
        direct = {"match": {"prefix": "/"}, "direct_response": {"status": 204}}
        ads.publish(http_listener(direct))
        eventually(lambda: not server.connections)


@pytest.mark.parametrize("kind", KINDS)
def test_a_busy_connection_of_a_cluster_that_left_is_closed_when_it_is_done(kind: str, stack: ExitStack) -> None:
    go_on, closed = threading.Event(), threading.Semaphore(0)

    def script(connection: Any, number: int) -> None:
        read_head(connection)
        go_on.wait(PATIENCE)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        assert connection.recv(1) == b""
        closed.release()

    slow = stack.enter_context(ScriptedServer(script))
    ads = stack.enter_context(AdsServer(*world("c", slow.port)))
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=ads.bootstrap))
    with Traffic(mesh, kind) as traffic:
        eventually(lambda: slow.accepted == 8)
        traffic.pause()
        ads.publish(http_listener({"match": {"prefix": "/"}, "direct_response": {"status": 204}}))
        eventually(lambda: not mesh._runtime.directory.clusters)
        assert not closed.acquire(blocking=False)
        go_on.set()
        traffic.wait_for(8)
        assert all(closed.acquire(timeout=PATIENCE) for _ in range(8))
    assert not traffic.failures


def test_health_checks_of_what_is_gone_leave_no_connection(make_mesh: MakeMesh, echo: Echo) -> None:
    one, two = echo(), echo()
    check = {
        "timeout": "30s",
        "interval": "0.05s",
        "no_traffic_interval": "0.05s",
        "unhealthy_threshold": 2,
        "healthy_threshold": 1,
        "http_health_check": {"path": "/"},
    }

    def yaml(*ports: int) -> str:
        checked, assigned = cluster("c", health_checks=[check]), endpoints("c", [ports])
        return documents(checked, assigned, http_listener({"match": {"prefix": "/"}, "route": {"cluster": "c"}}))

    mesh = make_mesh(yaml(one.port, two.port))
    with mesh.client() as client:
        assert client.get("http://a/").status_code == 200
        eventually(lambda: one.connections > 0 and two.connections > 0)
        make_mesh(yaml(two.port)).close()
        eventually(lambda: not one.connections)
        make_mesh(documents(http_listener({"match": {"prefix": "/"}, "direct_response": {"status": 204}}))).close()
        eventually(lambda: not two.connections)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("empties", [False, True], ids=["", "its endpoints are withdrawn too"])
def test_a_cluster_that_is_withdrawn_before_its_route_serves_on(
    kind: str, empties: bool, stack: ExitStack, echo: Echo
) -> None:
    port = echo().port
    ads = stack.enter_context(AdsServer(*world("c0", port)))
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=ads.bootstrap))
    with Traffic(mesh, kind) as traffic:
        traffic.wait_for(50)
        for number in range(10):
            old, new = f"c{number}", f"c{number + 1}"
            emptied = [endpoints(old, [])] if empties else []
            ads.publish(*world(new, port, route=old), *emptied)
            eventually(lambda old=old: status_of(mesh, old) == "DOES_NOT_EXIST")  # type: ignore[misc]
            traffic.wait_for(20)
            ads.publish(*world(new, port))
            eventually(lambda new=new: set(mesh._runtime.directory.clusters) == {new})  # type: ignore[misc]
    assert not traffic.failures


def status_of(mesh: meshsdk.Mesh, name: str) -> str:
    """What the cache says of a cluster."""
    cache = mesh._runtime._cache
    found = mesh._runtime.call(lambda: next((one for kind, known, one in cache if known == name), None))
    return found.status.value if found is not None else ""


@pytest.mark.parametrize("way", ["native", "decided"])
@pytest.mark.parametrize("kind", ["sync", "aio"])
def test_subsets_renamed_together_with_their_routes_cost_no_call(kind: str, way: str, stack: ExitStack) -> None:
    port = stack.enter_context(GrpcServer("one")).port
    # A header that grpc-core cannot add has the call decided here.
    more: dict[str, Any] = (
        {"response_headers_to_add": [{"header": {"key": "x-a", "value": "b"}}]} if way == "decided" else {}
    )

    def state(subset: str, route: str) -> tuple[dict[str, Any], ...]:
        leads = {"match": {"prefix": "/"}, "route": {"cluster": route, "timeout": "0s"}, **more}
        return cluster(subset), endpoints(subset, [[port]]), listener(LISTENER, [leads])

    ads = stack.enter_context(AdsServer(*state("v0", "v0")))
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=ads.bootstrap))
    client = make_client(kind, mesh, "a:80")
    stack.callback(client.close)
    client.call()
    for number in range(6):
        old, new = f"v{number}", f"v{number + 1}"
        publishing = threading.Thread(target=rename, args=(ads, state, mesh, old, new))
        publishing.start()
        failed: list[Any] = []
        while publishing.is_alive():
            failed += [one for one in client.try_many(10, 4) if isinstance(one, Exception)]
        publishing.join(PATIENCE)
        assert not publishing.is_alive()
        assert not failed, failed[:3]
        assert set(mesh._runtime.directory.clusters) == {new}


def rename(ads: AdsServer, state: Any, mesh: meshsdk.Mesh, old: str, new: str) -> None:
    """As istiod does: clusters first, routes after them."""
    ads.publish(*state(new, old))
    eventually(lambda: status_of(mesh, old) == "DOES_NOT_EXIST")
    time.sleep(0.2)  # Traffic goes on while the two do not fit.
    ads.publish(*state(new, new))
    eventually(lambda: set(mesh._runtime.directory.clusters) == {new})
    time.sleep(0.2)


def test_a_route_that_never_follows_is_answered_by_503_after_a_time(
    monkeypatch: pytest.MonkeyPatch, stack: ExitStack, echo: Echo
) -> None:
    defaults = Graph.__init__.__kwdefaults__
    assert defaults is not None
    assert defaults["withdrawn_seconds"] == 15.0
    monkeypatch.setitem(defaults, "withdrawn_seconds", 0.5)
    port = echo().port
    ads = stack.enter_context(AdsServer(*world("c", port)))
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=ads.bootstrap))
    with mesh.client() as client:
        assert client.get("http://a/").status_code == 200
        began = time.monotonic()
        ads.publish(*world("other", port, route="c"))
        eventually(lambda: client.get("http://a/").status_code == 503)
        assert time.monotonic() - began >= 0.5
        assert client.get("http://a/").extensions["mesh"].flag == "NC"
        ads.publish(*world("c", port))
        eventually(lambda: client.get("http://a/").status_code == 200)
