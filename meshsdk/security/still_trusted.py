"""Whether a peer that was verified once would be let in again, now that trust has changed."""

from __future__ import annotations

from ..errors import PeerIdentityError
from ..resources import TlsTrust
from .peer_identity import check_peer
from .second_look import revocation_lists
from .trust_domains import PeerChain, check_trust_domain, fingerprints

__all__ = ["still_trusted"]


def still_trusted(chain: PeerChain, trust: TlsTrust) -> bool:
    """Whether the roots, names, pins and revocation lists of now take a peer that those of before took.

    A chain that is not known, as after a resumed handshake, is trusted no more; what cannot be read says nothing new.

    Args:
        chain: Of the peer, when it was verified.
        trust: As it is now, with every name resolved.
    """
    try:
        check_peer(chain.leaf, trust)
        bundles = trust.bundles.read_bundles() if trust.bundles is not None else {}
        if bundles:
            check_trust_domain(chain, bundles)
        elif trust.trusted_ca is not None and not chain.fingerprints & fingerprints(trust.trusted_ca.read()):
            return False
        return trust.crl is None or not _is_revoked(chain.leaf, trust.crl.read())
    except PeerIdentityError:
        return False
    except (OSError, ValueError):
        return True


def _is_revoked(leaf: bytes, lists: bytes) -> bool:
    from cryptography import x509  # Nobody pays for cryptography who meets no certificate.

    certificate = x509.load_der_x509_certificate(leaf)
    return any(
        one.issuer == certificate.issuer
        and one.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None
        for one in revocation_lists(lists)
    )
