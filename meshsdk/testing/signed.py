"""Identities of the workloads of a test, by an authority that lives in memory."""

from __future__ import annotations

from ..identities.certificate_authority import CertificateAuthority
from ..identities.signing_request import make_signing_request
from ..security import Credentials
from ..security.identity import check_credentials

__all__ = ["SignedIdentity"]


class SignedIdentity:
    """A certificate for a SPIFFE ID that outlives the test (see `security.Identity`)."""

    problem = ""

    def __init__(self, authority: CertificateAuthority, spiffe_id: str) -> None:
        private, request = make_signing_request(spiffe_id)
        self._credentials = check_credentials(authority.sign(request, spiffe_id), private, authority.pem)

    @property
    def expires_at(self) -> float:
        """When its certificate ends, in seconds since the epoch."""
        return self._credentials.expires_at

    def credentials(self) -> Credentials:
        """See `security.Identity`."""
        return self._credentials

    def close(self) -> None:
        """See `security.Identity`."""
