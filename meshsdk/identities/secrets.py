"""Secrets by name (SDS), certified by the development CA of a configuration.

Names are those of Istio's agent, `default` and `ROOTCA`, and of SPIRE: a SPIFFE ID is that certificate with its key,
and the mesh's trust domain, `spiffe://cluster.local`, its roots. Whoever asks is believed, as everywhere with this CA:
a process of the same user. So they are for those alone who could make such keys themselves; that is the server's to
see to.

Sources: istio/istio security/pkg/nodeagent/cache/secretcache.go; SPIRE, doc/spire_agent.md (SDS).
"""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path

from envoy.extensions.transport_sockets.tls.v3 import secret_pb2

from ..log_lines import logger_of
from ..security import Credentials
from ..security.identity import check_credentials
from .certificate_authority import CertificateAuthority
from .held_authority import HeldAuthority
from .signing_request import make_signing_request

__all__ = ["DevelopmentSecrets"]

logger = logger_of("meshsdk.identity")

# Of names that a client may make up as it likes.
_MAX_IDENTITIES = 1000
_MAX_NAME = 2048
_RENEW_AT = 0.5

# SPIFFE-ID 2: no segment of a path is empty, or `.` or `..`.
_SPIFFE_ID = re.compile(r"(spiffe://[a-z0-9._-]+)(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]+)+")


class DevelopmentSecrets:
    """Makes certificates as they are asked for, and keeps them fresh. From any thread.

    Args:
        root: The configuration whose CA it is.

    Raises:
        OSError, ValueError: The user's private folder cannot be used.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = Path(root).resolve()
        self._lock = threading.Lock()
        self._held = HeldAuthority(self._root)
        self._issued: dict[str, Credentials] = {}
        self._unknown: set[str] = set()

    def close(self) -> None:
        """Let go of the CA."""
        with self._lock:
            self._held.release()

    def find(self, name: str, own_id: str) -> bytes | None:
        """A Secret, serialized; None where there is no such thing, which is logged.

        Args:
            name: As it is asked for.
            own_id: The SPIFFE ID of who asks, which `default` stands for.
        """
        secret = secret_pb2.Secret(name=name)
        spiffe_id = own_id if name == "default" else name
        own = _SPIFFE_ID.fullmatch(own_id)
        with self._lock:
            if name == "ROOTCA" or (own is not None and name == own[1]):
                secret.validation_context.trusted_ca.inline_bytes = self._authority().pem
            elif len(spiffe_id) <= _MAX_NAME and _SPIFFE_ID.fullmatch(spiffe_id):
                issued = self._of(spiffe_id)
                secret.tls_certificate.certificate_chain.inline_bytes = issued.certificate
                secret.tls_certificate.private_key.inline_bytes = issued.private_key
            else:
                self._tell_unknown(name[:100])
                return None
        packed: bytes = secret.SerializeToString(deterministic=True)
        return packed

    def renew(self) -> bool:
        """Forget what must be made anew; whether there is any."""
        with self._lock:
            before = self._held
            self._authority()
            due = [one for one, issued in self._issued.items() if before is not self._held or _is_due(issued)]
            for spiffe_id in due:
                del self._issued[spiffe_id]
        return bool(due) or before is not self._held

    def _of(self, spiffe_id: str) -> Credentials:
        issued = self._issued.get(spiffe_id)
        if issued is None or _is_due(issued):
            if len(self._issued) >= _MAX_IDENTITIES:
                del self._issued[next(iter(self._issued))]
            authority = self._authority()
            private, request = make_signing_request(spiffe_id)
            signed = authority.sign(request, spiffe_id)
            issued = self._issued[spiffe_id] = check_credentials(signed, private, authority.pem)
        return issued

    def _authority(self) -> CertificateAuthority:
        if not (self._held.is_fresh and self._held.is_in_place):
            self._held.release()
            self._held = HeldAuthority(self._root)
            self._issued.clear()
        return self._held.authority

    def _tell_unknown(self, name: str) -> None:
        if name not in self._unknown and len(self._unknown) < _MAX_IDENTITIES:
            self._unknown.add(name)
            logger.warning(
                "there is no secret %r here: there are default, ROOTCA, SPIFFE IDs and trust domains; what lies in"
                " files or in Kubernetes, clients must be given by a path of their own",
                name,
            )


def _is_due(issued: Credentials) -> bool:
    return time.time() >= issued.issued_at + (issued.expires_at - issued.issued_at) * _RENEW_AT
