"""What the async transport does beside sending: the policies that its sync twin proves beside Envoy."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

import meshsdk
from tests.differential.subjects import Answer, Upstream, cluster
from tests.servers import ScriptedServer, read_head

from ..patience import PATIENCE

TYPE = "type.googleapis.com/envoy"


@pytest.fixture
def run(tmp_path: Path, stack: ExitStack) -> Callable[..., Any]:
    """Runs a coroutine function with an async client of a mesh that routes `subject.test` by one action."""

    def go(clusters: list[dict[str, Any]], action: dict[str, Any], use: Callable[[Any], Awaitable[Any]]) -> Any:
        manager = {
            "@type": f"{TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "route_config": {
                "name": "r",
                "virtual_hosts": [
                    {"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": action}]}
                ],
            },
            "http_filters": [
                {"name": "router", "typed_config": {"@type": f"{TYPE}.extensions.filters.http.router.v3.Router"}}
            ],
        }
        listener = {
            "@type": f"{TYPE}.config.listener.v3.Listener",
            "name": "subject.test",
            "api_listener": {"api_listener": manager},
        }
        documents = [{"@type": f"{TYPE}.config.cluster.v3.Cluster", **one} for one in clusters]
        for index, document in enumerate([listener, *documents]):
            (tmp_path / f"{index}.json").write_text(json.dumps(document))
        mesh = stack.enter_context(meshsdk.Mesh(config=tmp_path))

        async def main() -> Any:
            async with mesh.async_client(timeout=PATIENCE) as client:
                return await use(client)

        return asyncio.run(main())

    return go


URL = "http://subject.test"


def test_a_slow_try_is_hedged(run: Callable[..., Any], stack: ExitStack) -> None:
    server = stack.enter_context(
        Upstream(lambda request, number: Answer(body=b"fast") if number else Answer(body=b"slow", delay=PATIENCE))
    )
    action = {
        "cluster": "c",
        "retry_policy": {"retry_on": "5xx", "per_try_timeout": "0.2s"},
        "hedge_policy": {"hedge_on_per_try_timeout": True},
    }

    async def use(client: httpx.AsyncClient) -> str:
        return (await client.get(f"{URL}/")).text

    assert run([cluster("c", server.port)], action, use) == "fast"
    assert len(server.received) == 2


def test_a_mirror_gets_a_copy(run: Callable[..., Any], stack: ExitStack) -> None:
    real, shadow = stack.enter_context(Upstream()), stack.enter_context(Upstream())
    action = {"cluster": "c", "request_mirror_policies": [{"cluster": "shadow"}]}

    async def use(client: httpx.AsyncClient) -> None:
        await client.post(f"{URL}/x", content=b"payload")
        deadline = time.monotonic() + PATIENCE
        while not shadow.received and time.monotonic() < deadline:
            await asyncio.sleep(0.01)

    run([cluster("c", real.port), cluster("shadow", shadow.port)], action, use)
    assert shadow.received[0].body == b"payload"
    assert shadow.received[0].headers["host"] == "subject.test-shadow"


def test_a_redirect_of_an_upstream_is_followed_inside(run: Callable[..., Any], stack: ExitStack) -> None:
    server = stack.enter_context(
        Upstream(
            lambda request, number: Answer(302, {"location": "http://other.test/new"}) if number == 0 else Answer()
        )
    )

    async def use(client: httpx.AsyncClient) -> int:
        return (await client.get(f"{URL}/old")).status_code

    assert run([cluster("c", server.port)], {"cluster": "c", "internal_redirect_policy": {}}, use) == 200
    assert [request.target for request in server.received] == ["/old", "/new"]


def test_more_requests_than_allowed_overflow(run: Callable[..., Any], stack: ExitStack) -> None:
    server = stack.enter_context(Upstream(lambda request, number: Answer(delay=0.3)))
    config = cluster("c", server.port, circuit_breakers={"thresholds": [{"max_requests": 2}]})

    async def use(client: httpx.AsyncClient) -> Counter[int]:
        responses = await asyncio.gather(*(client.get(f"{URL}/") for _ in range(5)))
        return Counter(response.status_code for response in responses)

    assert run([config], {"cluster": "c"}, use) == {200: 2, 503: 3}


def test_more_waiting_requests_than_allowed_overflow(run: Callable[..., Any], stack: ExitStack) -> None:
    server = stack.enter_context(Upstream(lambda request, number: Answer(delay=0.3)))
    limits = {"max_connections": 1, "max_pending_requests": 1}
    config = cluster("c", server.port, circuit_breakers={"thresholds": [limits]})

    async def use(client: httpx.AsyncClient) -> Counter[int]:
        responses = await asyncio.gather(*(client.get(f"{URL}/") for _ in range(5)))
        return Counter(response.status_code for response in responses)

    found = run([config], {"cluster": "c"}, use)
    # One is served; one more waits if it came after the first was connected.
    assert found[200] in (1, 2)
    assert found[503] == 5 - found[200]
    assert server.connections == 1


def test_requests_wait_their_turn_for_the_only_connection(run: Callable[..., Any], stack: ExitStack) -> None:
    server = stack.enter_context(Upstream(lambda request, number: Answer(delay=0.05)))
    config = cluster("c", server.port, circuit_breakers={"thresholds": [{"max_connections": 1}]})

    async def use(client: httpx.AsyncClient) -> set[int]:
        return {response.status_code for response in await asyncio.gather(*(client.get(URL) for _ in range(8)))}

    assert run([config], {"cluster": "c"}, use) == {200}
    assert server.connections == 1


def test_consecutive_errors_eject_an_endpoint(run: Callable[..., Any], stack: ExitStack) -> None:
    sick, well = stack.enter_context(Upstream(lambda request, number: Answer(500))), stack.enter_context(Upstream())
    detection = {"consecutive_5xx": 2, "base_ejection_time": "30s", "max_ejection_percent": 50}

    async def use(client: httpx.AsyncClient) -> set[int]:
        while len(sick.received) < 2:
            await client.get(URL)
        deadline = time.monotonic() + PATIENCE
        # In turns, every other one would meet the one that is sick.
        while (seen := {(await client.get(URL)).status_code for _ in range(10)}) != {200}:
            assert time.monotonic() < deadline
        return seen

    assert run([cluster("c", sick.port, well.port, outlier_detection=detection)], {"cluster": "c"}, use) == {200}


def test_load_reports_come_in_headers_and_trailers(run: Callable[..., Any], stack: ExitStack) -> None:
    def script(name: bytes, utilization: str, *, in_trailer: bool) -> Callable[[socket.socket, int], None]:
        report = f"endpoint-load-metrics: TEXT rps_fractional=100, application_utilization={utilization}\r\n".encode()
        head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n" + (b"" if in_trailer else report) + b"\r\n"
        answer = head + b"1\r\n%b\r\n0\r\n" % name + (report if in_trailer else b"") + b"\r\n"

        def serve(connection: socket.socket, number: int) -> None:
            while read_head(connection):
                connection.sendall(answer)

        return serve

    light = stack.enter_context(ScriptedServer(script(b"l", "0.1", in_trailer=True)))
    heavy = stack.enter_context(ScriptedServer(script(b"h", "0.9", in_trailer=False)))
    policy = {
        "@type": f"{TYPE}.extensions.load_balancing_policies.client_side_weighted_round_robin.v3"
        ".ClientSideWeightedRoundRobin",
        "blackout_period": "0s",
        "weight_update_period": "0.1s",
    }
    policies = {"policies": [{"typed_extension_config": {"name": "weighted", "typed_config": policy}}]}

    async def use(client: httpx.AsyncClient) -> Counter[str]:
        for _ in range(6):
            await client.get(URL)
        await asyncio.sleep(0.15)
        return Counter([(await client.get(URL)).text for _ in range(50)])

    found = run([cluster("c", light.port, heavy.port, load_balancing_policy=policies)], {"cluster": "c"}, use)
    assert found["l"] >= 40
