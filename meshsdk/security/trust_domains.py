"""SPIFFE trust bundles: each trust domain has roots of its own, and vouches for its own names only.

OpenSSL verifies a chain by the roots of all domains; afterwards the chain's root must be one of the domain that the
peer's SPIFFE ID names. Otherwise a CA of one domain could make itself anybody of another.

Sources: gRFC A87; spiffe/spiffe standards/SPIFFE_Trust_Domain_and_Bundle.md.
"""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from msgspec import Struct

from ..errors import IdentityError, PeerIdentityError
from .peer_identity import read_peer

__all__ = [
    "PeerChain",
    "check_trust_domain",
    "fingerprints",
    "parse_bundle_map",
    "peer_chain",
    "sent_chain",
    "trust_domain_of",
]

_MAX_CHAIN = 16


class PeerChain(Struct, frozen=True):
    """What a peer's chain was, when it was verified.

    Attributes:
        leaf: Its certificate, DER.
        fingerprints: SHA-256 of each certificate of the chain, the root included; empty where it is not known, as after
            a resumed handshake.
    """

    leaf: bytes
    fingerprints: frozenset[bytes]


def peer_chain(secured: ssl.SSLObject | ssl.SSLSocket) -> PeerChain | None:
    """The chain of a connection's peer; None where it showed no certificate."""
    leaf = secured.getpeercert(binary_form=True)
    if leaf is None:
        return None
    return PeerChain(leaf, frozenset(hashlib.sha256(one).digest() for one in _verified_chain(secured)))


def sent_chain(secured: ssl.SSLObject | ssl.SSLSocket) -> tuple[bytes, ...]:
    """The certificates that a peer has sent, its own first, as DER; none where that is not known."""
    return tuple(_certificates(secured, "get_unverified_chain")) if secured.getpeercert(binary_form=True) else ()


def _verified_chain(secured: ssl.SSLObject | ssl.SSLSocket) -> list[bytes]:
    return _certificates(secured, "get_verified_chain")


def _certificates(secured: ssl.SSLObject | ssl.SSLSocket, name: str) -> list[bytes]:
    # Public since Python 3.13, and there before as a method of the inner object.
    inner = getattr(secured, name, None) or getattr(getattr(secured, "_sslobj", None), name, None)
    found: list[Any] = list((inner() if inner is not None else None) or ())
    return [one if isinstance(one, bytes) else _der(one) for one in found[:_MAX_CHAIN]]


def _der(certificate: Any) -> bytes:
    return ssl.PEM_cert_to_DER_cert(certificate.public_bytes())


@lru_cache(maxsize=256)
def fingerprints(pem: bytes) -> frozenset[bytes]:
    """SHA-256 of each certificate of a PEM text.

    Raises:
        ValueError: It does not parse.
    """
    from cryptography import x509  # Nobody pays for cryptography who meets no certificate.
    from cryptography.hazmat.primitives.serialization import Encoding

    certificates = x509.load_pem_x509_certificates(pem)
    return frozenset(hashlib.sha256(one.public_bytes(Encoding.DER)).digest() for one in certificates)


def check_trust_domain(chain: PeerChain, bundles: Mapping[str, bytes]) -> None:
    """Refuse a peer whose chain does not end in its own trust domain's roots.

    Raises:
        PeerIdentityError: It has no SPIFFE ID, its domain has no bundle, another domain's root has vouched for it, or
            its certificate may sign others.
    """
    peer = read_peer(chain.leaf)
    if not peer.spiffe_id:
        raise PeerIdentityError("the peer has no SPIFFE ID, and peers are trusted by their trust domains")
    if not _is_leaf(chain.leaf):
        raise PeerIdentityError(f"the peer is {peer.spiffe_id!r}, but its certificate is none of a workload's")
    domain = trust_domain_of(peer.spiffe_id)
    roots = bundles.get(domain)
    if roots is None:
        known = ", ".join(sorted(bundles))
        raise PeerIdentityError(f"the peer is {peer.spiffe_id!r}; there is no bundle of its trust domain (of: {known})")
    if not chain.fingerprints & fingerprints(roots):
        raise PeerIdentityError(f"the peer is {peer.spiffe_id!r}, but no root of its trust domain vouches for it")


def _is_leaf(der: bytes) -> bool:
    """SPIFFE X509-SVID, section 5.2, as Envoy has it: no authority's certificate, and it says what its key is for."""
    from cryptography import x509

    try:
        extensions = x509.load_der_x509_certificate(der).extensions
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except (ValueError, x509.ExtensionNotFound):
        return False
    try:
        is_authority = extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_authority = False
    return not (is_authority or usage.key_cert_sign or usage.crl_sign)


def trust_domain_of(name: str) -> str:
    """The trust domain of a SPIFFE ID, or of itself."""
    return name.removeprefix("spiffe://").partition("/")[0]


def parse_bundle_map(text: bytes) -> dict[str, bytes]:
    """Roots by trust domain, as PEM, of a SPIFFE bundle map file (gRFC A87).

    Raises:
        IdentityError: It is none; keys that are not for X.509 are passed over.
    """
    try:
        domains = json.loads(text)["trust_domains"]
        return {str(name): _roots(bundle["keys"]) for name, bundle in domains.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise IdentityError(f"the SPIFFE bundle map cannot be read: {type(error).__name__}: {error}") from error


def _roots(keys: list[dict[str, Any]]) -> bytes:
    """gRFC A87: each X.509 key has exactly one certificate in x5c."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    pem = b""
    for key in keys:
        if key.get("use") != "x509-svid":
            continue
        [only] = key["x5c"]
        certificate = x509.load_der_x509_certificate(base64.b64decode(only, validate=True))
        pem += certificate.public_bytes(Encoding.PEM)
    return pem
