"""Who the peer is by its certificate, and whether that is whom the configuration asks for.

The chain itself has been verified by the TLS handshake. Here its names and its fingerprints are compared with the
settings (CertificateValidationContext): one matcher must match one name, and one pin must be the certificate's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from msgspec import Struct

from ..errors import PeerIdentityError
from ..resources import SanMatcher, StringMatchKind, TlsTrust
from ..routing.string_match import compile_string

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["PeerCertificate", "check_peer", "compile_san", "read_peer"]


class PeerCertificate(Struct, frozen=True):
    """A verified certificate of a peer.

    Attributes:
        names: Its subject alternative names: kind (`URI`, `DNS`, `IP`, `EMAIL`) and value, in order.
        subject: As Envoy writes it (RFC 2253).
        sha256: Of the certificate, in hexadecimal.
        der: The certificate.
        principals: What Envoy takes for its names in RBAC: URIs and DNS names, and the subject.
        spiffe_id: Its SPIFFE ID; empty where it has none, or more than one URI (SPIFFE X509-SVID, section 2).
    """

    names: tuple[tuple[str, str], ...]
    subject: str
    sha256: str
    der: bytes
    principals: tuple[str, ...]
    spiffe_id: str

    def values(self, kind: str) -> list[str]:
        """The names of one kind."""
        return [value for one, value in self.names if one == kind]


@lru_cache(maxsize=1024)
def read_peer(der: bytes) -> PeerCertificate:
    """What a certificate says of its owner.

    Raises:
        PeerIdentityError: It does not parse, or has names that do not.
    """
    from cryptography import x509  # Nobody pays for cryptography who meets no certificate.

    try:
        certificate = x509.load_der_x509_certificate(der)
        names = _names(certificate)
        subject = certificate.subject.rfc4514_string()
    except ValueError as error:
        raise PeerIdentityError(f"the peer's certificate cannot be read: {error}") from error
    principals = tuple(value for kind, value in names if kind in ("URI", "DNS"))
    uris = [value for kind, value in names if kind == "URI"]
    spiffe_id = uris[0] if len(uris) == 1 and uris[0].startswith("spiffe://") else ""
    return PeerCertificate(names, subject, hashlib.sha256(der).hexdigest(), der, (*principals, subject), spiffe_id)


def _names(certificate: x509.Certificate) -> tuple[tuple[str, str], ...]:
    from cryptography import x509

    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple((_KINDS[type(name).__name__], str(name.value)) for name in extension if type(name).__name__ in _KINDS)


# By the names of cryptography's classes.
_KINDS = {"UniformResourceIdentifier": "URI", "DNSName": "DNS", "IPAddress": "IP", "RFC822Name": "EMAIL"}


def check_peer(der: bytes | None, trust: TlsTrust) -> None:
    """Refuse a peer whose certificate is not what `trust` asks for.

    Args:
        der: The peer's certificate, None where it showed none.
        trust: Names, of which one must match, and pins, of which one must be the certificate's.

    Raises:
        PeerIdentityError: The message says what the peer has and what was wanted.
    """
    if der is None:
        raise PeerIdentityError("the peer shows no certificate")
    peer = read_peer(der)
    if trust.san_matchers and not any(compile_san(matcher)(peer) for matcher in trust.san_matchers):
        shown = ", ".join(f"{kind}:{value}" for kind, value in peer.names) or "no alternative names"
        asked = ", ".join(
            f"{matcher.kind or 'any'} {matcher.value.kind.value} {matcher.value.value!r}"
            for matcher in trust.san_matchers
        )
        raise PeerIdentityError(f"the peer's certificate has {shown}; the cluster asks for {asked}")
    if not trust.spki_hashes and not trust.certificate_hashes:
        return
    # Envoy: with both lists, a match in either is enough (CertificateValidationContext.verify_certificate_hash).
    if bytes.fromhex(peer.sha256) in trust.certificate_hashes or _spki_hash(der) in trust.spki_hashes:
        return
    raise PeerIdentityError(f"the peer's certificate (SHA-256 {peer.sha256}) is none of those that are pinned")


def _spki_hash(der: bytes) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    key = x509.load_der_x509_certificate(der).public_key()
    encoded = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).digest()


def compile_san(matcher: SanMatcher) -> Callable[[PeerCertificate], bool]:
    """A function that says whether a certificate has a name that matches."""
    test = compile_string(matcher.value)

    def has_name(peer: PeerCertificate) -> bool:
        return any(
            matcher.kind in (None, kind) and (test(value) or _dns_wildcard_matches(matcher, kind, value))
            for kind, value in peer.names
        )

    return has_name


def _dns_wildcard_matches(matcher: SanMatcher, kind: str, name: str) -> bool:
    """A certificate for *.example.com is one for a.example.com (Envoy: Utility::dnsNameMatch, exact matchers only)."""
    if kind != "DNS" or not name.startswith("*.") or matcher.value.kind is not StringMatchKind.EXACT:
        return False
    first_label, _, rest = matcher.value.value.lower().partition(".")
    return bool(first_label) and rest == name[2:].lower()
