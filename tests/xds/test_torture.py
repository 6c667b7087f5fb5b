"""Management servers of every hostile kind, over real sockets and with traffic running.

Whatever they do: no request fails for it, the client comes to what a fresh one has, and threads, descriptors and memory
are given back.
"""

from __future__ import annotations

import ctypes
import gc
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

import meshsdk
from meshsdk.xds.ads_server import AdsService
from meshsdk.xds.backoff import Backoff

from ..ads import AdsServer, bootstrap_of
from ..faults.test_changing_clusters import Traffic
from ..grpc.xds import cluster, endpoints, listener
from ..patience import eventually
from ..servers import EchoServer
from .test_histories import shown

VARIANTS = {"sotw": (), "incremental": ("meshsdk.incremental",)}
LISTENER = "a:80"
# A change every few milliseconds, for as long as a change of mind takes.
CHANGES = 30


@pytest.fixture(params=VARIANTS)
def features(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return VARIANTS[request.param]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients come back at once, which is harder on them and on their servers."""
    monkeypatch.setattr(Backoff.__init__, "__defaults__", (0.05, 0.1, random.random))


@pytest.fixture
def ports(echo: Callable[..., EchoServer]) -> list[int]:
    """Of two servers that are always there."""
    return [echo().port, echo().port]


def world(number: int, ports: list[int], *, broken: str = "") -> tuple[dict[str, Any], ...]:
    """Routes to two clusters; with each number other endpoints, settings and routes.

    Args:
        number: Which.
        ports: Of the servers.
        broken: What of it is bad: nothing that traffic needs.
    """
    route = {"cluster": "c", "timeout": "0s", "idle_timeout": f"{100 + number % 7}s"}
    aside: dict[str, Any] = {"lb_policy": "RING_HASH", "ring_hash_lb_config": {"minimum_ring_size": 9_000_000}}
    return (
        listener(
            LISTENER,
            [{"match": {"prefix": "/d"}, "route": {"cluster": "d"}}, {"match": {"prefix": "/"}, "route": route}],
        ),
        cluster("c", connect_timeout=f"{10 + number % 5}s"),
        endpoints("c", [[ports[number % 2]] if number % 3 else ports]),
        cluster("d", **(aside if broken == "cluster" else {})),
        endpoints("d", [{"ports": [70_000 if broken == "endpoints" else 1 + number % 9], "priority": 0}]),
    )


def client_threads() -> list[str]:
    """Those that a client may leave: its own, and gRPC's of its streams."""
    names = [thread.name for thread in threading.enumerate()]
    parts = ("meshsdk-control", "meshsdk-ads 127", "channel_spin", "_consume_request_iterator")
    return [name for name in names if any(part in name for part in parts)]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident_bytes() -> int:
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def traffic_over(bootstrap: dict[str, Any]) -> Iterator[meshsdk.Mesh]:
    """A mesh whose requests, from threads and from an event loop, all succeed, and which leaves nothing."""
    files = descriptors()
    with meshsdk.Mesh(bootstrap=bootstrap) as mesh:
        with Traffic(mesh, "sync") as one, Traffic(mesh, "asyncio") as other:
            one.wait_for(20)
            other.wait_for(20)
            yield mesh
            one.wait_for(20)
            other.wait_for(20)
        assert not one.failures
        assert not other.failures
        assert mesh.status()["failures"] == 0
    eventually(lambda: not client_threads())
    eventually(lambda: descriptors() <= files)


def _now(mesh: meshsdk.Mesh) -> object:
    return mesh._runtime.call(lambda: shown(mesh._runtime))


def converges(mesh: meshsdk.Mesh, ads: AdsServer, features: tuple[str, ...], hosts: tuple[str, ...] = ("a",)) -> None:
    """It has what one has that begins now."""
    with meshsdk.Mesh(bootstrap=bootstrap_of(ads.port, features)) as fresh:
        for host in hosts:
            with suppress(meshsdk.NoRouteError):
                fresh.wait_ready(host, timeout=60)
        eventually(lambda: _now(mesh) == _now(fresh))
    eventually(lambda: not mesh.status()["problem"])


# What a server may do to its responses.

Twist = Callable[[Iterator[Any]], Iterator[Any]]


def as_they_are(responses: Iterator[Any]) -> Iterator[Any]:
    yield from responses


def twice(responses: Iterator[Any]) -> Iterator[Any]:
    """The same nonce two times."""
    for response in responses:
        yield response
        yield response


def with_strangers(responses: Iterator[Any]) -> Iterator[Any]:
    """Beside what was asked for come resources that cannot be read, and responses of types that nobody asked for."""
    for response in responses:
        stranger = type(response)(type_url="type.googleapis.com/no.such.Type", nonce=f"x{response.nonce}")
        yield stranger
        yield response


class Twisted(AdsService):
    """Serves what it has, in its own way."""

    def __init__(self, state: Any, twist: Twist = as_they_are) -> None:
        super().__init__(state)
        self.twist = twist
        self.streams = 0

    def _serve(self, make_session: Any, requests: Iterator[Any]) -> Iterator[Any]:
        self.streams += 1
        return self.twist(super()._serve(make_session, requests))


class Backwards(AdsService):
    """Of a change, routes and listeners come before the clusters that they need, and clusters after their endpoints."""

    def _serve(self, make_session: Any, requests: Iterator[Any]) -> Iterator[Any]:
        def make(state: Any) -> Any:
            session = make_session(state)
            update = session.update
            session.update = lambda *state: reversed(list(update(*state)))
            return session

        return super()._serve(make, requests)


ODD: dict[str, Callable[[Any], AdsService]] = {
    "twice": lambda state: Twisted(state, twice),
    "with strangers": lambda state: Twisted(state, with_strangers),
    "backwards": Backwards,
}


@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_responses_that_are_odd_cost_no_request(
    make: Callable[[Any], AdsService], features: tuple[str, ...], ports: list[int]
) -> None:
    with AdsServer(*world(0, ports), make_service=make, features=features) as ads, traffic_over(ads.bootstrap) as mesh:
        for number in range(CHANGES):
            ads.publish(*world(number, ports))
            time.sleep(0.005)
        converges(mesh, ads, features)


@pytest.mark.parametrize("broken", ["cluster", "endpoints"])
def test_a_storm_of_refusals_takes_the_good_half_of_each_batch(
    broken: str, features: tuple[str, ...], ports: list[int]
) -> None:
    with AdsServer(*world(0, ports), features=features) as ads, traffic_over(ads.bootstrap) as mesh:
        mesh.wait_ready("a")
        for number in range(3 * CHANGES):
            ads.publish(*world(number, ports, broken=broken))
            time.sleep(0.002)
        # The good half of the last one.
        eventually(lambda: _timeout(mesh) == 10 + (3 * CHANGES - 1) % 5)
        refused = [one for one in mesh.status()["resources"] if one["status"] == "NACKED"]
        assert [(one["name"], bool(one["error"])) for one in refused] == [("d", True)]
        ads.publish(*world(7, ports))
        converges(mesh, ads, features)


def _timeout(mesh: meshsdk.Mesh) -> float:
    return float(mesh._runtime.directory.clusters["c"].config.connect_timeout_seconds)


def test_endpoints_that_flap_cost_no_request(features: tuple[str, ...], ports: list[int]) -> None:
    with AdsServer(*world(0, ports), features=features) as ads, traffic_over(ads.bootstrap) as mesh:
        for number in range(6 * CHANGES):
            ads.publish(*world(number, ports))
            time.sleep(0.001)
        converges(mesh, ads, features)


def test_ten_reconnects_a_second_cost_neither_requests_nor_threads(features: tuple[str, ...], ports: list[int]) -> None:
    made: list[Twisted] = []

    def make(state: Any) -> AdsService:
        made.append(Twisted(state))
        return made[0]

    with AdsServer(*world(0, ports), make_service=make, features=features) as ads, traffic_over(ads.bootstrap) as mesh:
        [service] = made
        seen: list[tuple[int, int]] = []
        for number in range(24):
            streams = service.streams
            service.close()
            ads.publish(*world(number, ports))
            eventually(lambda streams=streams: service.streams > streams)  # type: ignore[misc]
            seen.append((len(client_threads()), descriptors()))
        eventually(lambda: len(service._streams) == 1)
        # Those of a connection that is going may be there beside those of the one that comes.
        assert max(threads for threads, _ in seen[12:]) <= max(threads for threads, _ in seen[:12]) + 4
        assert max(files for _, files in seen[12:]) <= max(files for _, files in seen[:12]) + 16
        converges(mesh, ads, features)


class ResettingProxy:
    """Forwards to a port, and resets connections after so many bytes of the server's, until it is `faithful`."""

    def __init__(self, port: int, chance: random.Random) -> None:
        self._port = port
        self._chance = chance
        self.faithful = False
        self.resets = 0
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)

    def _start(self, run: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=run, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
                self._sockets |= {near, far}
                left = None if self.faithful else self._chance.randrange(3_000)
                self._start(self._forward, near, far, None)
                self._start(self._forward, far, near, left)

    def _forward(self, one: socket.socket, other: socket.socket, left: int | None) -> None:
        try:
            while data := one.recv(65_536):
                if left is not None and not self.faithful:
                    data, left = data[:left], left - len(data)
                other.sendall(data)
                if left is not None and left <= 0 and not self.faithful:
                    self.resets += 1
                    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    break
        except OSError:
            pass
        for half in (one, other):
            with suppress(OSError):
                half.shutdown(socket.SHUT_RDWR)
            half.close()
            self._sockets.discard(half)

    def __enter__(self) -> ResettingProxy:
        return self

    def __exit__(self, *details: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in list(self._sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(20)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 20))])
def test_connections_reset_at_any_byte_cost_no_request(
    seed: int, features: tuple[str, ...], ports: list[int], stack: ExitStack
) -> None:
    ads = stack.enter_context(AdsServer(*world(0, ports), features=features))
    proxy = stack.enter_context(ResettingProxy(ads.port, random.Random(seed)))
    with traffic_over(bootstrap_of(proxy.port, features)) as mesh:
        for number in range(CHANGES * 6):
            ads.publish(*world(number, ports))
            time.sleep(0.01)
        assert proxy.resets > 3
        proxy.faithful = True
        converges(mesh, ads, features)


class Silent(AdsService):
    """Reads what it is asked, and answers nobody while it is told not to."""

    def __init__(self, state: Any) -> None:
        super().__init__(state)
        self.is_silent = False
        self.ends = threading.Event()
        self.asked = threading.Event()

    def _serve(self, make_session: Any, requests: Iterator[Any]) -> Iterator[Any]:
        if not self.is_silent:
            yield from super()._serve(make_session, requests)
            return
        next(requests, None)
        self.asked.set()
        self.ends.wait(60)


def test_a_server_that_never_answers_costs_no_request(features: tuple[str, ...], ports: list[int]) -> None:
    made: list[Silent] = []

    def make(state: Any) -> AdsService:
        made.append(Silent(state))
        return made[0]

    with AdsServer(*world(0, ports), make_service=make, features=features) as ads, traffic_over(ads.bootstrap) as mesh:
        [service] = made
        service.is_silent = True
        service.close()
        assert service.asked.wait(60)
        ads.publish(*world(1, ports))
        with pytest.raises(TimeoutError, match="no configuration for unknown"):
            mesh.wait_ready("unknown", timeout=0.5)
        assert mesh.status()["problem"]
        service.is_silent = False
        service.ends.set()
        converges(mesh, ads, features, ("a", "unknown"))


def test_a_mesh_whose_server_never_answered_is_closed_at_once(features: tuple[str, ...], ports: list[int]) -> None:
    made: list[Silent] = []

    def make(state: Any) -> AdsService:
        made.append(Silent(state))
        made[0].is_silent = True
        return made[0]

    with AdsServer(*world(0, ports), make_service=make, features=features) as ads:
        with meshsdk.Mesh(bootstrap=ads.bootstrap) as mesh:
            with pytest.raises(TimeoutError, match="the management server|has not come"):
                mesh.wait_ready("a", timeout=0.5)
            assert made[0].asked.wait(60)
        eventually(lambda: not client_threads())
        made[0].ends.set()


MEBIBYTE = 1 << 20


def test_responses_of_64_megabytes_cost_no_request_and_their_memory_is_given_back(
    features: tuple[str, ...], ports: list[int]
) -> None:
    def large(number: int) -> tuple[dict[str, Any], ...]:
        """Of one cluster that is wanted, in 64 MB of which each client reads all."""
        text = chr(97 + number % 26) * (64 * MEBIBYTE)
        listeners, one, *rest = world(number, ports)
        return listeners, {**one, "metadata": {"filter_metadata": {"x": {"y": text}}}}, *rest

    with AdsServer(*world(0, ports), features=features) as ads, traffic_over(ads.bootstrap) as mesh:
        sizes = []
        for number in range(1, 5):
            ads.publish(*large(number))
            eventually(lambda number=number: _timeout(mesh) == 10 + number % 5)  # type: ignore[misc]
            ads.publish(*world(number + 1, ports))
            eventually(lambda number=number: _timeout(mesh) == 10 + (number + 1) % 5)  # type: ignore[misc]
            sizes.append(resident_bytes())
        # What gRPC and Python keep for the next one does not grow: it would have by three times 64 MB.
        assert sizes[-1] - sizes[0] < 128 * MEBIBYTE
        converges(mesh, ads, features)
