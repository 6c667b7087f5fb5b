"""mTLS credentials for gRPC servers, from a certificate provider of the bootstrap, that rotate by themselves.

grpc asks for the certificates at each handshake; they are read again when the files have changed. What cannot be read
or does not fit leaves the last good ones in use.
"""

from __future__ import annotations

import threading
from typing import Any

import grpc

from ...errors import BootstrapError, ResourceError
from ...log_lines import logger_of
from ...resources import PemSource, TlsFile, TlsIdentity, TlsTrust
from ...resources.tls import DownstreamTls
from ...security import Secrets
from ..engine import CERTIFICATE, KEY, ROOTS, check_files

__all__ = ["server_credentials"]

logger = logger_of("meshsdk.grpc")


def server_credentials(secrets: Secrets, instance: str, *, require_client_certificate: bool) -> grpc.ServerCredentials:
    """Credentials for `server.add_secure_port`.

    Args:
        secrets: What names of certificates stand for.
        instance: Certificate provider instance.
        require_client_certificate: Refuse clients that show no certificate of the mesh.

    Raises:
        BootstrapError: There is no such provider, or its files cannot be used.
    """
    try:
        source = _Sources(secrets, instance)
        first = source.read()
    except (ResourceError, OSError, ValueError) as error:
        raise BootstrapError("certificate_providers", f"no identity to serve with: {error}") from error
    return grpc.dynamic_ssl_server_credentials(
        first, source.renewed, require_client_authentication=require_client_certificate
    )


class _Sources:
    """What a provider instance has."""

    def __init__(self, secrets: Secrets, instance: str) -> None:
        name = TlsFile(provider=instance)
        tls = secrets.of_server(DownstreamTls(TlsIdentity(name, name), TlsTrust(name)))
        assert tls.trust is not None
        assert tls.trust.trusted_ca is not None
        self._sources: dict[str, PemSource] = {
            CERTIFICATE: tls.identity.certificate,
            KEY: tls.identity.private_key,
            ROOTS: tls.trust.trusted_ca,
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
        contents = {name: source.read() for name, source in self._sources.items()}
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
        return tuple(source.stamp() for source in self._sources.values())
