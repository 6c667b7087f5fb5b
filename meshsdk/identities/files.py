"""An identity in files that somebody else renews (gRFC A29, file_watcher)."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from cryptography import x509

from ..errors import IdentityError
from ..log_lines import logger_of
from ..resources.tls import file_stamp
from ..security import Credentials
from ..security.identity import check_credentials, spiffe_id_of
from ..security.trust_domains import parse_bundle_map, trust_domain_of
from ..telemetry.lookup import identity_alarm, watch_identity

__all__ = ["FileIdentity"]

logger = logger_of("meshsdk.identity")


class FileIdentity:
    """Certificate, key and roots from PEM files, read again when one of them has changed.

    Args:
        certificate_file: The chain, leaf first.
        private_key_file: The leaf's key.
        ca_certificate_file: The roots that peers are trusted by.
        spiffe_trust_bundle_map_file: Roots by trust domain (gRFC A87), in place of the roots.

    Raises:
        ValueError: There is neither a file of roots nor a bundle map.

    A change in the middle of which the files do not fit each other leaves the last good ones in use.
    """

    def __init__(
        self,
        certificate_file: str | os.PathLike[str],
        private_key_file: str | os.PathLike[str],
        ca_certificate_file: str | os.PathLike[str] | None = None,
        *,
        spiffe_trust_bundle_map_file: str | os.PathLike[str] | None = None,
    ) -> None:
        trusted = spiffe_trust_bundle_map_file or ca_certificate_file
        if trusted is None:
            raise ValueError("give ca_certificate_file or spiffe_trust_bundle_map_file")
        self._has_bundles = spiffe_trust_bundle_map_file is not None
        self._paths = [Path(path) for path in (certificate_file, private_key_file, trusted)]
        self._lock = threading.Lock()
        self._stamp: object = None
        self._current: Credentials | None = None
        self._problem = ""
        self.source = "files"
        watch_identity(self)

    @property
    def expires_at(self) -> float | None:
        """When the certificate in use ends, in seconds since the epoch; None while there is none."""
        current = self._current
        return current.expires_at if current is not None else None

    @property
    def problem(self) -> str:
        """See `security.Identity`."""
        return self._problem

    def credentials(self) -> Credentials:
        """See `security.Identity`."""
        with self._lock:
            try:
                stamp = tuple(map(file_stamp, self._paths))
                if stamp != self._stamp or self._current is None:
                    self._current = self._read()
                    self._stamp, self._problem = stamp, ""
            except (OSError, ValueError, IdentityError) as error:
                self._fail(error)
            if self._current is None:
                raise IdentityError(f"the identity's files cannot be used: {self._problem}")
            return self._current

    def _read(self) -> Credentials:
        certificate, key, trusted = (path.read_bytes() for path in self._paths)
        if not self._has_bundles:
            return check_credentials(certificate, key, trusted)
        bundles = parse_bundle_map(trusted)
        own = trust_domain_of(spiffe_id_of(x509.load_pem_x509_certificates(certificate)[0]))
        if not bundles.get(own):
            raise IdentityError(f"the bundle map has no roots of this process's own trust domain {own!r}")
        return check_credentials(certificate, key, bundles[own], bundles)

    def _fail(self, error: Exception) -> None:
        if str(error) != self._problem:
            self._problem = str(error)
            kept = ", the last good ones stay" if self._current is not None else ""
            logger.error("the identity's files cannot be used%s: %s", kept, error)
            count = identity_alarm()
            if count is not None:
                count(self.source)

    def close(self) -> None:
        """See `security.Identity`."""
