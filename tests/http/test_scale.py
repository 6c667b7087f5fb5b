"""Many requests at once, many connections, long bodies: all of it at the same time, and none of it in memory."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import meshsdk
from tests.differential.subjects import cluster
from tests.gathering_server import gathering_server
from tests.loops import LOOPS, make_loop
from tests.patience import PATIENCE, eventually
from tests.processes import CLEAN_ENVIRONMENT, envoy, free_ports, http_listener

from .routed import routed, write_route

ROOT = Path(__file__).parents[2]
URL = "http://subject.test"
IN_FLIGHT = 1_000
FIELDS = ("max_connections", "max_pending_requests", "max_requests")
ROOM: dict[str, Any] = {
    "circuit_breakers": {"thresholds": [dict.fromkeys(FIELDS, 20_000)]},
    "connect_timeout": f"{PATIENCE:g}s",
}
HTTP2 = {
    "typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
}


@pytest.fixture(scope="module", autouse=True)
def files() -> Iterator[int]:
    """How many files this process and those that it starts may open: as many as the machine lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4 * IN_FLIGHT:
        pytest.skip(f"this machine lets a process open {hard:,} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def port(files: int) -> Iterator[int]:
    with gathering_server() as port:
        yield port


@pytest.fixture(scope="module")
def http2_port(port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The same server behind an Envoy that speaks HTTP/2."""
    (listens,) = free_ports(1)
    config = {
        "static_resources": {
            "listeners": [
                http_listener(listens, [{"match": {"prefix": "/"}, "route": {"cluster": "c", "timeout": "0s"}}])
            ],
            "clusters": [{**cluster("c", port), **ROOM}],
        }
    }
    with envoy(config, [listens], tmp_path_factory.mktemp("envoy")):
        yield listens


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_thousand_threads_have_their_requests_under_way_at_once(port: int, tmp_path: Path) -> None:
    before = _descriptors()
    with routed(tmp_path, port, {"timeout": "0s"}) as mesh, ThreadPoolExecutor(IN_FLIGHT) as threads:
        with mesh.client(timeout=None) as client:
            for _ in range(2):  # On new connections, and on those that are there.
                answers = list(threads.map(lambda _: client.get(f"{URL}/gather/{IN_FLIGHT}").text, range(IN_FLIGHT)))
                assert answers == ["together"] * IN_FLIGHT
        eventually(lambda: _descriptors() < before + 50, "connections stay open")


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("connections", [2_000, pytest.param(10_000, marks=pytest.mark.soak)])
def test_thousands_of_connections_carry_a_request_each_at_once(
    connections: int, loop: str, port: int, files: int, tmp_path: Path
) -> None:
    if files < connections + 1_000:
        pytest.skip(f"this machine lets a process open {files:,} files")
    before = _descriptors()

    async def run(mesh: meshsdk.Mesh) -> None:
        async with mesh.async_client(timeout=None) as client:
            for _ in range(2):
                calls = (client.get(f"{URL}/gather/{connections}") for _ in range(connections))
                assert {response.text for response in await asyncio.gather(*calls)} == {"together"}
            assert _descriptors() >= before + connections

    with (
        routed(tmp_path, port, {"timeout": "0s"}, **ROOM) as mesh,
        asyncio.Runner(loop_factory=make_loop(loop)) as runner,
    ):
        runner.run(run(mesh))
    gc.collect()
    assert _descriptors() < before + 50


@pytest.mark.parametrize("kind", ["sync", *LOOPS])
def test_a_thousand_streams_of_http2_are_under_way_at_once(kind: str, http2_port: int, tmp_path: Path) -> None:
    """On a few connections where an event loop shares them, and one by one where threads would wait for each other."""
    url = f"{URL}/gather/{IN_FLIGHT}"
    before = _descriptors()

    async def run(mesh: meshsdk.Mesh) -> list[str]:
        async with mesh.async_client(timeout=None) as client:
            answers = [one.text for one in await asyncio.gather(*(client.get(url) for _ in range(IN_FLIGHT)))]
            assert _descriptors() < before + 50
        return answers

    with routed(tmp_path, http2_port, {"timeout": "0s"}, **HTTP2) as mesh:
        if kind == "sync":
            with mesh.client(timeout=None) as client, ThreadPoolExecutor(IN_FLIGHT) as threads:
                answers = list(threads.map(lambda _: client.get(url).text, range(IN_FLIGHT)))
        else:
            with asyncio.Runner(loop_factory=make_loop(kind)) as runner:
                answers = runner.run(run(mesh))
    assert answers == ["together"] * IN_FLIGHT


_BODIES = """
import asyncio, json, resource, sys
import meshsdk
from tests.loops import make_loop

folder, kind, length = sys.argv[1], sys.argv[2], int(sys.argv[3])
chunk = b"x" * 65536
headers = {"content-length": str(length)}
down, up, first = (f"http://subject.test/{path}" for path in (f"down/{length}", "up", "down/300000"))

def chunks():
    for _ in range(0, length, len(chunk)):
        yield chunk

async def achunks():
    for one in chunks():
        yield one

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

def run_sync(mesh):
    with mesh.client(timeout=None) as client:
        client.get(first)
        before = peak()
        with client.stream("GET", down) as response:
            received = sum(len(part) for part in response.iter_raw())
        return received, int(client.post(up, content=chunks(), headers=headers).text), peak() - before

async def run(mesh):
    async with mesh.async_client(timeout=None) as client:
        await client.get(first)
        before = peak()
        async with client.stream("GET", down) as response:
            received = sum([len(part) async for part in response.aiter_raw()])
        return received, int((await client.post(up, content=achunks(), headers=headers)).text), peak() - before

with meshsdk.Mesh(config=folder) as mesh:
    if kind == "sync":
        print(json.dumps(run_sync(mesh)))
    else:
        with asyncio.Runner(loop_factory=make_loop(kind)) as runner:
            print(json.dumps(runner.run(run(mesh))))
"""


def _bodies(folder: Path, kind: str, length: int) -> tuple[int, int, int]:
    """Bytes that came down, bytes that arrived above, and MiB by which the process grew: in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _BODIES, str(folder), kind, str(length)],
        env=CLEAN_ENVIRONMENT,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    down, up, grown = json.loads(done.stdout)
    return down, up, grown


@pytest.mark.parametrize("kind", ["sync", *LOOPS])
@pytest.mark.parametrize("protocol", ["http1", "http2"])
@pytest.mark.parametrize("length", [64 << 20, pytest.param(1 << 30, marks=pytest.mark.soak)])
def test_long_bodies_go_up_and_down_in_constant_memory(
    length: int, protocol: str, kind: str, port: int, http2_port: int, tmp_path: Path
) -> None:
    if protocol == "http1":
        write_route(tmp_path / "mesh", port, {"timeout": "0s"})
    else:
        write_route(tmp_path / "mesh", http2_port, {"timeout": "0s"}, **HTTP2)
    down, up, grown = _bodies(tmp_path / "mesh", kind, length)
    assert (down, up) == (length, length)
    assert grown < 16
