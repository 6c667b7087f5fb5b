"""Where identities come from: real files, real CAs and agents over real gRPC; renewed, and kept when renewal fails."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.service.discovery.v3 import discovery_pb2

import meshsdk
from meshsdk.controlplane.folder import Folder
from meshsdk.controlplane.server import ControlPlaneServer
from meshsdk.errors import IdentityError
from meshsdk.identities import DevelopmentIdentity, FileIdentity, IstioCaIdentity, SdsIdentity, WorkloadApiIdentity
from meshsdk.identities.certificate_authority import CertificateAuthority
from meshsdk.identities.istio_ca_messages import Request, Response
from meshsdk.identities.renewal import RenewedIdentity
from meshsdk.identities.workload_api_messages import Request as SvidRequest
from meshsdk.identities.workload_api_messages import Response as SvidResponse
from meshsdk.security import Credentials
from meshsdk.security.identity import check_credentials

from ..certificates import SpiffeCa, spiffe, write_identity
from ..istiod import write_token
from ..patience import PATIENCE, eventually
from ..processes import CLEAN_ENVIRONMENT

WEB = spiffe("web")


def test_files_that_change_are_read_again_and_a_broken_change_keeps_the_last_good_ones(tmp_path: Path) -> None:
    ca = SpiffeCa()
    write_identity(tmp_path, ca.issue(WEB), ca.pem)
    identity = FileIdentity(tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "roots.pem")
    first = identity.credentials()
    assert first.spiffe_id == WEB
    assert "PRIVATE" not in repr(first)
    (tmp_path / "cert.pem").write_bytes(ca.issue(WEB)[1])  # Its key is another one.
    assert identity.credentials() is first
    assert "does not belong" in identity.problem
    write_identity(tmp_path, ca.issue(spiffe("other")), ca.pem)
    assert identity.credentials().spiffe_id == spiffe("other")
    assert identity.problem == ""


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="cert.pem"):
        FileIdentity(tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "roots.pem").credentials()


class Ca(grpc.GenericRpcHandler):  # type: ignore[misc]
    """IstioCertificateService over a real CA."""

    def __init__(self) -> None:
        self.authority = CertificateAuthority.make()
        self.life = datetime.timedelta(hours=1)
        self.names = WEB
        self.tokens: list[str] = []
        self.requests: list[Any] = []
        self.fails = False

    def service(self, details: Any) -> Any:
        if details.method != "/istio.v1.auth.IstioCertificateService/CreateCertificate":
            return None
        return grpc.unary_unary_rpc_method_handler(
            self.create, request_deserializer=Request.FromString, response_serializer=Response.SerializeToString
        )

    def create(self, request: Any, context: Any) -> Any:
        self.tokens.append(dict(context.invocation_metadata())["authorization"])
        self.requests.append(request)
        if self.fails:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is not valid")
        signed = self.authority.sign(request.csr.encode(), self.names, self.life)
        return Response(cert_chain=[signed.decode(), self.authority.pem.decode()])


@pytest.fixture
def ca() -> Iterator[tuple[Ca, str]]:
    handler = Ca()
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield handler, f"127.0.0.1:{port}"
    server.stop(0).wait()


@pytest.fixture
def asking(ca: tuple[Ca, str], tmp_path: Path) -> Iterator[Any]:
    made: list[IstioCaIdentity] = []
    (tmp_path / "token").write_text("one\n")
    (tmp_path / "roots.pem").write_bytes(ca[0].authority.pem)

    def make(spiffe_id: str = WEB, **options: Any) -> IstioCaIdentity:
        made.append(
            IstioCaIdentity(
                spiffe_id,
                address=ca[1],
                token_file=tmp_path / "token",
                ca_certificate_file=tmp_path / "roots.pem",
                plaintext=True,
                **options,
            )
        )
        return made[-1]

    yield make
    for identity in made:
        identity.close()


@pytest.mark.parametrize("kind", ["ECDSA", "RSA"])
def test_istios_ca_signs_a_key_that_was_made_here(ca: tuple[Ca, str], asking: Any, kind: str) -> None:
    credentials: Credentials = asking(key=kind).credentials()
    assert credentials.spiffe_id == WEB
    request = x509.load_pem_x509_csr(ca[0].requests[0].csr.encode())
    assert type(request.public_key()).__name__.startswith("EC" if kind == "ECDSA" else "RSA")
    assert b"PRIVATE" not in ca[0].requests[0].csr.encode()
    assert ca[0].tokens == ["Bearer one"]


def test_a_certificate_is_renewed_before_it_expires_with_the_token_of_that_time(
    ca: tuple[Ca, str], asking: Any, tmp_path: Path
) -> None:
    ca[0].life = datetime.timedelta(seconds=2)
    identity = asking()
    first = identity.credentials()
    (tmp_path / "token").write_text("two\n")
    eventually(lambda: ca[0].tokens[-1] == "Bearer two")
    eventually(lambda: identity.credentials().certificate != first.certificate)


def test_a_ca_that_refuses_is_asked_again_and_the_last_certificate_stays(ca: tuple[Ca, str], asking: Any) -> None:
    ca[0].life = datetime.timedelta(seconds=4)
    identity = asking()
    first = identity.credentials()
    ca[0].fails = True
    eventually(lambda: "the token is not valid" in identity.problem)
    assert identity.credentials() is first
    ca[0].fails = False
    eventually(lambda: identity.credentials().certificate != first.certificate)
    assert identity.problem == ""


def test_a_token_that_is_no_text_is_read_again(ca: tuple[Ca, str], asking: Any, tmp_path: Path) -> None:
    ca[0].life = datetime.timedelta(seconds=1)
    identity = asking()
    first = identity.credentials()
    (tmp_path / "token").write_bytes(b"\xff\xfe")
    eventually(lambda: "the token or the roots cannot be read" in identity.problem)
    (tmp_path / "token").write_text("two")
    eventually(lambda: identity.credentials().certificate != first.certificate)
    assert identity.problem == ""


def test_roots_that_change_in_their_file_are_taken_up_without_a_renewal(
    ca: tuple[Ca, str], asking: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshsdk.identities.renewal._LOOK_SECONDS", 0.1)
    identity, roots = asking(), tmp_path / "roots.pem"
    first = identity.credentials()
    more = first.roots + SpiffeCa().pem
    roots.write_bytes(more)
    eventually(lambda: identity.credentials().roots == more)
    assert identity.credentials().certificate == first.certificate
    roots.write_bytes(b"half a certif")
    eventually(lambda: "cannot be read" in identity.problem)
    assert identity.credentials().roots == more
    roots.write_bytes(more)
    eventually(lambda: identity.problem == "")
    roots.unlink()
    eventually(lambda: "the roots cannot be read" in identity.problem)
    roots.write_bytes(first.roots)
    eventually(lambda: identity.credentials().roots == first.roots)
    assert len(ca[0].requests) == 1


def test_a_certificate_that_the_new_roots_do_not_vouch_for_is_renewed_at_once(
    ca: tuple[Ca, str], asking: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshsdk.identities.renewal._LOOK_SECONDS", 0.1)
    identity = asking()
    first = identity.credentials()
    ca[0].authority = CertificateAuthority.make()
    (tmp_path / "roots.pem").write_bytes(ca[0].authority.pem)
    eventually(lambda: identity.credentials().certificate != first.certificate)
    assert identity.credentials().roots == ca[0].authority.pem
    assert len(ca[0].requests) == 2


def test_new_roots_are_taken_up_while_the_ca_refuses(ca: tuple[Ca, str], asking: Any, tmp_path: Path) -> None:
    ca[0].life = datetime.timedelta(seconds=2)
    identity = asking()
    first = identity.credentials()
    ca[0].fails = True
    eventually(lambda: "the token is not valid" in identity.problem)
    more = first.roots + SpiffeCa().pem
    (tmp_path / "roots.pem").write_bytes(more)
    eventually(lambda: identity.credentials().roots == more)
    assert "the token is not valid" in identity.problem


def test_files_that_are_put_in_place_with_the_times_of_the_old_ones_are_seen(tmp_path: Path) -> None:
    ca = SpiffeCa()
    write_identity(tmp_path, ca.issue(WEB), ca.pem)
    identity = FileIdentity(tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "roots.pem")
    first = identity.credentials()
    key, certificate = ca.issue(spiffe("other"))
    for name, content in (("key.pem", key), ("cert.pem", certificate)):
        old = (tmp_path / name).stat()
        (tmp_path / "new").write_bytes(content)
        os.utime(tmp_path / "new", ns=(old.st_atime_ns, old.st_mtime_ns))
        (tmp_path / "new").replace(tmp_path / name)
    assert identity.credentials().spiffe_id == spiffe("other")
    assert identity.credentials() is not first


def test_a_certificate_for_somebody_else_is_not_taken(ca: tuple[Ca, str], asking: Any) -> None:
    ca[0].names = spiffe("other")
    with pytest.raises(IdentityError, match="sa/other"):
        asking().credentials()


def test_a_ca_that_is_away_says_so(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("x")
    (tmp_path / "roots.pem").write_bytes(SpiffeCa().pem)
    identity = IstioCaIdentity(
        WEB,
        address="127.0.0.1:1",
        token_file=tmp_path / "token",
        ca_certificate_file=tmp_path / "roots.pem",
        plaintext=True,
    )
    with pytest.raises(IdentityError, match="UNAVAILABLE"):
        identity.credentials()
    identity.close()


@pytest.mark.parametrize("trust_domain", ["cluster.local", "acme.example"])
def test_whom_to_ask_for_stands_in_the_token_and_the_ca_knows_its_trust_domain(
    ca: tuple[Ca, str], asking: Any, tmp_path: Path, trust_domain: str
) -> None:
    write_token(tmp_path / "token", "shop", "web")
    ca[0].names = f"spiffe://{trust_domain}/ns/shop/sa/web"
    identity = asking(spiffe_id="")
    assert identity.credentials().spiffe_id == ca[0].names


def test_a_certificate_for_somebody_else_than_the_token_names_is_not_taken(
    ca: tuple[Ca, str], asking: Any, tmp_path: Path
) -> None:
    write_token(tmp_path / "token", "shop", "web")
    ca[0].names = "spiffe://cluster.local/ns/shop/sa/other"
    with pytest.raises(IdentityError, match="sa/other' instead of 'spiffe://cluster.local/ns/shop/sa/web"):
        asking(spiffe_id="").credentials()


def test_a_token_that_names_nobody_asks_for_the_spiffe_id(asking: Any) -> None:
    with pytest.raises(IdentityError, match="holds no JWT"):
        asking(spiffe_id="").credentials()


def test_a_token_that_the_ca_refuses_is_told_of(ca: tuple[Ca, str], asking: Any, tmp_path: Path) -> None:
    token = write_token(tmp_path / "token", "shop", "web", audience="somebody-else")
    ca[0].fails = True
    with pytest.raises(IdentityError, match=f"{token} .of shop/web, for somebody-else, good until"):
        asking(spiffe_id="").credentials()


class Agent(grpc.GenericRpcHandler):  # type: ignore[misc]
    """SDS, as Istio's agent serves it."""

    def __init__(self) -> None:
        self.queue: list[list[secret_pb2.Secret]] = []
        self.answers: list[Any] = []

    def service(self, details: Any) -> Any:
        return grpc.stream_stream_rpc_method_handler(
            self.stream,
            request_deserializer=discovery_pb2.DiscoveryRequest.FromString,
            response_serializer=discovery_pb2.DiscoveryResponse.SerializeToString,
        )

    def stream(self, requests: Any, context: Any) -> Iterator[Any]:
        ThreadPoolExecutor(1).submit(lambda: self.answers.extend(requests))
        while context.is_active():
            if self.queue:
                response = discovery_pb2.DiscoveryResponse(version_info="1", nonce=str(time.monotonic_ns()))
                for secret in self.queue.pop(0):
                    response.resources.add().Pack(secret)
                yield response
            time.sleep(0.01)

    def push(self, pair: tuple[bytes, bytes], roots: bytes) -> None:
        own, trusted = secret_pb2.Secret(name="default"), secret_pb2.Secret(name="ROOTCA")
        own.tls_certificate.private_key.inline_bytes, own.tls_certificate.certificate_chain.inline_bytes = pair
        trusted.validation_context.trusted_ca.inline_bytes = roots
        self.queue.append([own])
        self.queue.append([trusted])


@pytest.fixture
def sds_agent(tmp_path: Path) -> Iterator[tuple[Agent, Path]]:
    agent, path = Agent(), tmp_path / "sds.sock"
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((agent,))
    server.add_insecure_port(f"unix:{path}")
    server.start()
    yield agent, path
    server.stop(0).wait()


def test_an_agents_secrets_are_followed_and_bad_ones_are_refused(sds_agent: tuple[Agent, Path]) -> None:
    (agent, path), ca = sds_agent, SpiffeCa()
    agent.push(ca.issue(WEB), ca.pem)
    identity = SdsIdentity(path)
    try:
        assert identity.credentials().spiffe_id == WEB
        agent.push((b"no key", b"no certificate"), ca.pem)
        eventually(lambda: identity.problem != "")
        assert identity.credentials().spiffe_id == WEB
        eventually(lambda: any(answer.HasField("error_detail") for answer in agent.answers))
        agent.push(ca.issue(spiffe("new")), ca.pem)
        eventually(lambda: identity.credentials().spiffe_id == spiffe("new"))
    finally:
        identity.close()


def test_processes_of_one_user_share_a_development_ca_that_nobody_else_can_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    one, two = DevelopmentIdentity(tmp_path / "mesh", WEB), DevelopmentIdentity(tmp_path / "mesh", spiffe("other"))
    other = DevelopmentIdentity(tmp_path / "elsewhere", WEB)
    assert one.credentials().roots == two.credentials().roots != other.credentials().roots
    folder = tmp_path / f"meshsdk-{os.getuid()}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    for identity in (one, two, other):
        identity.close()


def test_a_development_ca_that_is_replaced_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with contextlib.closing(DevelopmentIdentity(tmp_path, WEB)) as identity:
        first = identity.credentials()
        held = identity._held
        assert held is not None
        held._path.unlink()
        with contextlib.closing(DevelopmentIdentity(tmp_path, WEB)) as other:
            eventually(lambda: identity.credentials().roots == other.credentials().roots)
            assert identity.credentials().roots != first.roots


def test_a_folder_that_others_can_write_is_no_place_for_a_ca(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / f"meshsdk-{os.getuid()}").mkdir(mode=0o777)
    (tmp_path / f"meshsdk-{os.getuid()}").chmod(0o777)
    identity = DevelopmentIdentity(tmp_path / "mesh", WEB)
    with pytest.raises(IdentityError, match="not a private folder"):
        identity.credentials()
    identity.close()


# In a process of its own: one in which others have used gRPC, as that of tests, does not survive every fork.
FORKED = """
import os, sys
from meshsdk.identities import DevelopmentIdentity
identity = DevelopmentIdentity(sys.argv[1], sys.argv[2])
ours = identity.credentials().certificate
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    os.write(writing, identity.credentials().certificate)
    os._exit(0)
status = os.waitpid(child, 0)[1]
os.close(writing)
theirs = os.fdopen(reading, "rb").read()
print(status, theirs.startswith(b"-----BEGIN"), theirs != ours)
identity.close()
"""


def test_a_forked_child_gets_certificates_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORKED, str(tmp_path / "mesh"), WEB]
    environment = CLEAN_ENVIRONMENT | {"XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout == "0 True True\n", done.stderr


def test_the_embedded_control_plane_signs_for_this_users_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "mesh").mkdir()
    server = ControlPlaneServer(Folder(tmp_path / "mesh"), "127.0.0.1:0")
    server.start()
    assert server.certificates is not None

    def identity(**options: Any) -> IstioCaIdentity:
        token, roots = server.certificates.token_file, server.certificates.roots_file
        given = {"token_file": token, "ca_certificate_file": roots, "address": f"127.0.0.1:{server.port}", **options}
        return IstioCaIdentity(given.pop("spiffe_id", WEB), plaintext=True, **given)

    (tmp_path / "guess").write_text("guess")
    good, guessed = identity(), identity(token_file=tmp_path / "guess")
    nobody = identity(spiffe_id="https://web")
    folder = DevelopmentIdentity(tmp_path / "mesh", WEB)
    try:
        got = good.credentials()
        assert got.spiffe_id == WEB
        assert got.roots == folder.credentials().roots
        with pytest.raises(IdentityError, match="UNAUTHENTICATED"):
            guessed.credentials()
        with pytest.raises(IdentityError, match="must name one SPIFFE ID"):
            nobody.credentials()
        assert stat.S_IMODE(server.certificates.token_file.stat().st_mode) == 0o600
    finally:
        for one in (good, guessed, nobody, folder):
            one.close()
        server.stop()


def test_a_control_plane_for_other_machines_is_no_certificate_authority(tmp_path: Path) -> None:
    server = ControlPlaneServer(Folder(tmp_path), "0.0.0.0:0")
    assert server.certificates is None
    server.stop()


class WorkloadApi(grpc.GenericRpcHandler):  # type: ignore[misc]
    """SPIFFE's Workload API, as SPIRE's agent serves it."""

    def __init__(self) -> None:
        self.responses: list[Any] = []

    def service(self, details: Any) -> Any:
        if details.method != "/SpiffeWorkloadAPI/FetchX509SVID":
            return None
        return grpc.unary_stream_rpc_method_handler(
            self.stream, request_deserializer=SvidRequest.FromString, response_serializer=SvidResponse.SerializeToString
        )

    def stream(self, request: Any, context: Any) -> Iterator[Any]:
        if dict(context.invocation_metadata()).get("workload.spiffe.io") != "true":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing")
        while context.is_active():
            if self.responses:
                yield self.responses.pop(0)
            time.sleep(0.01)

    def push(self, *svids: tuple[str, SpiffeCa], **federated: SpiffeCa) -> None:
        response = SvidResponse()
        for name, issuer in svids:
            key, chain = issuer.issue(name)
            response.svids.add(spiffe_id=name, x509_svid=der(chain), x509_svid_key=_pkcs8(key), bundle=der(issuer.pem))
        for domain, issuer in federated.items():
            response.federated_bundles[f"spiffe://{domain.replace('_', '.')}"] = der(issuer.pem) + der(issuer.pem)
        self.responses.append(response)


def der(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificates(pem)[0].public_bytes(serialization.Encoding.DER)


@pytest.fixture
def workload_api(tmp_path: Path) -> Iterator[tuple[WorkloadApi, Path]]:
    handler, path = WorkloadApi(), tmp_path / "agent.sock"
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(f"unix:{path}")
    server.start()
    yield handler, path
    server.stop(0).wait()


def test_a_workload_api_is_followed_with_its_federated_trust_domains(
    workload_api: tuple[WorkloadApi, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, path = workload_api
    ours, theirs = SpiffeCa("ours"), SpiffeCa("theirs")
    monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", f"unix://{path}")
    agent.push((WEB, ours), (spiffe("second"), ours), other_domain=theirs)
    identity = WorkloadApiIdentity()
    try:
        got = identity.credentials()
        assert got.spiffe_id == WEB
        assert got.roots == ours.pem
        assert got.bundles == {"cluster.local": ours.pem, "other.domain": theirs.pem * 2}
        agent.push((spiffe("renewed"), ours))
        eventually(lambda: identity.credentials().spiffe_id == spiffe("renewed"))
        assert identity.credentials().bundles == {"cluster.local": ours.pem}
        broken = SvidResponse()
        broken.svids.add(spiffe_id=WEB, x509_svid=b"\x30\x82", x509_svid_key=b"x", bundle=der(ours.pem))
        agent.responses.append(broken)
        eventually(lambda: "cannot be read" in identity.problem)
        assert identity.credentials().spiffe_id == spiffe("renewed")
    finally:
        identity.close()


def bootstrap_with(plugin: str, **config: Any) -> dict[str, Any]:
    return {
        "xds_servers": [{"server_uri": "unix:/nowhere", "channel_creds": [{"type": "insecure"}]}],
        "node": {"id": "me"},
        "certificate_providers": {"default": {"plugin_name": plugin, "config": config}},
    }


def test_the_bootstrap_may_name_a_workload_api(workload_api: tuple[WorkloadApi, Path]) -> None:
    agent, path = workload_api
    ours = SpiffeCa("ours")
    agent.push((spiffe("first"), ours), (spiffe("second"), ours))
    provider = bootstrap_with("meshsdk.workload_api", socket=str(path), spiffe_id=spiffe("second"))
    assert identity_of(provider) == spiffe("second")


def test_the_bootstrap_may_name_istios_ca(ca: tuple[Ca, str], asking: Any, tmp_path: Path) -> None:
    files = {"token_file": str(tmp_path / "token"), "ca_certificate_file": str(tmp_path / "roots.pem")}
    provider = bootstrap_with("meshsdk.istio_ca", spiffe_id=WEB, address=ca[1], plaintext=True, **files)
    assert identity_of(provider) == WEB


def test_the_bootstrap_may_name_an_agent(sds_agent: tuple[Agent, Path]) -> None:
    (agent, path), ca = sds_agent, SpiffeCa()
    agent.push(ca.issue(WEB), ca.pem)
    assert identity_of(bootstrap_with("meshsdk.sds", socket=str(path))) == WEB


def identity_of(bootstrap: dict[str, Any]) -> str:
    with meshsdk.Mesh(bootstrap=bootstrap) as mesh:
        mesh.ssl_context()
        return str(mesh.status()["identity"]["spiffe_id"])


@pytest.mark.parametrize(
    ("plugin", "config", "error"),
    [
        ("meshsdk.workload_api", {"sockets": "/agent.sock"}, r"config\.sockets: is not known .*socket, spiffe_id"),
        ("meshsdk.sds", {"socket": 7}, r"config\.socket: must be of type str, is 7"),
        ("meshsdk.istio_ca", {"spiffe_id": 7}, r"config\.spiffe_id: must be of type str, is 7"),
        ("meshsdk.istio_ca", {"spiffe_id": WEB, "validity_seconds": True}, r"validity_seconds: must be of type int"),
    ],
)
def test_an_identity_that_the_bootstrap_names_wrongly_says_where(
    plugin: str, config: dict[str, Any], error: str
) -> None:
    with pytest.raises(meshsdk.BootstrapError, match=error):
        meshsdk.Mesh(bootstrap=bootstrap_with(plugin, **config))


def test_a_key_of_an_unknown_kind_ends_no_stream(workload_api: tuple[WorkloadApi, Path]) -> None:
    agent, path = workload_api
    ours = SpiffeCa()
    p256, unknown = bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d030177")
    agent.push((WEB, ours))
    identity = WorkloadApiIdentity(path)
    try:
        first = identity.credentials()
        strange = SvidResponse()
        strange.svids.add(
            spiffe_id=WEB,
            x509_svid=der(first.certificate),
            x509_svid_key=_pkcs8(first.private_key).replace(p256, unknown),
            bundle=der(ours.pem),
        )
        agent.responses.append(strange)
        eventually(lambda: "not supported" in identity.problem)
        agent.push((spiffe("renewed"), ours))
        eventually(lambda: identity.credentials().spiffe_id == spiffe("renewed"))
        assert identity.problem == ""
    finally:
        identity.close()


def _pkcs8(pem: bytes) -> bytes:
    return serialization.load_pem_private_key(pem, None).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def test_a_fault_that_nobody_thought_of_does_not_end_renewal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshsdk.identities.background.LONGEST_PAUSE_SECONDS", 0.01)
    key, chain = (ca := SpiffeCa()).issue(WEB)
    answers: list[Any] = [ZeroDivisionError("odd"), check_credentials(chain, key, ca.pem)]

    def fetch() -> Credentials:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, Credentials)
        return answer

    identity = RenewedIdentity(fetch, "a CA")
    try:
        with contextlib.suppress(IdentityError):
            identity.credentials()
        eventually(lambda: identity.expires_at is not None)
        assert identity.credentials().spiffe_id == WEB
        assert identity.problem == ""
    finally:
        identity.close()


def test_of_several_identities_the_one_that_was_asked_for_is_taken(workload_api: tuple[WorkloadApi, Path]) -> None:
    agent, path = workload_api
    ours = SpiffeCa()
    agent.push((WEB, ours), (spiffe("second"), ours))
    identity = WorkloadApiIdentity(path, spiffe_id=spiffe("second"))
    assert identity.credentials().spiffe_id == spiffe("second")
    identity.close()
    agent.push((WEB, ours))
    missing = WorkloadApiIdentity(path, spiffe_id=spiffe("third"))
    with pytest.raises(IdentityError, match="has no identity"):
        missing.credentials()
    missing.close()


def test_without_a_socket_it_says_what_to_set() -> None:
    with pytest.raises(IdentityError, match="SPIFFE_ENDPOINT_SOCKET"):
        WorkloadApiIdentity()


def test_an_agent_that_is_no_unix_socket_is_refused_by_name() -> None:
    with pytest.raises(IdentityError, match="'tcp://127.0.0.1:8000' is none"):
        WorkloadApiIdentity("tcp://127.0.0.1:8000")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "cannot be read"),
        ('{"trust_domains": {"a": {}}}', "cannot be read"),
        ('{"trust_domains": {"a": {"keys": [{"use": "x509-svid", "x5c": ["AA==", "AA=="]}]}}}', "cannot be read"),
        ('{"trust_domains": {"a": {"keys": []}}}', "no roots of this process's own trust domain 'cluster.local'"),
    ],
)
def test_a_bundle_map_that_cannot_be_used_says_why(tmp_path: Path, text: str, what: str) -> None:
    write_identity(tmp_path, SpiffeCa().issue(WEB), SpiffeCa().pem)
    (tmp_path / "bundles.json").write_text(text)
    identity = FileIdentity(
        tmp_path / "cert.pem", tmp_path / "key.pem", spiffe_trust_bundle_map_file=tmp_path / "bundles.json"
    )
    with pytest.raises(IdentityError, match=what):
        identity.credentials()


def test_status_and_metrics_say_how_an_identity_does(tmp_path: Path) -> None:
    # In a process of its own: a meter provider is set once, and for all.
    command = [sys.executable, "-m", "tests.identities.observed_identity", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=CLEAN_ENVIRONMENT)
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    assert told["before"]["spiffe_id"] == WEB
    assert told["before"]["problem"] == ""
    assert told["before"]["expires_at"] > told["before"]["issued_at"]
    assert "does not belong" in told["after"]["problem"]
    assert 0 < told["meshsdk.identity.remaining"] <= 3600
    assert told["meshsdk.identity.failures"] >= 1
