"""Auto mTLS where istiod tells proxyless clients nothing of it but a mark on each endpoint that takes mutual TLS."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

import meshsdk

from ..ads import AdsServer
from ..certificates import SpiffeCa, provider, spiffe, write_identity
from ..conftest import service
from ..grpc.xds import cluster, endpoints, listener
from ..grpc_client import make_client
from ..grpc_server import GrpcServer
from ..loops import LOOPS, make_loop
from ..patience import PATIENCE
from ..server.running import identity, mesh_of, one_port, peer_authentication, serving
from ..server.test_serve import who_asks
from ..servers import EchoServer

HOST = "web:80"
CLUSTER = "outbound|80||web.default.svc.cluster.local"
FRIEND = spiffe("friend")
TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"


@pytest.fixture(scope="module")
def ca() -> SpiffeCa:
    return SpiffeCa()


def marked(port: int, namespace: str = "default", *, takes_mutual_tls: bool = True) -> dict[str, Any]:
    """An endpoint as istiod's EDS has it (AppendLbEndpointMetadata)."""
    metadata = {"istio": {"workload": f"web-0;{namespace};web;;Kubernetes"}} if namespace else {}
    if takes_mutual_tls:
        metadata["envoy.transport_socket_match"] = {"tlsMode": "istio"}
    return {"port": port, "health_status": "HEALTHY", "metadata": {"filter_metadata": metadata}}


def resources(*of_endpoints: dict[str, Any], **settings: Any) -> tuple[dict[str, Any], ...]:
    """As istiod's grpc profile: the cluster says nothing of TLS, nor of balancing."""
    route = {"match": {"prefix": "/"}, "route": {"cluster": CLUSTER}}
    return listener(HOST, [route]), cluster(CLUSTER, **settings), endpoints(CLUSTER, [list(of_endpoints)])


Join = Callable[..., meshsdk.Mesh]


@pytest.fixture
def join(tmp_path: Path, ca: SpiffeCa, stack: ExitStack) -> Join:
    """A client whose istiod knows these endpoints."""

    def make(*of_endpoints: dict[str, Any], who: Any = "friend", **settings: Any) -> meshsdk.Mesh:
        istiod = stack.enter_context(AdsServer(*resources(*of_endpoints, **settings)))
        own = identity(tmp_path, ca, who) if isinstance(who, str) else who
        return stack.enter_context(meshsdk.Mesh(bootstrap=istiod.bootstrap, identity=own))

    return make


@pytest.fixture
def strict(tmp_path: Path, ca: SpiffeCa, stack: ExitStack) -> Callable[..., int]:
    """Starts a server that takes mutual TLS only, and answers with who asks; returns its port."""

    def start(**issued: Any) -> int:
        port = one_port()
        own = identity(tmp_path, ca, f"web{port}", **issued)
        yaml = service("web", port) + peer_authentication("STRICT")
        mesh = stack.enter_context(mesh_of(tmp_path, yaml, own, f"server{port}"))
        stack.enter_context(serving(who_asks, mesh, port))
        return port

    return start


def ask(mesh: meshsdk.Mesh, times: int = 1) -> set[str]:
    with mesh.client(timeout=PATIENCE) as client:
        return {client.get(f"http://{HOST}/").text for _ in range(times)}


def test_marked_endpoints_are_spoken_to_by_mutual_tls_and_the_others_in_plaintext(
    join: Join, strict: Callable[..., int], echo: Callable[[str], EchoServer]
) -> None:
    plain = echo("plain")
    mesh = join(marked(strict()), marked(plain.port, takes_mutual_tls=False))
    answers = ask(mesh, 6)
    assert FRIEND in answers
    assert any('"name": "plain"' in answer for answer in answers)


def ask_async(mesh: meshsdk.Mesh, loop: str, times: int = 1) -> set[str]:
    async def ask_each() -> set[str]:
        async with mesh.async_client(timeout=PATIENCE) as client:
            return {(await client.get(f"http://{HOST}/")).text for _ in range(times)}

    with asyncio.Runner(loop_factory=make_loop(loop)) as runner:
        return runner.run(ask_each())


@pytest.mark.parametrize("loop", LOOPS)
def test_async_clients_do_the_same(
    join: Join, strict: Callable[..., int], echo: Callable[[str], EchoServer], loop: str
) -> None:
    plain = echo("plain")
    answers = ask_async(join(marked(strict()), marked(plain.port, takes_mutual_tls=False)), loop, 6)
    assert FRIEND in answers
    assert any('"name": "plain"' in answer for answer in answers)


@pytest.mark.parametrize("loop", LOOPS)
def test_async_clients_refuse_the_same_peers(join: Join, strict: Callable[..., int], loop: str) -> None:
    for uri, namespace in IMPOSTORS.values():
        issued = {"uri": uri} if uri else {"uri": "", "dns": ("web.default.svc",)}
        with pytest.raises(httpx.ConnectError, match="the cluster asks for URI prefix 'spiffe://cluster.local/ns/"):
            ask_async(join(marked(strict(**issued), namespace)), loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_async_clients_without_their_identity_send_nothing(
    join: Join, echo: Callable[[str], EchoServer], tmp_path: Path, loop: str
) -> None:
    server = echo("plain")
    missing = meshsdk.identities.FileIdentity(tmp_path / "none", tmp_path / "none", tmp_path / "none")
    with pytest.raises(httpx.ConnectError, match="none"):
        ask_async(join(marked(server.port), who=missing), loop)
    assert server.seen == []


def test_files_of_the_bootstrap_are_an_identity_too(
    strict: Callable[..., int], ca: SpiffeCa, tmp_path: Path, stack: ExitStack
) -> None:
    write_identity(tmp_path / "agent", ca.issue(FRIEND), ca.pem)
    istiod = stack.enter_context(AdsServer(*resources(marked(strict()))))
    bootstrap = {**istiod.bootstrap, "certificate_providers": provider(tmp_path / "agent")}
    assert ask(stack.enter_context(meshsdk.Mesh(bootstrap=bootstrap))) == {FRIEND}


def test_without_an_identity_all_is_plaintext(join: Join, echo: Callable[[str], EchoServer]) -> None:
    (answer,) = ask(join(marked(echo("plain").port), who=None))
    assert '"name": "plain"' in answer


IMPOSTORS = {
    "of another namespace": ("spiffe://cluster.local/ns/other/sa/web", "default"),
    "of a namespace that begins alike": ("spiffe://cluster.local/ns/default2/sa/web", "default"),
    "of another trust domain": ("spiffe://other.example/ns/default/sa/web", "default"),
    "of another trust domain, namespace untold": ("spiffe://other.example/ns/default/sa/web", ""),
    "that is nobody": ("", "default"),
}


@pytest.mark.parametrize("impostor", IMPOSTORS)
def test_a_peer_is_refused(join: Join, strict: Callable[..., int], impostor: str) -> None:
    uri, namespace = IMPOSTORS[impostor]
    issued = {"uri": uri} if uri else {"uri": "", "dns": ("web.default.svc",)}
    mesh = join(marked(strict(**issued), namespace))
    with pytest.raises(httpx.ConnectError, match="the cluster asks for URI prefix 'spiffe://cluster.local/ns/"):
        ask(mesh)


@pytest.mark.parametrize("namespace", ["default", ""])
def test_any_workload_of_the_namespace_is_taken(join: Join, strict: Callable[..., int], namespace: str) -> None:
    assert ask(join(marked(strict(uri=spiffe("whoever")), namespace))) == {FRIEND}


def test_an_identity_that_cannot_be_had_never_means_plaintext(
    join: Join, echo: Callable[[str], EchoServer], tmp_path: Path
) -> None:
    server = echo("plain")
    missing = meshsdk.identities.FileIdentity(tmp_path / "none", tmp_path / "none", tmp_path / "none")
    with pytest.raises(httpx.ConnectError, match="none"):
        ask(join(marked(server.port), who=missing))
    assert server.seen == []


def test_what_a_cluster_says_of_tls_decides(join: Join, strict: Callable[..., int]) -> None:
    """istiod, for ISTIO_MUTUAL: the peer's service accounts are told."""
    validation = {"trusted_ca": {"filename": "/nowhere.pem"}}
    context = {"@type": TLS, "common_tls_context": {"validation_context": validation}}
    mesh = join(marked(strict()), transport_socket={"name": "tls", "typed_config": context})
    with pytest.raises(httpx.ConnectError, match="nowhere.pem"):
        ask(mesh)


def test_a_cluster_for_envoys_is_taken_at_its_word(join: Join, echo: Callable[[str], EchoServer]) -> None:
    settings = {"common_lb_config": {"healthy_panic_threshold": {"value": 0}}}
    (answer,) = ask(join(marked(echo("plain").port), **settings))
    assert '"name": "plain"' in answer


def test_an_endpoint_that_is_marked_later_gets_no_more_plaintext(
    tmp_path: Path, ca: SpiffeCa, stack: ExitStack, strict: Callable[..., int]
) -> None:
    """Its pod has come up with another one's address, or its PeerAuthentication has been changed."""
    port = strict()
    istiod = stack.enter_context(AdsServer(*resources(marked(port, takes_mutual_tls=False))))
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=istiod.bootstrap, identity=identity(tmp_path, ca, "friend")))
    with pytest.raises(httpx.TransportError):
        ask(mesh)
    istiod.publish(*resources(marked(port)))
    answer, until = "", time.monotonic() + PATIENCE
    with mesh.client(timeout=PATIENCE) as client:
        while not answer and time.monotonic() < until:
            with contextlib.suppress(httpx.TransportError):
                answer = client.get(f"http://{HOST}/").text
    assert answer == FRIEND


@pytest.mark.parametrize("kind", ["sync", "aio"])
def test_grpc_channels_speak_what_the_cluster_says(join: Join, stack: ExitStack, kind: str) -> None:
    """grpc-core cannot offer the ALPN names of the mesh, by which sidecars in PERMISSIVE know mutual TLS."""
    server = stack.enter_context(GrpcServer("plain"))
    client = make_client(kind, join(marked(server.port)), HOST)
    stack.callback(client.close)
    assert client.call(timeout=PATIENCE, wait_for_ready=True)["name"] == "plain"
    assert len(client.down(3, wait_for_ready=True)) == 3
    assert len(server.calls) == 1
