"""Identities, trust and TLS.

Enters: TLS settings of clusters and filter chains, and where the process's own identity comes from. Leaves:
`ssl.SSLContext`s, and the check that a peer is who the settings say.
"""

from .identity import Credentials, Identity
from .peer_identity import PeerCertificate, check_peer, read_peer
from .second_look import check_sent, read_trust, trust_stamp
from .secrets import NO_SECRETS, Secrets
from .still_trusted import still_trusted
from .tls_context import TlsClientContext, make_client_context, make_server_context, tell_of_broken_ends
from .trust_domains import PeerChain, check_trust_domain, peer_chain

__all__ = [
    "NO_SECRETS",
    "Credentials",
    "Identity",
    "PeerCertificate",
    "PeerChain",
    "Secrets",
    "TlsClientContext",
    "check_peer",
    "check_sent",
    "check_trust_domain",
    "make_client_context",
    "make_server_context",
    "peer_chain",
    "read_peer",
    "read_trust",
    "still_trusted",
    "tell_of_broken_ends",
    "trust_stamp",
]
