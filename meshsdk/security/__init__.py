"""Identities, trust and TLS.

Enters: TLS settings of clusters. Leaves: `ssl.SSLContext`s, and the check that a peer is who the settings say.
"""

from .certificate_provider import Providers, with_provider_files
from .peer_identity import check_peer
from .tls_context import TlsClientContext, make_client_context

__all__ = ["Providers", "TlsClientContext", "check_peer", "make_client_context", "with_provider_files"]
