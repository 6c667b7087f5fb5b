"""An identity from a SPIFFE Workload API, as SPIRE's agent serves it.

Source: spiffe/spiffe standards/SPIFFE_Workload_API.md and SPIFFE_Workload_Endpoint.md.
"""

from __future__ import annotations

import os
from typing import Any

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from ..errors import IdentityError
from ..security.identity import check_credentials
from ..security.trust_domains import trust_domain_of
from .streaming import StreamedIdentity, unix_target
from .workload_api_messages import METHOD, Request, Response

__all__ = ["WorkloadApiIdentity"]

_ENVIRONMENT = "SPIFFE_ENDPOINT_SOCKET"
# Without it an agent answers nobody (SPIFFE_Workload_Endpoint.md, section 3).
_METADATA = (("workload.spiffe.io", "true"),)


class WorkloadApiIdentity(StreamedIdentity):
    """Follows an agent: certificates, keys and the bundles of this and of federated trust domains.

    Args:
        socket: Path of the agent's unix socket, or a `unix:` address; by default what SPIFFE_ENDPOINT_SOCKET says.
        spiffe_id: Which identity to take where the agent has several; empty is the first, as SPIFFE says.

    Raises:
        IdentityError: No socket is named, or an address that is none of a unix socket.
    """

    def __init__(self, socket: str | os.PathLike[str] | None = None, *, spiffe_id: str = "") -> None:
        named = os.fspath(socket) if socket is not None else os.environ.get(_ENVIRONMENT, "")
        if not named:
            raise IdentityError(f"no Workload API socket is named: pass it, or set {_ENVIRONMENT}")
        if named.startswith("tcp:"):
            raise IdentityError(f"the Workload API is asked over a unix socket, and {named!r} is none: name its socket")
        self._spiffe_id = spiffe_id
        target = unix_target(named.replace("unix://", "unix:"))
        super().__init__(target, f"the Workload API at {target}")

    def open(self, channel: grpc.Channel) -> Any:
        """See `StreamedIdentity`."""
        stream = channel.unary_stream(
            METHOD, request_serializer=Request.SerializeToString, response_deserializer=Response.FromString
        )
        return stream(Request(), metadata=_METADATA)

    def take(self, message: Any) -> None:
        """See `StreamedIdentity`."""
        svid = next((one for one in message.svids if self._spiffe_id in ("", one.spiffe_id)), None)
        if svid is None:
            known = ", ".join(one.spiffe_id for one in message.svids) or "none"
            raise IdentityError(f"the agent has no identity {self._spiffe_id!r} for this process (it has: {known})")
        own_domain = trust_domain_of(svid.spiffe_id)
        bundles = {trust_domain_of(name): _pem(bundle) for name, bundle in message.federated_bundles.items()}
        bundles[own_domain] = _pem(svid.bundle)
        credentials = check_credentials(_pem(svid.x509_svid), _key(svid.x509_svid_key), bundles[own_domain], bundles)
        if credentials.spiffe_id != svid.spiffe_id:
            raise IdentityError(f"the certificate is {credentials.spiffe_id!r}'s, and not {svid.spiffe_id!r}'s")
        self._succeed(credentials)


def _pem(der: bytes) -> bytes:
    """Certificates one after the other, as PEM."""
    certificates = []
    while der:
        length = _length(der)
        try:
            certificates.append(x509.load_der_x509_certificate(der[:length]))
        except ValueError as error:
            raise IdentityError(f"a certificate cannot be read: {error}") from error
        der = der[length:]
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)


def _length(der: bytes) -> int:
    """How long the first DER object is, with its head (X.690, 8.1.3)."""
    if len(der) < 2:
        raise IdentityError("a certificate is cut off")
    if der[1] < 0x80:
        return 2 + der[1]
    size = der[1] & 0x7F
    return 2 + size + int.from_bytes(der[2 : 2 + size], "big")


def _key(der: bytes) -> bytes:
    try:
        key = serialization.load_der_private_key(der, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IdentityError(f"the private key cannot be read: {error}") from error
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
