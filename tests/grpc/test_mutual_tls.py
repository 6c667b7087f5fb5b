"""SPIFFE mTLS over gRPC: the right peer is called, every other one is refused with an error that says why."""

from __future__ import annotations

import json
import stat
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

import meshsdk
from meshsdk.controlplane import Folder
from meshsdk.controlplane.server import ControlPlaneServer
from tests.certificates import SpiffeCa, provider, spiffe, write_identity
from tests.conftest import MakeMesh, destination_rule, service
from tests.grpc.conftest import MakeClient
from tests.grpc.xds import RATINGS, cluster, documents, endpoints, listener
from tests.grpc_client import Status, SyncClient, counts, failures
from tests.grpc_server import GrpcServer

from ..patience import PATIENCE

Serve = Callable[..., GrpcServer]
CLIENT = spiffe("productpage")


@pytest.fixture
def ca() -> SpiffeCa:
    return SpiffeCa()


@pytest.fixture
def identity(ca: SpiffeCa, tmp_path: Path) -> Path:
    """The client's files."""
    folder = tmp_path / "identity"
    write_identity(folder, ca.issue(CLIENT), ca.pem)
    return folder


def credentials(pair: tuple[bytes, bytes], roots: bytes) -> Any:
    return grpc.ssl_server_credentials([pair], root_certificates=roots, require_client_auth=True)


def secured(port: int, identity: Path, wanted: str = spiffe("ratings")) -> str:
    """A folder in which ratings is called by mTLS with files, and must be `wanted`."""
    files = (
        f"clientCertificate: {identity}/cert.pem, privateKey: {identity}/key.pem, caCertificates: {identity}/roots.pem"
    )
    as_grpc = service("ratings", port, port=9080).replace("name: http", "name: grpc").replace("{http:", "{grpc:")
    return as_grpc + destination_rule(
        "ratings", f"trafficPolicy: {{tls: {{mode: MUTUAL, {files}, subjectAltNames: ['{wanted}']}}}}"
    )


def test_the_right_identity_is_called_and_sees_ours(
    make_mesh: MakeMesh, connect: MakeClient, serve: Serve, ca: SpiffeCa, identity: Path
) -> None:
    server = serve("one", credentials(ca.issue(spiffe("ratings")), ca.pem))
    seen: list[Any] = []
    server.service.on_say = lambda: seen.append(True)
    client = connect(make_mesh(secured(server.port, identity)))
    assert client.call()["name"] == "one"
    assert client.both([b"a"]) == [b"one:a"]


REFUSALS = {
    "another SPIFFE id": ("SANs from certificate did not match", "does not name the identity"),
    "another trust domain": ("SANs from certificate did not match", "does not name the identity"),
    "another CA": ("unable to get local issuer certificate", "a CA that this client does not trust"),
    "expired": ("certificate has expired", "has expired"),
    "not valid yet": ("not yet valid", "is not valid yet"),
    "plaintext": ("WRONG_VERSION_NUMBER", "speaks plaintext"),
}


def wrong_server(what: str, ca: SpiffeCa) -> Any:
    """Credentials of a server that must not be trusted."""
    name = spiffe("ratings")
    match what:
        case "another SPIFFE id":
            return credentials(ca.issue(spiffe("ratings-v2")), ca.pem)
        case "another trust domain":
            return credentials(ca.issue(spiffe("ratings", "evil.example")), ca.pem)
        case "another CA":
            return credentials(SpiffeCa("other").issue(name), ca.pem)
        case "expired":
            return credentials(ca.issue(name, starts=-600, ends=-60), ca.pem)
        case "not valid yet":
            return credentials(ca.issue(name, starts=600), ca.pem)
        case _:
            return None


@pytest.mark.parametrize("what", REFUSALS)
def test_every_other_server_is_refused_with_a_reason_and_gets_no_request(
    make_mesh: MakeMesh, connect: MakeClient, serve: Serve, ca: SpiffeCa, identity: Path, kind: str, what: str
) -> None:
    server = serve("wrong", wrong_server(what, ca))
    client = connect(make_mesh(secured(server.port, identity)))
    with pytest.raises(Status) as caught:
        client.call(request=b"secret")
    said, note = REFUSALS[what]
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert said in caught.value.details
    if kind == "sync":  # A plain asyncio call is grpc's own, to which nothing is added.
        assert note in caught.value.__cause__.__notes__[0]
    assert not server.calls


def test_a_client_without_the_servers_trust_is_refused_by_the_server(
    make_mesh: MakeMesh, connect: MakeClient, serve: Serve, ca: SpiffeCa, identity: Path
) -> None:
    server = serve("one", credentials(ca.issue(spiffe("ratings")), SpiffeCa("other").pem))
    client = connect(make_mesh(secured(server.port, identity)))
    with pytest.raises(Status) as caught:
        client.call(timeout=PATIENCE)
    assert caught.value.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    assert not server.calls


def test_httpx_refuses_the_same_identities(make_mesh: MakeMesh, serve: Serve, ca: SpiffeCa, identity: Path) -> None:
    """One folder, two engines, one verdict."""
    for what in REFUSALS:
        server = serve("wrong", wrong_server(what, ca))
        mesh = make_mesh(secured(server.port, identity))
        with mesh.client(timeout=PATIENCE) as client, pytest.raises(httpx.ConnectError):
            client.post("http://ratings:9080/test.Echo/Say")
        with mesh.channel("ratings:9080") as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary("/test.Echo/Say")(b"", timeout=PATIENCE)
        mesh.close()
        assert not server.calls
    right = serve("right", credentials(ca.issue(spiffe("ratings")), ca.pem))
    mesh = make_mesh(secured(right.port, identity))
    with mesh.client(timeout=PATIENCE) as client:
        # The server is no HTTP server of this path, but TLS and HTTP/2 have been spoken.
        assert client.post("http://ratings:9080/test.Echo/Say", headers={"te": "trailers"}).http_version == "HTTP/2"
    with mesh.channel("ratings:9080") as channel:
        assert channel.unary_unary("/test.Echo/Say")(b"", timeout=PATIENCE)


def test_istiods_provider_instances_become_files_of_the_bootstrap(
    connect: MakeClient, serve: Serve, stack: ExitStack, tmp_path: Path, ca: SpiffeCa, identity: Path
) -> None:
    server = serve("one", credentials(ca.issue(spiffe("ratings")), ca.pem))
    mesh = mesh_of_istiod(server.port, tmp_path, identity, stack)
    assert connect(mesh).call()["name"] == "one"
    assert mesh.status()["grpc"]["problems"] == {}
    with mesh.client(http2=True, timeout=PATIENCE) as client:
        assert client.post("http://ratings:9080/test.Echo/Say", headers={"te": "trailers"}).http_version == "HTTP/2"


def tls_socket(instance: str = "default") -> dict[str, Any]:
    """What istiod's gRPC profile sends (istio/istio pilot/pkg/networking/grpcgen/cds.go)."""
    validation = {
        "default_validation_context": {"match_subject_alt_names": [{"exact": spiffe("ratings")}]},
        "validation_context_certificate_provider_instance": {"instance_name": instance, "certificate_name": "ROOTCA"},
    }
    context = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": {
            "tls_certificate_certificate_provider_instance": {
                "instance_name": instance,
                "certificate_name": "default",
            },
            "combined_validation_context": validation,
        },
    }
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


HTTP2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}


def mesh_of_istiod(
    port: int, tmp_path: Path, identity: Path, stack: ExitStack, instance: str = "default"
) -> meshsdk.Mesh:
    """A Mesh that gets its resources from a management server, with providers in its bootstrap."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "mesh.yaml").write_text(
        documents(
            listener(RATINGS, [{"match": {"prefix": ""}, "route": {"cluster": "ratings", "timeout": "0s"}}]),
            cluster("ratings", transport_socket=tls_socket(instance), typed_extension_protocol_options=HTTP2),
            endpoints("ratings", [[port]]),
        )
    )
    server = ControlPlaneServer(Folder(folder), "127.0.0.1:0")
    server.start()
    stack.callback(server.stop)
    bootstrap = {
        "xds_servers": [{"server_uri": f"127.0.0.1:{server.port}", "channel_creds": [{"type": "insecure"}]}],
        "node": {"id": "test"},
        "certificate_providers": provider(identity),
    }
    return stack.enter_context(meshsdk.Mesh(bootstrap=bootstrap))


def problem_of(mesh: meshsdk.Mesh, cluster_name: str) -> str:
    """What is wrong with a cluster, once it is known."""
    until = time.monotonic() + PATIENCE
    while cluster_name not in (problems := mesh.status()["grpc"]["problems"]):
        assert time.monotonic() < until
        time.sleep(0.01)
    return str(problems[cluster_name])


def test_a_provider_that_the_bootstrap_does_not_have_is_named_and_the_cluster_is_not_reached_in_plaintext(
    connect: MakeClient, serve: Serve, stack: ExitStack, tmp_path: Path, identity: Path
) -> None:
    server = serve("plaintext")
    mesh = mesh_of_istiod(server.port, tmp_path, identity, stack, instance="vault")
    client = connect(mesh)
    with pytest.raises(Status) as caught:
        client.call(timeout=2)
    assert caught.value.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    problem = problem_of(mesh, "ratings")
    with pytest.raises(Status):
        client.call(timeout=2)
    assert "'vault'" in problem
    assert "'default'" in problem
    with mesh.client(timeout=PATIENCE) as web, pytest.raises(httpx.ConnectError, match="'vault'"):
        web.get("http://ratings:9080/")
    assert not server.calls


@pytest.mark.parametrize(
    "matcher",
    [
        {"san_type": "URI", "matcher": {"suffix": "/sa/ratings"}},
        {"san_type": "DNS", "matcher": {"prefix": "ratings"}},
        {"san_type": "DNS", "matcher": {"exact": "10.0.0.1"}},
        {"san_type": "EMAIL", "matcher": {"exact": "a@b.example"}},
        {"san_type": "URI", "matcher": {"safe_regex": {"regex": "spiffe://.*"}}},
    ],
)
def test_names_that_grpc_core_could_confuse_are_refused_rather_than_compared_less(
    make_mesh: MakeMesh, connect: MakeClient, serve: Serve, identity: Path, matcher: Any
) -> None:
    server = serve("plaintext")
    validation = {
        "trusted_ca": {"filename": f"{identity}/roots.pem"},
        "match_typed_subject_alt_names": [matcher],
    }
    socket = {
        "name": "tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": {"validation_context": validation},
        },
    }
    mesh = make_mesh(
        documents(
            listener(RATINGS, [{"match": {"prefix": ""}, "route": {"cluster": "ratings"}}]),
            cluster("ratings", transport_socket=socket),
            endpoints("ratings", [[server.port]]),
        )
    )
    client = connect(mesh)
    with pytest.raises(Status):
        client.call(timeout=1)
    assert "match_typed_subject_alt_names" in problem_of(mesh, "ratings")
    with pytest.raises(Status):
        client.call(timeout=1)
    assert not server.calls


def test_a_cluster_that_comes_to_ask_for_more_than_can_be_checked_is_no_longer_reached(
    make_mesh: MakeMesh, connect: MakeClient, serve: Serve, identity: Path, tmp_path: Path
) -> None:
    """It was plaintext before; it is not called that way any more."""
    server = serve("plaintext")
    context = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3"},
            "validation_context": {"trusted_ca": {"filename": f"{identity}/roots.pem"}},
        },
    }
    names = [listener(RATINGS, [{"match": {"prefix": ""}, "route": {"cluster": "a"}}]), endpoints("a", [[server.port]])]
    mesh = make_mesh(documents(*names, cluster("a")))
    client = connect(mesh)
    assert client.call()["name"] == "plaintext"
    asked = cluster("a", transport_socket={"name": "tls", "typed_config": context})
    (tmp_path / "mesh" / "mesh.yaml").write_text(documents(*names, asked))
    until = time.monotonic() + PATIENCE
    while "tls_params" not in mesh.status()["grpc"]["problems"].get("a", ""):
        assert time.monotonic() < until
        time.sleep(0.01)
    while not failures(client.try_many(1, timeout=1)):
        assert time.monotonic() < until
    time.sleep(0.3)  # A few looks at the certificates later it is still said.
    assert "tls_params" in mesh.status()["grpc"]["problems"]["a"]


def test_a_rotated_identity_is_used_by_new_connections(
    make_mesh: MakeMesh, connect: MakeClient, serve: Serve, ca: SpiffeCa, identity: Path
) -> None:
    """The client's first certificate is of a CA that the server does not know; the one it is rotated to is not."""
    write_identity(identity, SpiffeCa("old").issue(CLIENT), ca.pem)
    server = serve("one", credentials(ca.issue(spiffe("ratings")), ca.pem))
    client = connect(make_mesh(secured(server.port, identity)))
    with pytest.raises(Status):
        client.call(timeout=3)
    write_identity(identity, ca.issue(CLIENT), ca.pem)
    until = time.monotonic() + PATIENCE
    while True:
        try:
            assert client.call(timeout=3)["name"] == "one"
            return
        except Status:
            assert time.monotonic() < until


@pytest.mark.parametrize("broken", ["key of another certificate", "no certificate", "roots missing"])
def test_a_broken_rotation_keeps_the_last_good_identity(
    make_mesh: MakeMesh, connect: MakeClient, serve: Serve, ca: SpiffeCa, identity: Path, broken: str
) -> None:
    server = serve("one", credentials(ca.issue(spiffe("ratings")), ca.pem))
    mesh = make_mesh(secured(server.port, identity))
    assert connect(mesh).call()["name"] == "one"
    if broken == "key of another certificate":
        (identity / "key.pem").write_bytes(ca.issue(CLIENT)[0])
    elif broken == "no certificate":
        (identity / "cert.pem").write_text("nothing")
    else:
        (identity / "roots.pem").unlink()
    until = time.monotonic() + PATIENCE
    while not mesh.status()["grpc"]["problems"]:
        assert time.monotonic() < until
        time.sleep(0.02)
    # A channel of its own has connections of its own.
    assert connect(mesh, options=[("grpc.use_local_subchannel_pool", 1)]).call()["name"] == "one"


class RollingTrust:
    """A root that changes every second, as meshes change theirs: trusted for a while before and after it is used."""

    def __init__(self) -> None:
        self._authorities = [SpiffeCa(f"CA {number}") for number in range(13)]
        self.trusted = b""
        self.roll()

    def roll(self) -> SpiffeCa:
        """A second later: the CA that issues now, in the middle of those that are trusted."""
        self._authorities = [*self._authorities[1:], SpiffeCa("next")]
        self.trusted = b"".join(one.pem for one in self._authorities)
        return self._authorities[6]


def test_certificates_rotated_every_second_under_load_fail_no_call(
    make_mesh: MakeMesh, connect: MakeClient, kind: str, stack: ExitStack, identity: Path, tmp_path: Path
) -> None:
    """Both sides rotate, leaf and root; connections are made anew all the time. Sync calls see all roots go."""
    enough = 18 if kind == "sync" else 7
    served, trust = tmp_path / "server-identity", RollingTrust()

    def rotate() -> None:
        authority = trust.roll()
        write_identity(identity, authority.issue(CLIENT), trust.trusted)
        write_identity(served, authority.issue(spiffe("ratings")), trust.trusted)

    rotate()
    bootstrap = {
        "xds_servers": [{"server_uri": "127.0.0.1:1", "channel_creds": [{"type": "insecure"}]}],
        "certificate_providers": provider(served),
    }
    theirs = stack.enter_context(meshsdk.Mesh(bootstrap=bootstrap))
    server = stack.enter_context(GrpcServer("one", theirs.server_credentials()))
    mesh = make_mesh(secured(server.port, identity))
    stop, rotations = threading.Event(), 0

    def keep_rotating() -> None:
        nonlocal rotations
        while not stop.wait(1.0):
            rotate()
            rotations += 1

    rotating = threading.Thread(target=keep_rotating)
    rotating.start()
    answers: list[Any] = []
    until = time.monotonic() + PATIENCE
    try:
        while rotations < enough or len(answers) < 100:
            assert time.monotonic() < until, (rotations, len(answers))
            client = connect(mesh, options=[("grpc.use_local_subchannel_pool", 1)])
            answers += client.try_many(20)
            client.close()
    finally:
        stop.set()
        rotating.join()
    assert not failures(answers), counts(answers)


def test_keys_lie_in_a_private_folder_and_go_when_they_are_not_needed(
    make_mesh: MakeMesh, clients: ExitStack, serve: Serve, ca: SpiffeCa, identity: Path, tmp_path: Path
) -> None:
    from meshsdk.grpc.engine.relay import _Process

    server = serve("one", credentials(ca.issue(spiffe("ratings")), ca.pem))
    mesh = make_mesh(secured(server.port, identity))
    client = SyncClient(mesh, "ratings:9080")
    clients.callback(client.close)
    assert client.call()["name"] == "one"
    assert _Process.relay is not None
    folder = _Process.relay._folder.path
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    keys = [path for path in folder.rglob("key.pem") if not path.is_symlink()]
    assert keys
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
    (tmp_path / "mesh" / "mesh.yaml").write_text(
        json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}})
    )
    until = time.monotonic() + PATIENCE
    while list(folder.rglob("key.pem")):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_servers_credentials_need_a_provider() -> None:
    bootstrap = {"xds_servers": [{"server_uri": "127.0.0.1:1", "channel_creds": [{"type": "insecure"}]}]}
    with (
        meshsdk.Mesh(bootstrap=bootstrap) as mesh,
        pytest.raises(meshsdk.BootstrapError, match=r"certificate_providers.*'default'"),
    ):
        mesh.server_credentials()
