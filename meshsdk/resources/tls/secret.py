"""Secrets by SDS (envoy.extensions.transport_sockets.tls.v3.Secret).

What is secret in one is kept here and goes to OpenSSL alone: neither its text form nor what is kept of its bytes has
any of it.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from ...errors import ResourceError
from ..notes import Notes
from .tls import TlsIdentity, TlsTrust, parse_certificate, parse_validation

__all__ = ["Secret", "parse_secret", "redacted_secret"]

_CERTIFICATE_FIELDS = frozenset("certificate_chain private_key watched_directory".split())
_REDACTED = b"[redacted]"


class Secret(Struct, frozen=True, gc=False):
    """One secret; of its parts one is there.

    Attributes:
        identity: A certificate and its key.
        trust: What a peer is held to.
    """

    name: str
    identity: TlsIdentity | None = None
    trust: TlsTrust | None = None
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Secret({self.name!r})"


def parse_secret(message: Any) -> Secret:
    """A secret.

    Raises:
        ResourceError: It has nothing that is used here, or that cannot be verified. Nothing secret is in the message.
    """
    where = "Secret"
    notes = Notes()
    which = message.WhichOneof("type")
    if which == "tls_certificate":
        path = f"{where}.tls_certificate"
        notes.unless_acted_on(message.tls_certificate, path, _CERTIFICATE_FIELDS)
        return Secret(message.name, identity=parse_certificate(message.tls_certificate, path), notes=tuple(notes))
    if which == "validation_context":
        trust = parse_validation(message.validation_context, f"{where}.validation_context", notes)
        return Secret(message.name, trust=trust, notes=tuple(notes))
    raise ResourceError(f"{where}.{which or 'type'}", "must be a tls_certificate or a validation_context")


def redacted_secret(message: Any) -> bytes:
    """What may be kept and shown of a secret's message, which is changed: as Envoy shows it, without what is secret."""
    which = message.WhichOneof("type")
    if which == "tls_certificate":
        certificate = message.tls_certificate
        for field in ("private_key", "password"):
            if certificate.HasField(field) and getattr(certificate, field).WhichOneof("specifier") != "filename":
                getattr(certificate, field).inline_bytes = _REDACTED
        for field in ("pkcs12", "private_key_provider"):
            certificate.ClearField(field)
    elif which not in (None, "validation_context"):
        message.ClearField(which)
    return bytes(message.SerializeToString(deterministic=True))
