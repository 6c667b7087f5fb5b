"""A real CA whose certificates carry SPIFFE identities, as files that can be rotated."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["SpiffeCa", "spiffe"]

Pair = tuple[bytes, bytes]


def spiffe(service_account: str, trust_domain: str = "cluster.local") -> str:
    """Istio's identity of a service account."""
    return f"spiffe://{trust_domain}/ns/default/sa/{service_account}"


def _usage(may_sign: bool, *, is_authority: bool = False) -> x509.KeyUsage:
    unused = dict.fromkeys(
        "content_commitment data_encipherment key_agreement encipher_only decipher_only".split(), False
    )
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_encipherment=not is_authority,
        key_cert_sign=may_sign,
        crl_sign=is_authority,
        **unused,
    )


MakeAuthority = Callable[[x509.CertificateBuilder, ec.EllipticCurvePrivateKey], x509.CertificateBuilder]


def _strict(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    """Basic constraints, key usage and both key identifiers, as Python's own contexts ask for since 3.13."""
    public = key.public_key()
    return (
        builder.add_extension(x509.BasicConstraints(True, None), critical=True)
        .add_extension(_usage(True, is_authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


class SpiffeCa:
    """Issues certificates.

    Args:
        name: What it calls itself.
        above: The authority that vouches for it; None makes it a root.
        make: Adds its extensions; by default those that OpenSSL's strict checks ask for.

    Attributes:
        pem: Its own certificate.
        above: As given.
    """

    def __init__(self, name: str = "test CA", above: SpiffeCa | None = None, make: MakeAuthority | None = None) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.above = above
        issuer = above or self
        builder = (make or _strict)(issuer._builder(self._name, self._key.public_key(), -3600, 86400), self._key)
        certificate = builder.sign(issuer._key, hashes.SHA256())
        self.pem = certificate.public_bytes(serialization.Encoding.PEM)
        # What its certificates must be shown with.
        self._chain = self.pem if above is not None else b""

    def issue(
        self, *uris: str, dns: tuple[str, ...] = (), starts: float = -60, ends: float = 3600, may_sign: bool = False
    ) -> Pair:
        """Key and certificate chain, as PEM; `starts` and `ends` in seconds from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [*map(x509.UniformResourceIdentifier, uris), *map(x509.DNSName, dns)]
        certificate = (
            self._builder(x509.Name([]), key.public_key(), starts, ends)
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(_usage(may_sign), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return private, certificate.public_bytes(serialization.Encoding.PEM) + self._chain

    def revocation_list(self, *revoked: bytes, ends: float = 86400) -> bytes:
        """PEM of its list of certificates that are revoked; each is the first of a PEM text. It ends in so many
        seconds."""
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(now - datetime.timedelta(minutes=10))
            .next_update(now + datetime.timedelta(seconds=ends))
        )
        for text in revoked:
            serial = x509.load_pem_x509_certificates(text)[0].serial_number
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, starts: float, ends: float
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(seconds=starts))
            .not_valid_after(now + datetime.timedelta(seconds=ends))
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )


def write_identity(folder: Path, pair: Pair, roots: bytes) -> None:
    """Key, certificate and roots as a certificate provider's files, each replaced in one step."""
    folder.mkdir(exist_ok=True, parents=True)
    for name, content in (("key.pem", pair[0]), ("cert.pem", pair[1]), ("roots.pem", roots)):
        fresh = folder / f"{name}.new"
        fresh.write_bytes(content)
        os.replace(fresh, folder / name)


def provider(folder: Path) -> dict[str, object]:
    """The bootstrap's certificate_providers with those files as `default`."""
    files = {
        "certificate_file": str(folder / "cert.pem"),
        "private_key_file": str(folder / "key.pem"),
        "ca_certificate_file": str(folder / "roots.pem"),
    }
    return {"default": {"plugin_name": "file_watcher", "config": {**files, "refresh_interval": "1s"}}}
