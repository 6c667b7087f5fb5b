"""istio.v1.auth.IstioCertificateService over the development CA, for processes that have no folder.

Whoever can read the token, which lies in the user's private folder, gets a certificate for whom the request names: it
proves the user, as the development CA does. istiod looks into a service account's token instead.
"""

from __future__ import annotations

import datetime
import hmac
import os
import secrets
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509

from .held_authority import HeldAuthority
from .istio_ca_messages import METHOD, Request, Response

__all__ = ["CertificateService"]

_MAX_REQUEST_BYTES = 16384
_LONGEST_LIFE = datetime.timedelta(hours=12)
_SHORTEST_LIFE = datetime.timedelta(minutes=1)


class CertificateService(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Signs requests of this user's processes.

    Args:
        root: The configuration whose CA it is.

    Attributes:
        token_file, roots_file: What `IstioCaIdentity` needs.

    Raises:
        OSError, ValueError: The user's private folder cannot be used.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        place = Path(root).resolve()
        self._held = HeldAuthority(place)
        self._authority = self._held.authority
        self._token = secrets.token_urlsafe(32)
        self.token_file = self._held.write_beside(".token", self._token.encode())
        self.roots_file = self._held.write_beside(".roots.pem", self._authority.pem)

    def close(self) -> None:
        """Let go of the CA."""
        self._held.release()

    def service(self, handler_call_details: Any) -> Any:
        """See grpc.GenericRpcHandler."""
        if handler_call_details.method != METHOD:
            return None
        return grpc.unary_unary_rpc_method_handler(
            self._sign, request_deserializer=Request.FromString, response_serializer=Response.SerializeToString
        )

    def _sign(self, request: Any, context: Any) -> Any:
        given = next((value for name, value in context.invocation_metadata() if name == "authorization"), "")
        if not hmac.compare_digest(str(given).encode(), f"Bearer {self._token}".encode()):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is not this control plane's; read its file again")
        text = request.csr.encode()
        life = datetime.timedelta(seconds=min(max(request.validity_duration, 0), 10**6)) or _LONGEST_LIFE
        try:
            if len(text) > _MAX_REQUEST_BYTES:
                raise ValueError(f"it is longer than {_MAX_REQUEST_BYTES} bytes")
            signed = self._authority.sign(text, _asked_name(text), max(_SHORTEST_LIFE, min(life, _LONGEST_LIFE)))
        except (ValueError, x509.ExtensionNotFound) as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the signing request cannot be used: {error}")
        return Response(cert_chain=[signed.decode(), self._authority.pem.decode()])


def _asked_name(request: bytes) -> str:
    extension = x509.load_pem_x509_csr(request).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    names = list(extension.value)
    uris = extension.value.get_values_for_type(x509.UniformResourceIdentifier)
    if len(names) != 1 or len(uris) != 1 or not uris[0].startswith("spiffe://"):
        raise ValueError("it must name one SPIFFE ID, and nothing else")
    return uris[0]
