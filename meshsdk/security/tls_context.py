"""`ssl.SSLContext`s for the connections to a cluster (UpstreamTlsContext)."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ResourceError
from ..resources import SanMatcher, TlsFile, UpstreamTls

__all__ = ["TlsClientContext", "make_client_context"]

_VERSIONS = {
    "TLSv1": ssl.TLSVersion.TLSv1,
    "TLSv1_1": ssl.TLSVersion.TLSv1_1,
    "TLSv1_2": ssl.TLSVersion.TLSv1_2,
    "TLSv1_3": ssl.TLSVersion.TLSv1_3,
}


@dataclass(frozen=True, slots=True)
class TlsClientContext:
    """What a connection needs to start TLS, and to check whom it reached.

    Attributes:
        context: For the handshake; it always verifies the chain.
        server_name: SNI to send; empty sends none.
        auto_sni: Send the endpoint's hostname instead.
        san_matchers: For `check_peer` after the handshake; empty asks for nothing more.
    """

    context: ssl.SSLContext
    server_name: str = ""
    auto_sni: bool = False
    san_matchers: Sequence[SanMatcher] = ()


def make_client_context(tls: UpstreamTls, alpn: Sequence[str]) -> TlsClientContext:
    """The context of a cluster.

    Args:
        tls: Its settings.
        alpn: Protocols to offer where the settings name none.

    Raises:
        ResourceError: A certificate or key cannot be read or used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The name in the certificate is checked by SAN matchers, or by OpenSSL where match_sni asks for it.
    context.check_hostname = tls.match_sni
    context.verify_mode = ssl.CERT_REQUIRED
    # Envoy offers TLS 1.2 and 1.3 to upstreams unless told otherwise; older versions are never offered unasked.
    context.minimum_version = _VERSIONS.get(tls.minimum_version, ssl.TLSVersion.TLSv1_2)
    if tls.maximum_version:
        context.maximum_version = _VERSIONS[tls.maximum_version]
    context.set_alpn_protocols(list(tls.alpn or alpn))
    _load_roots(context, tls.trusted_ca)
    if tls.certificate is not None and tls.private_key is not None:
        _load_identity(context, tls.certificate, tls.private_key)
    return TlsClientContext(context, tls.sni, tls.auto_sni, tls.san_matchers)


def _load_roots(context: ssl.SSLContext, trusted_ca: TlsFile | None) -> None:
    if trusted_ca is None:
        context.load_default_certs()
        return
    try:
        context.load_verify_locations(cadata=trusted_ca.read().decode("ascii"))
    except (OSError, ValueError) as error:
        raise ResourceError("validation_context.trusted_ca", f"cannot be used: {error}") from error


def _load_identity(context: ssl.SSLContext, certificate: TlsFile, key: TlsFile) -> None:
    """Python loads a key from a file only, so an inline one is put into a private file for the moment of loading."""
    try:
        chain_path, chain_is_ours = _as_file(certificate)
        key_path, key_is_ours = _as_file(key)
        try:
            context.load_cert_chain(chain_path, key_path)
        finally:
            for path, is_ours in ((chain_path, chain_is_ours), (key_path, key_is_ours)):
                if is_ours:
                    os.unlink(path)
    except (OSError, ValueError) as error:
        raise ResourceError("tls_certificates", f"cannot be used: {error}") from error


def _as_file(source: TlsFile) -> tuple[str, bool]:
    if source.path:
        return source.path, False
    descriptor, path = tempfile.mkstemp(prefix="meshsdk-")  # mode 0600
    with os.fdopen(descriptor, "wb") as file:
        file.write(source.inline)
    return path, True
