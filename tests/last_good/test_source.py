"""What is kept of what comes, and from when it is."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2

from meshsdk.last_good import Keeper, LastGoodSource, Store
from meshsdk.last_good.store import Record
from meshsdk.resources import ResourceType, decode
from meshsdk.xds import ControlLoop, ResourceCache, Status
from meshsdk.xds.lifetimes import Lifetimes
from meshsdk.xds.source import Wanted

from ..conftest import service
from ..patience import PATIENCE, eventually
from ..processes import CLEAN_ENVIRONMENT
from ..servers import EchoServer
from .conftest import Plane

CLUSTER, LISTENER = ResourceType.CLUSTER, ResourceType.LISTENER


def packed_cluster(name: str) -> bytes:
    made = cluster_pb2.Cluster(name=name, type=cluster_pb2.Cluster.EDS)
    made.eds_cluster_config.eds_config.ads.SetInParent()
    return bytes(made.SerializeToString())


class Server:
    """A source that a test connects and disconnects."""

    def __init__(self, cache: ResourceCache) -> None:
        self.is_connected = True
        self.failures = 0
        self.problem = ""
        self.away: set[str] = set()
        self._cache = cache

    def cannot_be_had(self, name: str) -> bool:
        return name in self.away

    def subscribe(self, wanted: Wanted) -> None:
        for kind, names in wanted.items():
            for name in names:
                self._cache.request(kind, name)

    def close(self) -> None:
        pass


class Kept:
    """A source on a control thread, and what it has kept."""

    def __init__(self, folder: Path, max_age: float = 86_400.0) -> None:
        self.cache, self.loop = ResourceCache(), ControlLoop("test")
        self.server = Server(self.cache)
        self.lifetimes = Lifetimes(self.cache, self.loop)
        self.store = Store(folder / "cache", "f" * 32)
        keeper = Keeper(self.store, max_age, seconds_between=0.01)
        # The first answer may take as long as it likes.
        times = {"settle_seconds": 0.01, "patience_seconds": 1e6}
        self.source = LastGoodSource(self.server, self.cache, self.loop, keeper, decode, **times)
        self.loop.start()

    def do(self, *steps: Callable[[], object]) -> None:
        """On the control thread, at once."""
        self.loop.post(lambda: [step() for step in steps])

    def wait(self, seconds: float) -> None:
        """By the clock and on the thread of what is waited for."""
        later = threading.Event()
        self.do(lambda: self.loop.call_later(seconds, later.set))
        assert later.wait(PATIENCE)

    def accept(self, name: str, version: str = "1") -> None:
        packed = packed_cluster(name)
        self.do(lambda: self.cache.accept(CLUSTER, name, decode(CLUSTER, packed), version, packed))

    @property
    def records(self) -> dict[str, Record]:
        return {name: record for (_, name), record in self.store.read()[0].items()}

    def close(self) -> None:
        self.do(self.source.close)
        self.loop.stop()


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    one = Kept(tmp_path)
    yield one
    one.close()


def test_what_comes_is_kept_with_its_version_and_what_goes_is_not(kept: Kept) -> None:
    kept.accept("a", "7")
    kept.accept("b")
    assert eventually(lambda: kept.records.get("a")).version == "7"
    kept.do(lambda: kept.cache.remove(CLUSTER, "a", Status.DOES_NOT_EXIST, "gone"))
    eventually(lambda: set(kept.records) == {"b"})


def test_of_listeners_it_is_kept_that_there_is_none(kept: Kept) -> None:
    kept.do(lambda: kept.cache.remove(LISTENER, "a", Status.DOES_NOT_EXIST, "there is none"))
    kept.do(lambda: kept.cache.remove(LISTENER, "b", Status.TIMEOUT, "it did not come"))
    assert eventually(lambda: kept.records.get("a")).packed == b""
    assert set(kept.records) == {"a"}


def test_what_must_not_be_used_any_more_is_not_kept_either(kept: Kept) -> None:
    for name in "abcd":
        kept.accept(name)
    eventually(lambda: set(kept.records) == set("abcd"))
    kept.do(
        lambda: kept.cache.reject(CLUSTER, "a", "bad", "2", drops=True),
        lambda: kept.cache.blame(CLUSTER, "b", "there is none", drops=True, is_missing=True),
        lambda: kept.cache.blame(CLUSTER, "c", "it is not well"),
    )
    eventually(lambda: set(kept.records) == set("cd"))


def test_a_refused_update_leaves_the_last_good_one(kept: Kept) -> None:
    kept.accept("a", "1")
    before = eventually(lambda: kept.records.get("a"))
    kept.do(lambda: kept.cache.reject(CLUSTER, "a", "bad", "2"))
    kept.accept("b")
    eventually(lambda: "b" in kept.records)
    assert kept.records["a"] == before


def test_what_may_be_used_for_a_time_only_is_not_kept(kept: Kept) -> None:
    packed = packed_cluster("a")
    kept.do(
        lambda: kept.cache.accept(CLUSTER, "a", decode(CLUSTER, packed), "1", packed),
        lambda: kept.lifetimes.take({(CLUSTER, "a"): 60.0}),
    )
    kept.accept("b")
    eventually(lambda: set(kept.records) == {"b"})
    kept.do(kept.lifetimes.close)


def test_what_a_server_does_not_change_stays_young_as_long_as_it_is_there(tmp_path: Path) -> None:
    kept = Kept(tmp_path, max_age=9.6)  # What is in use is said to be so every 0.2 s.
    try:
        kept.accept("a")
        first = eventually(lambda: kept.records.get("a")).heard_at
        second = eventually(lambda: (at := kept.records["a"].heard_at) > first and at)
        kept.server.is_connected = False
        kept.wait(0.5)
        last = kept.records["a"].heard_at
        kept.wait(0.5)
        assert kept.records["a"].heard_at == last >= second
    finally:
        kept.close()


def test_what_was_kept_is_not_made_younger_by_being_used(kept: Kept) -> None:
    packed = packed_cluster("a")
    long_ago = time.time() - 3600.0
    kept.store.update({(CLUSTER.type_url, "a"): Record(CLUSTER.type_url, "a", "1", long_ago, packed)}, 86_400.0)
    kept.server.is_connected, kept.server.away = False, {"a"}
    kept.do(lambda: kept.source.subscribe({CLUSTER: frozenset(["a"])}))
    entry = eventually(lambda: (one := kept.cache.get(CLUSTER, "a")) is not None and one.kept_at and one)
    assert (entry.status, entry.version, entry.kept_at) == (Status.REQUESTED, "1", long_ago)
    kept.accept("b")
    eventually(lambda: "b" in kept.records)
    kept.close()
    assert kept.records["a"].heard_at == long_ago


def test_of_each_it_is_its_own_server_that_must_be_away(kept: Kept) -> None:
    for name in ("of another", "b"):
        record = Record(CLUSTER.type_url, name, "1", time.time(), packed_cluster(name))
        kept.store.update({(CLUSTER.type_url, name): record}, 86_400.0)
    # However often another authority's has failed.
    kept.server.is_connected, kept.server.away, kept.server.failures = False, {"of another"}, 100
    kept.do(lambda: kept.source.subscribe({CLUSTER: frozenset(["of another", "b"])}))
    eventually(lambda: (one := kept.cache.get(CLUSTER, "of another")) is not None and one.kept_at)
    kept.wait(0.2)
    waiting = kept.cache.get(CLUSTER, "b")
    assert waiting is not None
    assert (waiting.status, waiting.resource) == (Status.REQUESTED, None)
    kept.server.away.add("b")
    eventually(lambda: (one := kept.cache.get(CLUSTER, "b")) is not None and one.kept_at)


RUNS = """
import json, sys, time
import meshsdk
mesh = meshsdk.Mesh(bootstrap=json.loads(sys.argv[1]), cache_dir=sys.argv[2])
with mesh.client() as client:
    client.get("http://a/").raise_for_status()
    time.sleep(1000)
"""


def test_a_process_that_is_killed_has_kept_what_it_had_for_a_moment(
    one_plane: Plane, echo: Callable[..., EchoServer]
) -> None:
    one_plane.write(service("a", echo("one").port))
    told: list[Any] = [sys.executable, "-c", RUNS, json.dumps(one_plane.bootstrap), str(one_plane.cache)]
    with one_plane.running():
        process = subprocess.Popen(told, env=CLEAN_ENVIRONMENT)
        try:
            eventually(lambda: list(one_plane.cache.glob("*.resources")))
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    with one_plane.mesh() as mesh, mesh.client() as client:
        assert client.get("http://a/").json()["name"] == "one"
