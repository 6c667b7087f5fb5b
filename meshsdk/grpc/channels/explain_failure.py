"""What a failed handshake means, and what to do about it, added to grpc-core's own words as a note (PEP 678)."""

from __future__ import annotations

from typing import Any, TypeVar

import grpc

__all__ = ["explained"]

E = TypeVar("E", bound=BaseException)

# What grpc-core and BoringSSL say, and what that means here.
_MEANINGS = (
    (
        "SANs from certificate did not match",
        "the server's certificate does not name the identity that the cluster's configuration asks for"
        " (match_subject_alt_names; in Istio: another service account than the service's)",
    ),
    ("certificate has expired", "the server's certificate has expired"),
    ("certificate is not yet valid", "the server's certificate is not valid yet; are the clocks right?"),
    (
        "unable to get local issuer certificate",
        "the server's certificate was issued by a CA that this client does not trust",
    ),
    ("self-signed certificate", "the server's certificate is self-signed, or its CA is not trusted by this client"),
    ("WRONG_VERSION_NUMBER", "the server speaks plaintext, and the mesh's configuration asks for TLS"),
    ("CERTIFICATE_REQUIRED", "the server asks for a client certificate; the mesh's configuration gives none"),
    (
        "DNS resolution failed for",
        "the mesh has no such host, so DNS was asked; where it has one that is alike, the log of meshsdk.grpc names it",
    ),
    (
        "no children in weighted_target policy",
        "there is no endpoint; where the cluster has some, it cannot be used over gRPC, and"
        " mesh.status()['grpc']['problems'] says why",
    ),
    ("TLSV1_ALERT_UNKNOWN_CA", "the server does not trust the CA of this client's certificate"),
)


def explained(error: E) -> E:
    """The same error, with a note where its cause is known."""
    details = _details(error)
    for words, meaning in _MEANINGS:
        if words in details:
            error.add_note(meaning)
            break
    return error


def _details(error: Any) -> str:
    if not isinstance(error, grpc.Call) or error.code() is not grpc.StatusCode.UNAVAILABLE:
        return ""
    return error.details() or ""
