"""Which TLS a connection uses: the cluster's settings, or the client's own for an https URL."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import httpx

from ..balancing import Endpoint
from ..errors import PeerIdentityError, ResourceError
from ..resources import HttpProtocol, UpstreamTls
from ..security import NO_SECRETS, Secrets, TlsClientContext, check_peer, make_client_context
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
        secrets: What names of certificates in settings stand for.
    """

    def __init__(
        self, make_default: Callable[[], ssl.SSLContext], *, http2: bool, secrets: Secrets = NO_SECRETS
    ) -> None:
        self._secrets = secrets
        self._make_default = make_default
        self._http2 = http2
        self._default: ssl.SSLContext | None = None
        self._contexts: dict[tuple[UpstreamTls, HttpProtocol], tuple[tuple[object, ...], TlsClientContext]] = {}

    def choose(self, endpoint: Endpoint, scheme: str, url_host: str) -> tuple[TlsClientContext, str] | None:
        """Context and server name for a connection, or None for plaintext. An https URL never goes out in plaintext.

        Raises:
            httpx.ConnectError: Certificate or key files cannot be used.
        """
        config = endpoint.cluster.config
        settings = config.tls_of(endpoint.config)
        if settings is not None:
            try:
                context = self._cluster_context(settings, config.protocol)
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

    def _cluster_context(self, settings: UpstreamTls, protocol: HttpProtocol) -> TlsClientContext:
        # Certificates that were replaced have other stamps, so that rotated ones are used by new connections.
        tls = self._secrets.of_client(settings)
        stamps = _stamps(tls)
        kept = self._contexts.get((settings, protocol))
        if kept is not None and kept[0] == stamps:
            return kept[1]
        context = make_client_context(tls, _ALPN[protocol])
        self._contexts[(settings, protocol)] = (stamps, context)
        return context


def verify_peer(chosen: TlsClientContext, secured: ssl.SSLObject | ssl.SSLSocket) -> None:
    """Check the peer's names and fingerprints after the handshake.

    Raises:
        PeerIdentityError: As an httpx.ConnectError.
    """
    if chosen.trust is not None:
        try:
            check_peer(secured.getpeercert(binary_form=True), chosen.trust)
        except PeerIdentityError as error:
            raise as_httpx_error(error) from error


def _stamps(tls: UpstreamTls) -> tuple[object, ...]:
    sources = [tls.trust.trusted_ca, tls.trust.crl]
    if tls.identity is not None:
        sources += [tls.identity.certificate, tls.identity.private_key]
    return tuple(source.stamp() for source in sources if source is not None)
