"""What profile sidecar brings and profile gRPC leaves out, with the real istiod."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
import jwt
import pytest

import meshsdk
from tests.certificates import SpiffeCa
from tests.grpc_server import GrpcServer
from tests.patience import PATIENCE, eventually
from tests.processes import free_ports
from tests.server.running import answers, identity, peer_authentication, policy, serving
from tests.servers import EchoServer

from .inbound import KEYS, SIGNING_KEY
from .test_live import (
    MUTUAL,
    ONLY_FRIENDS,
    Istiod,
    destination_rule,
    entry,
    in_default,
    program,
    real,
    service,
)

__all__ = ["program", "real"]

pytestmark = pytest.mark.interop

MARKED = ", security.istio.io/tlsMode: istio"
LABELS = {"app": "a", "security.istio.io/tlsMode": "istio"}
SIDECARS = pytest.mark.parametrize("real", ["sidecar", "sidecar of the world"], indirect=True)


@SIDECARS
def test_an_endpoint_that_fails_is_ejected(real: Istiod, echo: Callable[[str], EchoServer]) -> None:
    good, bad = echo("good"), echo("bad")
    bad.statuses = [500] * 1000
    rule = destination_rule(
        "trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}, outlierDetection:"
        " {consecutive5xxErrors: 2, interval: 1s, baseEjectionTime: 300s, maxEjectionPercent: 100}}"
    )
    real.serve(entry({good.port: "one", bad.port: "two"}, "HTTP") + rule)
    with meshsdk.Mesh(bootstrap=real.bootstrap()) as mesh, mesh.client(timeout=PATIENCE) as client:
        eventually(lambda: Counter(client.get("http://a/").status_code for _ in range(10)) == {200: 10})


@SIDECARS
def test_a_policy_without_rules_lets_nobody_in_and_tokens_are_verified(
    real: Istiod, tmp_path: Path, stack: ExitStack
) -> None:
    ca, [port] = SpiffeCa(), free_ports(1)
    world = service("a", {port: "z1"}, labels=MARKED)
    real.serve(world + in_default(policy("{}")))
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=real.bootstrap(LABELS), identity=identity(tmp_path, ca, "a")))
    stack.enter_context(serving(answers, mesh, port))
    url = f"http://127.0.0.1:{port}/"
    assert httpx.get(url).status_code == 403
    rule = in_default(policy(f"{{jwtRules: [{{issuer: me, jwks: '{KEYS}'}}]}}", kind="RequestAuthentication"))
    real.edit(world + rule)
    eventually(lambda: httpx.get(url, headers={"authorization": "Bearer x.y.z"}).status_code == 401)
    assert httpx.get(url).status_code == 200
    good = jwt.encode({"iss": "me", "sub": "x", "exp": time.time() + 600}, SIGNING_KEY, "ES256", {"kid": "corpus"})
    assert httpx.get(url, headers={"authorization": f"Bearer {good}"}).status_code == 200


@SIDECARS
@pytest.mark.parametrize("mode", ["PERMISSIVE", "STRICT"])
def test_mutual_tls_is_spoken_where_nobody_has_said_so(
    real: Istiod, tmp_path: Path, stack: ExitStack, mode: str
) -> None:
    ca, [port] = SpiffeCa(), free_ports(1)
    real.serve(
        service("a", {port: "z1"}, labels=MARKED)
        + in_default(peer_authentication(mode))
        + in_default(policy(ONLY_FRIENDS))
    )
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=real.bootstrap(LABELS), identity=identity(tmp_path, ca, "a")))
    stack.enter_context(serving(answers, mesh, port))
    for account, status in (("friend", 200), ("stranger", 403)):
        who = identity(tmp_path, ca, account)
        with meshsdk.Mesh(bootstrap=real.bootstrap(), identity=who) as peer, peer.client(timeout=PATIENCE) as client:
            assert client.get("http://a/").status_code == status
    with meshsdk.Mesh(bootstrap=real.bootstrap()) as nobody, nobody.client(timeout=PATIENCE) as client:
        status = 0
        with contextlib.suppress(httpx.TransportError):
            status = client.get("http://a/").status_code
        assert status == (0 if mode == "STRICT" else 403), "in plaintext, as anybody without an identity"


@SIDECARS
def test_calls_speak_mutual_tls_where_a_rule_says_so_and_else_plaintext(
    real: Istiod, tmp_path: Path, stack: ExitStack
) -> None:
    ca, [port] = SpiffeCa(), free_ports(1)
    own = identity(tmp_path, ca, "a")
    friend = identity(tmp_path, ca, "friend")
    world = service("a", {port: "z1"}, port="grpc", labels=MARKED)
    real.serve(world + in_default(peer_authentication("STRICT")) + MUTUAL)
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=real.bootstrap(LABELS), identity=own))
    server = GrpcServer(
        "a", credentials=mesh.server_credentials(), interceptors=[mesh.server_interceptor(port=port)], port=port
    )
    with (
        server,
        meshsdk.Mesh(bootstrap=real.bootstrap(), identity=friend) as peer,
        peer.channel("a:80") as channel,
    ):
        channel.unary_unary("/demo.Echo/say")(b"x", timeout=PATIENCE, wait_for_ready=True)
    real.serve(world)
    plain = GrpcServer("a", port=port)
    with (
        plain,
        meshsdk.Mesh(bootstrap=real.bootstrap(), identity=friend) as peer,
        peer.channel("a:80") as channel,
    ):
        channel.unary_unary("/demo.Echo/say")(b"x", timeout=PATIENCE, wait_for_ready=True)
