"""Whether a peer is to be let in, found out from what it has sent, after its handshake.

For servers of somebody else's, whose handshakes cannot be asked for everything (grpc's take no revocation lists) and
whose connections outlive the trust that they were made under. The handshake has verified the chain by the roots of its
time; here the roots, names, pins and revocation lists of now are asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from ..errors import PeerIdentityError, ResourceError
from ..resources import PemSource, TlsFile, TlsTrust
from ..resources.tls import BundleSource
from .peer_identity import check_peer
from .tls_context import system_roots_stamp
from .trust_domains import PeerChain, check_trust_domain

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["check_sent", "read_trust", "revocation_lists", "trust_stamp", "vouches"]

_MAX_CHAIN = 16
_LIST_END = b"-----END X509 CRL-----"


def trust_stamp(trust: TlsTrust) -> object:
    """What is another one when the texts of some trust may have changed.

    Raises:
        OSError: There is no text.
    """
    stamps = [source.stamp() for source in (trust.trusted_ca, trust.crl, trust.bundles) if source is not None]
    return (*stamps, system_roots_stamp()) if trust.trusted_ca is None and trust.bundles is None else tuple(stamps)


def read_trust(trust: TlsTrust) -> TlsTrust:
    """Trust with its texts read, and found to be good.

    Args:
        trust: With every name resolved.

    Raises:
        ResourceError: A text cannot be had, or is none.
    """
    roots = _read(trust.trusted_ca, "validation_context.trusted_ca", _certificates)
    lists = _read(trust.crl, "validation_context.crl", revocation_lists)
    bundles = _read_bundles(trust.bundles) if trust.bundles is not None else None
    return replace(trust, trusted_ca=roots, crl=lists, bundles=bundles)


class _ReadBundles(Struct, frozen=True):
    """Roots by trust domain, as they were read."""

    domains: tuple[tuple[str, bytes], ...]

    def stamp(self) -> object:
        """See `BundleSource`."""
        return self.domains

    def read_bundles(self) -> Mapping[str, bytes]:
        """See `BundleSource`."""
        return dict(self.domains)


def _read_bundles(source: BundleSource) -> _ReadBundles:
    try:
        bundles = source.read_bundles()
        for text in bundles.values():
            _certificates(text)
    except (OSError, ValueError) as error:
        raise ResourceError("validation_context", f"trust domains cannot be used: {error}") from error
    return _ReadBundles(tuple(bundles.items()))


def _read(source: PemSource | None, where: str, parse: Callable[[bytes], Sequence[object]]) -> TlsFile | None:
    if source is None:
        return None
    try:
        text = source.read()
        if not parse(text):
            raise ResourceError(where, "is empty")
    except (OSError, ValueError) as error:
        raise ResourceError(where, f"cannot be used: {error}") from error
    return TlsFile(inline=text)


def check_sent(sent: Sequence[bytes], trust: TlsTrust) -> None:
    """Refuse a peer that would not be let in now.

    Args:
        sent: The certificates that it has sent, its own first, as DER.
        trust: As `read_trust` gives it.

    Raises:
        PeerIdentityError: It says why.
    """
    from cryptography import x509  # Nobody pays for cryptography who meets no certificate.

    check_peer(sent[0] if sent else None, trust)
    try:
        certificates = [x509.load_der_x509_certificate(one) for one in sent[:_MAX_CHAIN]]
    except ValueError as error:
        raise PeerIdentityError(f"the peer's certificates cannot be read: {error}") from error
    roots = _certificates(trust.trusted_ca.read()) if trust.trusted_ca is not None else None
    bundles = trust.bundles.read_bundles() if trust.bundles is not None else {}
    if bundles:
        roots = [root for text in bundles.values() for root in _certificates(text)]
    chain = _chain(certificates, roots)
    if bundles:
        check_trust_domain(PeerChain(sent[0], frozenset(map(_fingerprint, chain))), bundles)
    if trust.crl is not None:
        _check_revocation(chain, revocation_lists(trust.crl.read()), of_leaf_only=trust.crl_of_leaf_only)


def vouches(roots: bytes, chain: bytes) -> bool:
    """Whether roots vouch for a certificate; both as PEM, the chain leaf first."""
    try:
        _chain(_certificates(chain), _certificates(roots))
    except PeerIdentityError:
        return False
    return True


def _chain(sent: Sequence[x509.Certificate], roots: Iterable[x509.Certificate] | None) -> list[x509.Certificate]:
    """From the peer's certificate to a root.

    Raises:
        PeerIdentityError: No root vouches for it.
    """
    chain = [sent[0]]
    known = list(roots) if roots is not None else []
    for _ in range(_MAX_CHAIN):
        last = chain[-1]
        if last in known:
            return chain
        root = next((one for one in known if _has_issued(one, last)), None)
        if root is not None:
            return [*chain, root]
        issuer = next((one for one in sent[1:] if one not in chain and _has_issued(one, last)), None)
        if issuer is None:
            break
        chain.append(issuer)
    # The system's roots are not looked through again.
    if roots is None:
        return chain
    raise PeerIdentityError("the peer's certificate is not vouched for by any root that is trusted now")


def _has_issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    try:
        certificate.verify_directly_issued_by(issuer)
        return issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError, x509.ExtensionNotFound):
        return False


def _check_revocation(
    chain: Sequence[x509.Certificate], lists: Sequence[x509.CertificateRevocationList], *, of_leaf_only: bool
) -> None:
    """Each certificate needs a list of its issuer's, as in Envoy; a list that has run out is none.

    Raises:
        PeerIdentityError: One is revoked, or nobody can say.
    """
    now = datetime.now(UTC)
    # A root has issued itself.
    for certificate, issuer in zip(chain, [*chain[1:], chain[-1]], strict=True):
        name = certificate.issuer.rfc4514_string()
        of_issuer = [one for one in lists if one.issuer == certificate.issuer and _has_signed(issuer, one)]
        if not of_issuer:
            raise PeerIdentityError(f"there is no revocation list of {name!r}, who is in the peer's chain")
        current = [one for one in of_issuer if one.next_update_utc is None or one.next_update_utc > now]
        if not current:
            raise PeerIdentityError(f"the revocation list of {name!r} has run out")
        if any(one.get_revoked_certificate_by_serial_number(certificate.serial_number) for one in current):
            raise PeerIdentityError("the peer's certificate is revoked, or one that vouches for it")
        if of_leaf_only:
            return


def _has_signed(issuer: x509.Certificate, revoked: x509.CertificateRevocationList) -> bool:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return revoked.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (UnsupportedAlgorithm, TypeError, ValueError):
        return False


def _fingerprint(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives import hashes

    return certificate.fingerprint(hashes.SHA256())


def _certificates(text: bytes) -> list[x509.Certificate]:
    from cryptography import x509

    return x509.load_pem_x509_certificates(text)


def revocation_lists(text: bytes) -> list[x509.CertificateRevocationList]:
    """Those of a PEM text, in which other things may stand.

    Raises:
        ValueError: One does not parse.
    """
    from cryptography import x509

    pieces = text.split(_LIST_END)[:-1]
    return [x509.load_pem_x509_crl(one[one.index(b"-----BEGIN X509 CRL") :] + _LIST_END) for one in pieces]
