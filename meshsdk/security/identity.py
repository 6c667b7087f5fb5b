"""A process's identity: the certificate it shows, its key, and the roots that it trusts.

Whatever an identity comes from (files, an agent, a certificate authority), it is one object whose `credentials` are
always whole: they are made, checked, and then put in place by one assignment. Rotation replaces them long before they
expire; what goes wrong leaves the last good ones in use, and is told by `problem`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from ..errors import IdentityError
from ..mesh_status import IdentityStatus

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["Credentials", "Identity", "check_credentials", "describe_identity", "spiffe_id_of"]


@dataclass(frozen=True, slots=True)
class Credentials:
    """One version of an identity, as PEM.

    Attributes:
        certificate: The leaf first, then what leads to the roots.
        private_key: The leaf's; PKCS#8.
        roots: What peers are trusted by.
        spiffe_id: The leaf's SPIFFE ID; empty where it has none.
        expires_at: The end of the leaf's validity, in seconds since the epoch.
        issued_at: Its beginning.
        bundles: Roots by trust domain, as PEM, where other domains are trusted too; `roots` are the own domain's.
    """

    certificate: bytes
    private_key: bytes
    roots: bytes
    spiffe_id: str = ""
    issued_at: float = 0.0
    expires_at: float = 0.0
    bundles: Mapping[str, bytes] = field(default_factory=dict, hash=False)

    def __repr__(self) -> str:
        """Without the key, which belongs into no log."""
        expiry = datetime.fromtimestamp(self.expires_at, UTC).isoformat() if self.expires_at else "unknown"
        return f"Credentials(spiffe_id={self.spiffe_id!r}, expires_at={expiry})"


class Identity(Protocol):
    """Gives credentials, and keeps them fresh."""

    @property
    def problem(self) -> str:
        """Why the credentials may not be fresh; empty where all is well."""

    def credentials(self) -> Credentials:
        """The current ones. Waits for the first ones, as long as that may take; later it never waits.

        Raises:
            IdentityError: There are none; it says why.
        """

    def close(self) -> None:
        """Stop renewing. The last credentials stay."""


def describe_identity(identity: Identity) -> IdentityStatus:
    """For `Mesh.status()`: it asks nobody, and so says nothing of an identity that was never used."""
    expires_at = getattr(identity, "expires_at", None)
    known = identity.credentials() if expires_at is not None else None
    return {
        "spiffe_id": known.spiffe_id if known is not None else "",
        "issued_at": datetime.fromtimestamp(known.issued_at, UTC).isoformat() if known is not None else "",
        "expires_at": datetime.fromtimestamp(known.expires_at, UTC).isoformat() if known is not None else "",
        "trust_domains": sorted(known.bundles) if known is not None else [],
        "problem": identity.problem,
    }


def check_credentials(
    certificate: bytes, private_key: bytes, roots: bytes, bundles: Mapping[str, bytes] = MappingProxyType({})
) -> Credentials:
    """Credentials, where certificate, key and roots are what they should be.

    Raises:
        IdentityError: Something does not parse, or the key is not the certificate's.
    """
    from cryptography import x509  # Nobody pays for cryptography who has no identity.
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    try:
        chain = x509.load_pem_x509_certificates(certificate)
        key = serialization.load_pem_private_key(private_key, password=None)
        for each in (roots, *filter(None, bundles.values())):
            x509.load_pem_x509_certificates(each)
        leaf = chain[0]
        is_own = key.public_key().public_bytes(*form) == leaf.public_key().public_bytes(*form)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IdentityError(f"the certificate, key or roots cannot be read: {error}") from error
    if not is_own:
        raise IdentityError("the private key does not belong to the certificate")
    return Credentials(
        certificate=certificate,
        private_key=private_key,
        roots=roots,
        spiffe_id=spiffe_id_of(leaf),
        issued_at=leaf.not_valid_before_utc.timestamp(),
        expires_at=leaf.not_valid_after_utc.timestamp(),
        bundles=dict(bundles),
    )


def spiffe_id_of(certificate: x509.Certificate) -> str:
    """The SPIFFE ID of a certificate; empty where it has none, or more than one URI (SPIFFE X509-SVID, section 2)."""
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ""
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uris[0] if len(uris) == 1 and uris[0].startswith("spiffe://") else ""
