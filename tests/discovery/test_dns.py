"""DNS clusters: addresses become endpoints, and a look-up that fails takes nothing away."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from meshsdk import resources
from meshsdk.discovery import DnsResolver
from meshsdk.discovery.dns import lookup
from meshsdk.resources import Address, DnsDiscovery, EndpointConfig, Endpoints, LocalityEndpoints
from meshsdk.xds import ControlLoop, Timer
from tests.conftest import MakeMesh
from tests.servers import EchoServer

from ..patience import PATIENCE, eventually


def cluster(*hosts: str, logical: bool = False) -> resources.Cluster:
    members = tuple(EndpointConfig(Address(host, 80)) for host in hosts)
    endpoints = Endpoints("c", (LocalityEndpoints(members),))
    return resources.Cluster("c", DnsDiscovery(endpoints, logical, 0.05, 0.05))


class Names:
    """A DNS that a test writes."""

    def __init__(self, **answers: list[str]) -> None:
        self.answers = answers
        self.changed = threading.Event()
        self.loop = ControlLoop("dns-test")
        self.resolver = DnsResolver(self.loop, self.changed.set, self.resolve)
        self.loop.start()

    def resolve(self, host: str, family: str) -> list[str]:
        if host not in self.answers:
            raise socket.gaierror(f"no {host}")
        return self.answers[host]

    def addresses(self) -> list[str]:
        found = self.resolver.endpoints("c")
        return [str(e.address) for locality in found.localities for e in locality.endpoints] if found else []

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, self.addresses()
            time.sleep(0.005)

    def close(self) -> None:
        self.loop.post(self.resolver.close)
        self.loop.stop()


def test_an_answer_is_good_for_a_cluster_that_has_changed_meanwhile_in_something_else() -> None:
    names, asked, may_answer = Names(), threading.Event(), threading.Event()

    def resolve(host: str, family: str) -> list[str]:
        asked.set()
        assert may_answer.wait(PATIENCE)
        return ["10.0.0.1"]

    names.resolver = DnsResolver(names.loop, names.changed.set, resolve)
    names.loop.post(lambda: names.resolver.track([cluster("a")]))
    assert asked.wait(PATIENCE)
    changed = threading.Event()
    names.loop.post(lambda: names.resolver.track([replace(cluster("a"), connect_timeout_seconds=7.0)]))
    names.loop.post(changed.set)
    assert changed.wait(PATIENCE)
    may_answer.set()
    names.wait_until(lambda: names.addresses() == ["10.0.0.1:80"])
    names.close()


class _Timers(ControlLoop):
    """Counts the timers that are neither over nor cancelled."""

    def __init__(self) -> None:
        super().__init__("dns-test")
        self.armed: list[Timer] = []

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        timer = super().call_later(seconds, callback)
        self.armed.append(timer)
        return timer


def test_a_cluster_that_changes_is_looked_up_by_one_timer() -> None:
    loop = _Timers()
    resolver = DnsResolver(loop, lambda: None, lambda host, family: ["10.0.0.1"])
    loop.start()
    for host in ("a", "b", "c"):
        found, slow = threading.Event(), cluster(host)
        slow = replace(slow, discovery=replace(slow.discovery, refresh_seconds=3600.0))
        known = len(loop.armed)
        loop.post(lambda slow=slow: resolver.track([slow]))  # type: ignore[misc]
        eventually(lambda known=known: len(loop.armed) > known)  # type: ignore[misc]
        loop.post(found.set)
        assert found.wait(PATIENCE)
    assert sum(timer.callback is not None for timer in loop.armed) == 1
    loop.post(resolver.close)
    loop.stop()


@pytest.mark.parametrize(("logical", "expected"), [(False, ["10.0.0.1:80", "10.0.0.2:80"]), (True, ["10.0.0.1:80"])])
def test_strict_dns_takes_every_address_and_logical_dns_the_first(logical: bool, expected: list[str]) -> None:
    names = Names(a=["10.0.0.1", "10.0.0.2"])
    names.loop.post(lambda: names.resolver.track([cluster("a", logical=logical)]))
    names.wait_until(lambda: names.addresses() == expected)
    names.close()


def test_a_failing_look_up_keeps_the_last_addresses_and_a_later_one_replaces_them() -> None:
    names = Names(a=["10.0.0.1"])
    names.loop.post(lambda: names.resolver.track([cluster("a")]))
    names.wait_until(lambda: names.addresses() == ["10.0.0.1:80"])
    names.answers = {}
    names.wait_until(lambda: "no a" in names.resolver.problem("c"))
    assert names.addresses() == ["10.0.0.1:80"]
    names.answers = {"a": ["10.0.0.9"]}
    names.wait_until(lambda: names.addresses() == ["10.0.0.9:80"])
    assert names.resolver.problem("c") == ""
    names.close()


def test_one_name_of_several_may_fail() -> None:
    names = Names(a=["10.0.0.1"])
    names.loop.post(lambda: names.resolver.track([cluster("a", "nowhere")]))
    names.wait_until(lambda: names.addresses() == ["10.0.0.1:80"])
    names.close()


def test_the_systems_resolver_is_asked_by_family() -> None:
    assert lookup("127.0.0.1", "AUTO") == ["127.0.0.1"]
    assert "127.0.0.1" in lookup("localhost", "V4_ONLY")
    with pytest.raises(OSError, match=r".+"):
        lookup("no-such-host.invalid", "AUTO")


ENTRY = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: x}}
spec:
  hosts: [api.example.com]
  resolution: {resolution}
  ports: [{{number: 80, name: http}}]
  endpoints: [{{address: {address}, ports: {{http: {port}}}}}]
"""


@pytest.mark.parametrize("resolution", ["DNS", "DNS_ROUND_ROBIN"])
def test_a_request_goes_to_where_dns_says(make_mesh: MakeMesh, resolution: str) -> None:
    with EchoServer("me") as server:
        mesh = make_mesh(ENTRY.format(resolution=resolution, address="localhost", port=server.port))
        with mesh.client() as client:
            assert client.get("http://api.example.com/").json()["name"] == "me"


def test_a_name_that_never_resolves_is_503_that_says_so(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(ENTRY.format(resolution="DNS", address="no-such-host.invalid", port=1), local_replies="raise")
    with mesh.client() as client, pytest.raises(Exception, match="DNS look-up failed"):
        client.get("http://api.example.com/")
