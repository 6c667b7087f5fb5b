"""Keys and certificate signing requests, made in memory."""

from __future__ import annotations

from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

__all__ = ["KeyKind", "make_signing_request"]

KeyKind = Literal["ECDSA", "RSA"]


def make_signing_request(spiffe_id: str, kind: KeyKind = "ECDSA") -> tuple[bytes, bytes]:
    """A new key and a request to have it certified for `spiffe_id`, both PEM (RFC 2986).

    Args:
        spiffe_id: Stands in the request as a URI name; its subject is empty, as Istio's agent has it.
        kind: ECDSA is P-256, RSA has 2048 bits.
    """
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = (
        ec.generate_private_key(ec.SECP256R1()) if kind == "ECDSA" else rsa.generate_private_key(65537, 2048)
    )
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)]), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, request.public_bytes(serialization.Encoding.PEM)
