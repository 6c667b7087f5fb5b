"""Which TLS a connection uses: the cluster's settings, or the client's own for an https URL."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import httpx

from ..balancing import Endpoint
from ..errors import PeerIdentityError, ResourceError
from ..resources import HttpProtocol, TlsFile, UpstreamTls
from ..security import Providers, TlsClientContext, check_peer, make_client_context, with_provider_files
from .errors import as_httpx_error

__all__ = ["TlsChooser"]

_ALPN = {
    HttpProtocol.HTTP1: ("http/1.1",),
    HttpProtocol.HTTP2: ("h2",),
    HttpProtocol.NEGOTIATED: ("h2", "http/1.1"),
}


class TlsChooser:
    """Makes and keeps TLS contexts.

    Args:
        make_default: Makes the context of https URLs whose cluster has no TLS settings; called once, when needed.
        http2: Whether that context offers HTTP/2.
        providers: The bootstrap's certificate providers.
    """

    def __init__(
        self, make_default: Callable[[], ssl.SSLContext], *, http2: bool, providers: Providers = MappingProxyType({})
    ) -> None:
        self._providers = providers
        self._make_default = make_default
        self._http2 = http2
        self._default: ssl.SSLContext | None = None
        self._contexts: dict[tuple[UpstreamTls, HttpProtocol, tuple[object, ...]], TlsClientContext] = {}

    def choose(self, endpoint: Endpoint, scheme: str, url_host: str) -> tuple[TlsClientContext, str] | None:
        """Context and server name for a connection, or None for plaintext. An https URL never goes out in plaintext.

        Raises:
            httpx.ConnectError: Certificate or key files cannot be used.
        """
        config = endpoint.cluster.config
        if config.tls is not None:
            try:
                context = self._cluster_context(with_provider_files(config.tls, self._providers), config.protocol)
            except (ResourceError, OSError) as error:
                raise httpx.ConnectError(f"cluster {config.name}: TLS settings cannot be used: {error}") from error
            return context, endpoint.config.hostname if context.auto_sni else context.server_name
        if scheme != "https":
            return None
        if self._default is None:
            default = self._make_default()
            default.set_alpn_protocols(["h2", "http/1.1"] if self._http2 else ["http/1.1"])
            self._default = default
        return TlsClientContext(self._default), url_host

    def _cluster_context(self, tls: UpstreamTls, protocol: HttpProtocol) -> TlsClientContext:
        # Files that were replaced make another key, so that rotated certificates are used by new connections.
        key = (tls, protocol, _stamps(tls))
        context = self._contexts.get(key)
        if context is None:
            context = make_client_context(tls, _ALPN[protocol])
            self._contexts = {old: kept for old, kept in self._contexts.items() if old[0] != tls}
            self._contexts[key] = context
        return context


def verify_peer(chosen: TlsClientContext, certificate: Mapping[str, Any] | None) -> None:
    """Check the peer's names after the handshake.

    Raises:
        PeerIdentityError: As an httpx.ConnectError.
    """
    if chosen.san_matchers:
        try:
            check_peer(certificate, chosen.san_matchers)
        except PeerIdentityError as error:
            raise as_httpx_error(error) from error


def _stamps(tls: UpstreamTls) -> tuple[object, ...]:
    files: tuple[TlsFile | None, ...] = (tls.trusted_ca, tls.certificate, tls.private_key)
    return tuple(file.stamp() for file in files if file is not None and file.path)
