"""An identity in files that somebody else renews (gRFC A29, file_watcher)."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

from ..errors import IdentityError
from ..security import Credentials
from ..security.identity import check_credentials

__all__ = ["FileIdentity"]

logger = logging.getLogger("meshsdk.identity")


class FileIdentity:
    """Certificate, key and roots from PEM files, read again when one of them has changed.

    Args:
        certificate_file: The chain, leaf first.
        private_key_file: The leaf's key.
        ca_certificate_file: The roots that peers are trusted by.

    A change in the middle of which the files do not fit each other leaves the last good ones in use.
    """

    def __init__(
        self,
        certificate_file: str | os.PathLike[str],
        private_key_file: str | os.PathLike[str],
        ca_certificate_file: str | os.PathLike[str],
    ) -> None:
        self._paths = [Path(path) for path in (certificate_file, private_key_file, ca_certificate_file)]
        self._lock = threading.Lock()
        self._stamp: object = None
        self._current: Credentials | None = None
        self._problem = ""

    @property
    def problem(self) -> str:
        """See `security.Identity`."""
        return self._problem

    def credentials(self) -> Credentials:
        """See `security.Identity`."""
        with self._lock:
            try:
                stamp = tuple((one := path.stat()).st_mtime_ns for path in self._paths), one.st_ino
                if stamp != self._stamp or self._current is None:
                    self._current = check_credentials(*(path.read_bytes() for path in self._paths))
                    self._stamp, self._problem = stamp, ""
            except (OSError, IdentityError) as error:
                self._fail(error)
            if self._current is None:
                raise IdentityError(f"the identity's files cannot be used: {self._problem}")
            return self._current

    def _fail(self, error: Exception) -> None:
        if str(error) != self._problem:
            self._problem = str(error)
            logger.error("the identity's files cannot be used, the last good ones stay: %s", error)

    def close(self) -> None:
        """See `security.Identity`."""
