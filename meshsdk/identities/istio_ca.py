"""An identity from Istio's certificate authority (istio.v1.auth.IstioCertificateService).

Sources: istio/api security/v1alpha1/ca.proto; istio/istio security/pkg/nodeagent/caclient/providers/citadel/client.go
and security/pkg/nodeagent/cache/secretcache.go.
"""

from __future__ import annotations

import os
from pathlib import Path

import grpc

from ..errors import IdentityError
from ..istio_pod import ROOTS_FILE, TOKEN_FILE
from ..resources.tls import file_stamp
from ..security import Credentials
from ..security.identity import check_credentials
from ..service_account_token import read_token
from .istio_ca_messages import METHOD, Request, Response
from .renewal import RenewedIdentity
from .signing_request import KeyKind, make_signing_request

__all__ = ["IstioCaIdentity"]

# Asked for where nobody has said which; istiod certifies for its own whatever it is asked.
_TRUST_DOMAIN = "cluster.local"
_TIMEOUT_SECONDS = 10.0


class IstioCaIdentity(RenewedIdentity):
    """Certificates that istiod signs, for a key that is made here and never leaves this process.

    Args:
        spiffe_id: Whom to ask a certificate for; the CA decides by the token whether it may be had. Empty is whom the
            token names, in the trust domain that the CA certifies for.
        address: `host:port` of the CA.
        token_file: The service account's token; read again for each request, as Kubernetes renews it.
        ca_certificate_file: Roots, of the CA's own certificate and of peers; a change is taken up within seconds.
        server_name: Name in the CA's certificate; empty is the address's.
        key: `ECDSA` (P-256) or `RSA` (2048 bits).
        validity_seconds: Asked for; the CA may give less.
        cluster_id: Of a mesh with several clusters (Istio's CLUSTER_ID).
        plaintext: Without TLS, for a CA on this machine.
    """

    def __init__(
        self,
        spiffe_id: str = "",
        *,
        address: str = "istiod.istio-system.svc:15012",
        token_file: str | os.PathLike[str] = TOKEN_FILE,
        ca_certificate_file: str | os.PathLike[str] = ROOTS_FILE,
        server_name: str = "",
        key: KeyKind = "ECDSA",
        validity_seconds: int = 86400,
        cluster_id: str = "Kubernetes",
        plaintext: bool = False,
    ) -> None:
        self._spiffe_id = spiffe_id
        self._address = address
        self._token_file = Path(token_file)
        self._roots_file = Path(ca_certificate_file)
        self._server_name = server_name
        self._key: KeyKind = key
        self._validity_seconds = validity_seconds
        self._cluster_id = cluster_id
        self._plaintext = plaintext
        self._roots_stamp: object = None
        super().__init__(self._certify, f"the CA at {address}", self._with_roots_of_now)

    @property
    def spiffe_id(self) -> str:
        """Whom it asks a certificate for; empty where the token says so."""
        return self._spiffe_id

    def _with_roots_of_now(self, current: Credentials) -> Credentials:
        """The same certificate with what the file of roots holds by now."""
        try:
            stamp = file_stamp(self._roots_file)
            if stamp == self._roots_stamp:
                return current
            roots = self._roots_file.read_bytes()
        except OSError as error:
            raise IdentityError(f"the roots cannot be read, the last good ones stay: {error}") from error
        changed = check_credentials(current.certificate, current.private_key, roots)
        self._roots_stamp = stamp
        return current if roots == current.roots else changed

    def _certify(self) -> Credentials:
        try:
            stamp = file_stamp(self._roots_file)
            token, roots = self._token_file.read_text().strip(), self._roots_file.read_bytes()
            asked = self._spiffe_id or f"spiffe://{_TRUST_DOMAIN}{_path_of(self._token_file)}"
        except (OSError, ValueError) as error:
            raise IdentityError(f"the token or the roots cannot be read: {error}") from error
        private, request = make_signing_request(asked, self._key)
        chain = self._ask(request, token, roots)
        if not chain:
            raise IdentityError("the CA answered without a certificate")
        # Its last certificate is the root that it believes in; peers may be trusted by it, too.
        credentials = check_credentials("".join(map(_ended, chain)).encode(), private, roots)
        if not _is_asked(credentials.spiffe_id, asked, in_any_domain=not self._spiffe_id):
            raise IdentityError(f"the CA certified {credentials.spiffe_id!r} instead of {asked!r}")
        self._roots_stamp = stamp
        return credentials

    def _ask(self, request: bytes, token: str, roots: bytes) -> list[str]:
        options = [("grpc.ssl_target_name_override", self._server_name)] if self._server_name else []
        channel = (
            grpc.insecure_channel(self._address)
            if self._plaintext
            else grpc.secure_channel(self._address, grpc.ssl_channel_credentials(roots), options)
        )
        message = Request(csr=request.decode(), validity_duration=self._validity_seconds)
        with channel:
            call = channel.unary_unary(
                METHOD, request_serializer=Request.SerializeToString, response_deserializer=Response.FromString
            )
            metadata = (("authorization", f"Bearer {token}"), ("clusterid", self._cluster_id))
            try:
                answer = call(message, timeout=_TIMEOUT_SECONDS, metadata=metadata)
            except grpc.RpcError as error:
                refused = error.code() is grpc.StatusCode.UNAUTHENTICATED
                shown = f"; it was shown the token in {self._token_file}{self._said()}" if refused else ""
                raise IdentityError(f"{error.code().name}: {error.details()}{shown}") from error
        return list(answer.cert_chain)

    def _said(self) -> str:
        try:
            return f" ({read_token(self._token_file).summary})"
        except (OSError, ValueError):
            return ""  # A token of another kind, which the development CA has.


def _path_of(token_file: Path) -> str:
    """The path of the SPIFFE ID of whom a token names (istio pkg/spiffe: /ns/NAMESPACE/sa/ACCOUNT)."""
    token = read_token(token_file)
    if not token.account:
        raise ValueError(f"{token_file} names no service account; give the SPIFFE ID")
    return f"/ns/{token.namespace}/sa/{token.account}"


def _is_asked(certified: str, asked: str, *, in_any_domain: bool) -> bool:
    """Whether a certificate is for whom it was asked; the CA knows its trust domain, and a pod does not."""
    if not in_any_domain:
        return certified == asked
    return _without_domain(certified) == _without_domain(asked)


def _without_domain(spiffe_id: str) -> str:
    return spiffe_id.removeprefix("spiffe://").partition("/")[2]


def _ended(pem: str) -> str:
    return pem if pem.endswith("\n") else f"{pem}\n"
