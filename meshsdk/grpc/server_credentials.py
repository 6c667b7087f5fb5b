"""mTLS credentials for gRPC servers, from a certificate provider of the bootstrap, that rotate by themselves.

grpc asks for the certificates at each handshake; they are read again when the files have changed. What cannot be read
or does not fit leaves the last good ones in use.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc

from ..bootstrap import CertificateProvider
from ..errors import BootstrapError, ResourceError
from ..resources import TlsFile
from ..security.certificate_provider import provider_file
from .tls_slots import CERTIFICATE, KEY, ROOTS, check_files

__all__ = ["server_credentials"]

logger = logging.getLogger("meshsdk.grpc")


def server_credentials(
    providers: Mapping[str, CertificateProvider], instance: str, *, require_client_certificate: bool
) -> grpc.ServerCredentials:
    """Credentials for `server.add_secure_port`.

    Args:
        providers: Of the bootstrap.
        instance: Which of them.
        require_client_certificate: Refuse clients that show no certificate of the mesh.

    Raises:
        BootstrapError: There is no such provider, or its files cannot be used.
    """
    try:
        source = _Files(providers, instance)
        first = source.read()
    except (ResourceError, OSError, ValueError) as error:
        raise BootstrapError("certificate_providers", f"no identity to serve with: {error}") from error
    return grpc.dynamic_ssl_server_credentials(
        first, source.renewed, require_client_authentication=require_client_certificate
    )


class _Files:
    """The files of a provider instance."""

    def __init__(self, providers: Mapping[str, CertificateProvider], instance: str) -> None:
        where = "server_credentials"
        self._paths = {
            CERTIFICATE: provider_file(instance, providers, "certificate_file", where),
            KEY: provider_file(instance, providers, "private_key_file", where),
            ROOTS: provider_file(instance, providers, "ca_certificate_file", where),
        }
        self._lock = threading.Lock()
        self._stamp: Any = None
        self._problem = ""

    def read(self) -> Any:
        """The certificates as they are now.

        Raises:
            OSError: A file cannot be read.
            ValueError: They cannot be used.
        """
        self._stamp = self._look()
        contents = {name: Path(path).read_bytes() for name, path in self._paths.items()}
        check_files(contents)
        return grpc.ssl_server_certificate_configuration(
            [(contents[KEY], contents[CERTIFICATE])], root_certificates=contents[ROOTS]
        )

    def renewed(self) -> Any:
        """The certificates where they have changed, else None; called at each handshake, from grpc's threads."""
        with self._lock:
            before = self._stamp
            try:
                if self._look() == before:
                    return None
                renewed = self.read()
            except (OSError, ValueError) as error:
                # To be tried again at the next handshake: it may have been in the middle of a change.
                self._stamp = before
                if str(error) != self._problem:
                    self._problem = str(error)
                    logger.error("new certificates cannot be used, the last good ones stay: %s", error)
                return None
            self._problem = ""
            return renewed

    def _look(self) -> tuple[object, ...]:
        return tuple(TlsFile(path=path).stamp() for path in self._paths.values())
