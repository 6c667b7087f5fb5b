"""istiod's port 15012 in small: ADS and IstioCertificateService over TLS, for whoever shows a good token."""

from __future__ import annotations

import datetime
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
import jwt

from meshsdk.controlplane import Folder
from meshsdk.identities.certificate_authority import CertificateAuthority
from meshsdk.identities.istio_ca_messages import METHOD, Request, Response
from meshsdk.xds.ads_server import AdsService

from .certificates import SpiffeCa

__all__ = ["Istiod", "write_token"]

_SECRET = "the key of the Kubernetes API server, which nobody else has"


def write_token(
    path: Path, namespace: str = "default", account: str = "web", *, audience: str = "istio-ca", seconds: float = 3600
) -> Path:
    """A token as the kubelet projects it; it is good for so many seconds."""
    claims = {
        "aud": [audience],
        "exp": int(time.time() + seconds),
        "iss": "https://kubernetes.default.svc.cluster.local",
        "sub": f"system:serviceaccount:{namespace}:{account}",
    }
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(jwt.encode(claims, _SECRET))
    return path


class Istiod:
    """A management server and certificate authority that trusts tokens, and nothing else.

    Args:
        folder: The configuration that it serves.
        trust_domain: Of the certificates that it signs.

    Attributes:
        address: To be reached at.
        roots: PEM of whom its certificate and those that it signs are from.
        callers: Whom streams and requests came from, or what was wrong with their tokens.
        nodes: The nodes of the streams' first requests.
    """

    def __init__(self, folder: Path, trust_domain: str = "cluster.local") -> None:
        served = Folder(folder)
        served.refresh()
        authority, own = CertificateAuthority.make(), SpiffeCa()
        self.roots = own.pem + authority.pem
        self.callers: list[str] = []
        self.nodes: list[Any] = []
        self._ads = AdsService(served.state, self._on_request)
        # No token of today is enough for a stream of tomorrow: each is verified when it begins.
        self._server = grpc.server(
            ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)], interceptors=[_Gate(self.callers)]
        )
        self._ads.add_to(self._server)
        self._server.add_generic_rpc_handlers((_Authority(authority, trust_domain),))
        pair = own.issue(dns=("localhost", "istiod.istio-system.svc"))
        port = self._server.add_secure_port("localhost:0", grpc.ssl_server_credentials([pair]))
        self.address = f"localhost:{port}"
        self._server.start()

    def _on_request(self, request: Any) -> None:
        if request.HasField("node"):
            self.nodes.append(request.node)

    def __enter__(self) -> Istiod:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ads.close()
        self._server.stop(0).wait()


def _caller(metadata: Any) -> tuple[str, str]:
    """Namespace and service account of the token."""
    given = dict(metadata).get("authorization", "")
    claims = jwt.decode(given.removeprefix("Bearer "), _SECRET, algorithms=["HS256"], audience="istio-ca")
    _, _, namespace, account = claims["sub"].split(":")
    return namespace, account


class _Gate(grpc.ServerInterceptor):  # type: ignore[misc]
    """Lets in whose token is good, as istiod's authenticators do."""

    def __init__(self, callers: list[str]) -> None:
        self._callers = callers

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = continuation(details)
        try:
            self._callers.append("/".join(_caller(details.invocation_metadata)))
        except jwt.InvalidTokenError as error:
            self._callers.append(str(error))
        else:
            return handler

        def refuse(request: Any, context: Any) -> Any:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "authentication failure")

        if handler is not None and handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(refuse)
        return grpc.unary_unary_rpc_method_handler(refuse)


class _Authority(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Certifies callers as whom their tokens name, whatever they ask for."""

    def __init__(self, authority: CertificateAuthority, trust_domain: str) -> None:
        self._authority = authority
        self._trust_domain = trust_domain

    def service(self, details: Any) -> Any:
        if details.method != METHOD:
            return None
        return grpc.unary_unary_rpc_method_handler(
            self._sign, request_deserializer=Request.FromString, response_serializer=Response.SerializeToString
        )

    def _sign(self, request: Any, context: Any) -> Any:
        namespace, account = _caller(context.invocation_metadata())
        spiffe_id = f"spiffe://{self._trust_domain}/ns/{namespace}/sa/{account}"
        signed = self._authority.sign(request.csr.encode(), spiffe_id, datetime.timedelta(hours=1))
        return Response(cert_chain=[signed.decode(), self._authority.pem.decode()])
