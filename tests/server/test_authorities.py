"""Authorities as istiod, cert-manager and people with openssl make them: good for every server and client of ours.

Python's own contexts check more since 3.13 (VERIFY_X509_STRICT) than Envoy and gRPC do; ours check what Envoy checks,
on every version.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from cryptography import x509

from meshsdk.identities import DevelopmentIdentity

from ..certificates import MakeAuthority, SpiffeCa, spiffe
from ..conftest import service
from ..patience import PATIENCE
from .grpc_servers import aio_grpc_server, sync_grpc_server
from .running import identity, mesh_of, one_port, peer_authentication, serving
from .test_attacks import echo

Builder = x509.CertificateBuilder


def usage(**fields: bool) -> x509.KeyUsage:
    names = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign"
        " encipher_only decipher_only"
    ).split()
    return x509.KeyUsage(**{name: fields.get(name, False) for name in names})


def istiod(builder: Builder, key: Any) -> Builder:
    """security/pkg/pki/util/generate_cert.go: KeyUsageCertSign, BasicConstraintsValid, IsCA; Go adds the identifier."""
    return (
        builder.add_extension(x509.BasicConstraints(True, None), critical=True)
        .add_extension(usage(key_cert_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def cert_manager(builder: Builder, key: Any) -> Builder:
    """A Certificate with isCA: the usages that it gives unless told otherwise, and those of an authority."""
    fields = usage(digital_signature=True, key_encipherment=True, key_cert_sign=True)
    return (
        builder.add_extension(fields, critical=True)
        .add_extension(x509.BasicConstraints(True, None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def openssl(builder: Builder, key: Any) -> Builder:
    """`openssl req -x509` with its own configuration: no key usage."""
    return builder.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
    ).add_extension(x509.BasicConstraints(True, None), critical=True)


def bare(builder: Builder, key: Any) -> Builder:
    """The least that makes an authority: no identifier, no usage, constraints that are not critical."""
    return builder.add_extension(x509.BasicConstraints(True, None), critical=False)


AUTHORITIES: dict[str, MakeAuthority] = {
    "istiod": istiod,
    "cert-manager": cert_manager,
    "openssl": openssl,
    "bare": bare,
}
MUTUAL = (
    "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: web}\n"
    "spec: {host: web, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}\n"
)


@pytest.fixture(params=AUTHORITIES)
def ca(request: pytest.FixtureRequest) -> SpiffeCa:
    """A root of this kind, with an authority of the same kind below it."""
    return SpiffeCa("between", SpiffeCa("root", make=AUTHORITIES[request.param]), AUTHORITIES[request.param])


@pytest.fixture
def roots(ca: SpiffeCa) -> bytes:
    assert ca.above is not None
    return ca.above.pem


def test_web_servers_and_clients_take_it(tmp_path: Path, ca: SpiffeCa, roots: bytes) -> None:
    port = one_port()
    yaml = service("web", port) + peer_authentication("STRICT") + MUTUAL
    with (
        mesh_of(tmp_path, yaml, identity(tmp_path, ca, "web", roots=roots), "serving") as server,
        serving(echo, server, port),
        mesh_of(tmp_path, yaml, identity(tmp_path, ca, "caller", roots=roots), "calling") as mesh,
        mesh.client() as client,
    ):
        assert client.get("http://web/").status_code == 200


@pytest.mark.parametrize("serve", [sync_grpc_server, aio_grpc_server])
def test_grpc_servers_and_channels_take_it(
    tmp_path: Path, ca: SpiffeCa, roots: bytes, serve: Callable[..., Any]
) -> None:
    port = one_port()
    yaml = service("web", port) + peer_authentication("STRICT") + MUTUAL
    with (
        mesh_of(tmp_path, yaml, identity(tmp_path, ca, "web", roots=roots), "serving") as server,
        serve(server, port),
        mesh_of(tmp_path, yaml, identity(tmp_path, ca, "caller", roots=roots), "calling") as mesh,
        mesh.channel("web:80") as channel,
    ):
        assert channel.unary_unary("/test.Echo/Say")(b"", timeout=PATIENCE) != b""


def test_a_client_of_grpcs_own_takes_it(tmp_path: Path, ca: SpiffeCa, roots: bytes) -> None:
    port = one_port()
    yaml = service("web", port) + peer_authentication("STRICT")
    private, chain = ca.issue(spiffe("caller"))
    with (
        mesh_of(tmp_path, yaml, identity(tmp_path, ca, "web", roots=roots, dns=("localhost",))) as server,
        sync_grpc_server(server, port),
        grpc.secure_channel(f"localhost:{port}", grpc.ssl_channel_credentials(roots, private, chain)) as channel,
    ):
        assert channel.unary_unary("/test.Echo/Say")(b"", timeout=PATIENCE) != b""


@pytest.mark.parametrize("who", ["development", "tests"])
def test_authorities_of_our_own_pass_strict_checks(tmp_path: Path, who: str) -> None:
    port = one_port()
    own = (
        DevelopmentIdentity(tmp_path / "mesh", spiffe("web"))
        if who == "development"
        else identity(tmp_path, SpiffeCa(), "web")
    )
    yaml = service("web", port) + peer_authentication("STRICT")
    with mesh_of(tmp_path, yaml, own) as server, serving(echo, server, port):
        held = own.credentials()
        context = ssl.create_default_context(cadata=held.roots.decode())
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.check_hostname = False
        (tmp_path / "cert.pem").write_bytes(held.certificate)
        (tmp_path / "key.pem").write_bytes(held.private_key)
        context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
        assert httpx.get(f"https://127.0.0.1:{port}/", verify=context).status_code == 200
