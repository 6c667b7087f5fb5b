"""Edits of a running istiod, while httpx and gRPC clients and servers of its profile for them are busy.

How long an edit takes is written into the report as `seconds`, of which istiod waits 50 ms itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

import meshsdk
from tests.certificates import SpiffeCa
from tests.grpc_server import GrpcServer
from tests.patience import PATIENCE, eventually
from tests.processes import free_ports
from tests.server.running import answers, identity, peer_authentication, policy, serving
from tests.servers import EchoServer

from .test_live import (
    MUTUAL,
    ONLY_FRIENDS,
    Istiod,
    destination_rule,
    in_default,
    program,
    real,
    service,
    traffic,
    virtual_service,
)

__all__ = ["program", "real"]

pytestmark = pytest.mark.interop

Record = Callable[[str, object], None]


class Edits:
    """Edits, each until it is in effect, and how long that took."""

    def __init__(self, istiod: Istiod) -> None:
        self._istiod = istiod
        self.seconds: dict[str, float] = {}

    def make(self, name: str, yaml: str, is_there: Callable[[], bool]) -> None:
        self._istiod.edit(yaml)
        began = time.monotonic()
        eventually(is_there)
        self.seconds[name] = round(time.monotonic() - began, 3)


def at(name: str, number: int, *, port: str = "http", more: str = "") -> str:
    """A Service and its only pod, which keeps its address: of one address a Service has one endpoint only to istiod."""
    return "---\n".join(
        (
            f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n"
            f"spec: {{clusterIP: 10.96.0.1, ports: [{{name: {port}, port: 80{more}}}]}}\n",
            f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}-0, namespace: default,"
            f" labels: {{app: {name}, version: v2}}}}\nstatus: {{podIP: 127.0.0.1, phase: Running}}\n",
            f"apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, namespace: default,"
            f" labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\n"
            f"ports: [{{name: {port}, port: {number}, protocol: TCP}}]\nendpoints: [{{addresses: [127.0.0.1],"
            f" conditions: {{ready: true}}, targetRef: {{kind: Pod, name: {name}-0, namespace: default}}}}]\n",
        )
    )


def of_grpc(yaml: str) -> str:
    """The same of a service `b`."""
    return yaml.replace("name: a,", "name: b,").replace("host: a", "host: b").replace("hosts: [a]", "hosts: [b]")


@contextlib.contextmanager
def async_traffic(mesh: meshsdk.Mesh) -> Iterator[list[BaseException]]:
    """The same requests by an event loop of its own."""
    loop = asyncio.new_event_loop()
    client = mesh.async_client(timeout=PATIENCE)

    async def get() -> None:
        (await client.get("http://a/")).raise_for_status()

    try:
        with traffic(lambda: loop.run_until_complete(get())) as failures:
            yield failures
    finally:
        loop.run_until_complete(client.aclose())
        loop.close()


def plaintext_is_taken(port: int) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}/", timeout=PATIENCE).status_code == 200
    return False


def test_rules_and_endpoints_change_without_a_failed_request(
    real: Istiod, echo: Callable[[str], EchoServer], stack: ExitStack, record_property: Record
) -> None:
    one, two = echo("one"), echo("two")
    three, four = stack.enter_context(GrpcServer("three")), stack.enter_context(GrpcServer("four"))
    first = at("a", one.port) + "---\n" + at("b", three.port, port="grpc")
    moved_calls = "---\n" + at("b", four.port, port="grpc")
    moved = at("a", two.port) + moved_calls
    changed = at("a", two.port, more=", appProtocol: http") + moved_calls
    of_version = destination_rule("subsets: [{name: two, labels: {version: v2}}]")

    def rule(value: str, destination: str = "host: a") -> str:
        headers = f"headers: {{response: {{set: {{x-rule: {value}}}}}}}"
        return virtual_service(f"[{{{headers}, route: [{{destination: {{{destination}}}}}]}}]")

    real.serve(first)
    with (
        meshsdk.Mesh(bootstrap=real.bootstrap()) as mesh,
        mesh.client(timeout=PATIENCE) as client,
        mesh.channel("b:80") as channel,
    ):
        say = channel.unary_unary("/demo.Echo/Say")
        say(b"x", timeout=PATIENCE, wait_for_ready=True)
        client.get("http://a/").raise_for_status()
        edits = Edits(real)

        def goes_to(name: str, rule: str | None) -> bool:
            answer = client.get("http://a/")
            return (answer.json()["name"], answer.headers.get("x-rule")) == (name, rule)

        with (
            traffic(lambda: client.get("http://a/").raise_for_status()) as over_http,
            traffic(lambda: say(b"x", timeout=PATIENCE)) as over_grpc,
            async_traffic(mesh) as over_async,
        ):
            edits.make("EndpointSlice", moved, lambda: goes_to("two", None))
            eventually(lambda: bool(four.calls))
            edits.make("VirtualService", moved + rule("new"), lambda: goes_to("two", "new"))
            edits.make(
                "DestinationRule",
                moved + of_version + rule("two", "host: a, subset: two"),
                lambda: goes_to("two", "two"),
            )
            edits.make("both deleted", moved, lambda: goes_to("two", None))
            edits.make("Service", changed + rule("more"), lambda: goes_to("two", "more"))
            edits.make("all as before", first, lambda: goes_to("one", None))
        assert (over_http, over_grpc, over_async) == ([], [], [])
    record_property("seconds", edits.seconds)
    print(edits.seconds)


def test_policies_of_running_servers_change_without_a_failed_request_of_those_who_may(
    real: Istiod, tmp_path: Path, stack: ExitStack, record_property: Record
) -> None:
    ca, [port, grpc_port] = SpiffeCa(), free_ports(2)
    strict = in_default(peer_authentication("STRICT"))
    friends = in_default(policy(ONLY_FRIENDS))
    strangers_too = in_default(
        policy(ONLY_FRIENDS.replace("sa/friend]", "sa/friend, cluster.local/ns/default/sa/stranger]"))
    )
    denied = in_default(policy("{action: DENY, rules: [{to: [{operation: {paths: [/closed]}}]}]}", "deny"))
    # Of a token that istiod tells servers of this profile nothing of, a rule is met by nobody: by no friend either.
    by_token = in_default(policy("{action: ALLOW, rules: [{from: [{source: {requestPrincipals: ['*']}}]}]}", "token"))
    issuer = in_default(
        policy("{jwtRules: [{issuer: me, jwksUri: 'http://127.0.0.1:1/keys'}]}", kind="RequestAuthentication")
    )
    world = service("a", {port: "z1"}) + MUTUAL + "---\n" + service("b", {grpc_port: "z1"}, port="grpc")
    world += of_grpc(MUTUAL) + strict
    real.serve(world + friends)
    mesh = stack.enter_context(
        meshsdk.Mesh(bootstrap=real.bootstrap({"app": "a"}), identity=identity(tmp_path, ca, "a"))
    )
    stack.enter_context(serving(answers, mesh, port))
    of_b = stack.enter_context(
        meshsdk.Mesh(bootstrap=real.bootstrap({"app": "b"}), identity=identity(tmp_path, ca, "b"))
    )
    interceptors = [of_b.server_interceptor(port=grpc_port)]
    stack.enter_context(
        GrpcServer("b", credentials=of_b.server_credentials(), interceptors=interceptors, port=grpc_port)
    )
    friend, stranger = (
        stack.enter_context(meshsdk.Mesh(bootstrap=real.bootstrap(), identity=identity(tmp_path, ca, account)))
        for account in ("friend", "stranger")
    )
    client, other = (stack.enter_context(one.client(timeout=PATIENCE)) for one in (friend, stranger))
    say = stack.enter_context(friend.channel("b:80")).unary_unary("/demo.Echo/Say")
    say(b"x", timeout=PATIENCE, wait_for_ready=True)
    eventually(lambda: client.get("http://a/").status_code == 200)
    edits = Edits(real)
    with (
        traffic(lambda: client.get("http://a/").raise_for_status()) as over_http,
        traffic(lambda: say(b"x", timeout=PATIENCE)) as over_grpc,
        async_traffic(friend) as over_async,
    ):
        assert other.get("http://a/").status_code == 403
        edits.make("ALLOW widened", world + strangers_too, lambda: other.get("http://a/").status_code == 200)
        edits.make("ALLOW narrowed", world + friends, lambda: other.get("http://a/").status_code == 403)
        edits.make("DENY made", world + friends + denied, lambda: client.get("http://a/closed").status_code == 403)
        edits.make("DENY deleted", world + friends, lambda: client.get("http://a/closed").status_code == 200)
        edits.make(
            "ALLOW by token beside it",
            world + strangers_too + by_token + issuer,
            lambda: other.get("http://a/").status_code == 200,
        )
    assert (over_http, over_grpc, over_async) == ([], [], [])
    edits.make("ALLOW by token alone", world + by_token + issuer, lambda: client.get("http://a/").status_code == 403)
    record_property("seconds", edits.seconds)
    print(edits.seconds)


def test_peer_authentication_flips_without_a_failed_request(
    real: Istiod, tmp_path: Path, stack: ExitStack, record_property: Record
) -> None:
    """Client and server are told by istiod, and not in one moment; what was refused between is tried again."""
    ca, [port] = SpiffeCa(), free_ports(1)
    marked = service("a", {port: "z1"}, labels=", security.istio.io/tlsMode: istio")
    labels = {"app": "a", "security.istio.io/tlsMode": "istio"}
    worlds = {mode: marked + in_default(peer_authentication(mode)) for mode in ("STRICT", "DISABLE")}
    real.serve(worlds["STRICT"])
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=real.bootstrap(labels), identity=identity(tmp_path, ca, "a")))
    stack.enter_context(serving(answers, mesh, port))
    friend = stack.enter_context(meshsdk.Mesh(bootstrap=real.bootstrap(), identity=identity(tmp_path, ca, "friend")))
    client = stack.enter_context(friend.client(timeout=PATIENCE))
    eventually(lambda: client.get("http://a/").status_code == 200)
    edits = Edits(real)

    with traffic(lambda: client.get("http://a/").raise_for_status()) as over_http, async_traffic(friend) as over_async:
        for turn, mode in enumerate(("DISABLE", "STRICT") * 3):
            edits.make(
                f"{turn} {mode}", worlds[mode], lambda mode=mode: plaintext_is_taken(port) is (mode == "DISABLE")
            )
    assert (over_http, over_async) == ([], [])
    record_property("seconds", edits.seconds)
    print(edits.seconds)
