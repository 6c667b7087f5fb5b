"""What a person can do about a management server that does not believe who this process is, or is spoken to wrongly.

Servers say little to whom they do not know: istiod's whole answer is "authentication failure"
(istio pilot/pkg/xds/auth.go). What this process has shown, it knows itself.
"""

from __future__ import annotations

import grpc

from ..bootstrap import XdsServer
from ..node import Node
from ..service_account_token import ServiceAccountToken, read_token

__all__ = ["what_to_do"]

_CALL_CREDS = (
    '"call_creds": [{"type": "jwt_token_file", "config": {"jwt_token_file": "/var/run/secrets/tokens/istio-token"}}]'
)


def what_to_do(code: grpc.StatusCode | None, server: XdsServer, node: Node) -> str:
    """What to look at after a stream ended with a status; empty where that is not known.

    Args:
        code: The stream's status.
        server: Whose answer it is.
        node: Who this process says it is.
    """
    if code is grpc.StatusCode.UNIMPLEMENTED and server.is_incremental:
        return 'it does not speak xDS incrementally; leave "meshsdk.incremental" out of its server_features'
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return _unauthenticated(server)
    if code is grpc.StatusCode.PERMISSION_DENIED and server.token_files:
        account = node.metadata.get("SERVICE_ACCOUNT") or "any service account"
        return (
            f"the node says that it is of namespace {node.namespace!r} and {account!r}, and the token is not:"
            f" {_shown(server)}"
        )
    return ""


def _unauthenticated(server: XdsServer) -> str:
    if server.token_files:
        return (
            f"it does not take {_shown(server)}; istiod wants the token of the pod's own service account, projected"
            " with the audience istio-ca, before it expires"
        )
    if server.credentials.certificate_file:
        return f"it does not take the client certificate {server.credentials.certificate_file}"
    over_tls = "" if server.credentials.kind == "tls" else ' over channel_creds of type "tls"'
    return (
        "it asks who this process is, and the bootstrap shows it nothing: a pod of Istio's shows the token of its"
        f" service account{over_tls}, {_CALL_CREDS}"
    )


def _shown(server: XdsServer) -> str:
    return " or ".join(f"the token in {path} ({_said(path)})" for path in server.token_files)


def _said(path: str) -> str:
    try:
        token: ServiceAccountToken = read_token(path)
    except (OSError, ValueError) as error:
        return str(error)
    return token.summary
