"""Which TLS a connection uses: the cluster's settings, or the client's own for an https URL."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from ..balancing import Endpoint
from ..balancing.endpoint import OwnCluster
from ..errors import PeerIdentityError, ResourceError
from ..log_lines import logger_of
from ..resources import HttpProtocol, TlsTrust, UpstreamTls
from ..resources.tls import is_mesh_mutual
from ..security import (
    NO_SECRETS,
    PeerChain,
    Secrets,
    TlsClientContext,
    check_peer,
    check_trust_domain,
    make_client_context,
    peer_chain,
    read_peer,
    still_trusted,
    tell_of_broken_ends,
    trust_stamp,
)
from .errors import ConnectError, as_transport_error
from .pool_rules import Slot

__all__ = ["ResumedContext", "TlsChooser", "keep_session", "speaks_http2", "verify_peer"]

logger = logger_of("meshsdk.http")

_ALPN = {
    HttpProtocol.HTTP1: ("http/1.1",),
    HttpProtocol.HTTP2: ("h2",),
    HttpProtocol.NEGOTIATED: ("h2", "http/1.1"),
}


# What Istio's sidecars offer with HTTP requests (pilot/pkg/xds/filters, the istio.alpn filter). A sidecar in PERMISSIVE
# takes TLS for mutual TLS of the mesh by the istio names alone, and chooses among the others. `istio-peer-exchange` is
# not offered: whoever chooses it waits for metadata that only sidecars send.
_MESH_ALPN = {
    HttpProtocol.HTTP1: ("istio-http/1.1", "istio", "http/1.1"),
    HttpProtocol.HTTP2: ("istio-h2", "istio", "h2"),
    HttpProtocol.NEGOTIATED: ("istio", "h2", "http/1.1"),
}


def offered_protocols(settings: UpstreamTls, protocol: HttpProtocol) -> tuple[str, ...]:
    """What a connection offers by ALPN.

    Args:
        settings: The cluster's, names of certificates still unresolved.
        protocol: That the cluster speaks.
    """
    named = settings.protocol.alpn
    if is_mesh_mutual(settings) and (not named or "istio" in named):
        return _MESH_ALPN[protocol]
    return named or _ALPN[protocol]


def speaks_http2(chosen: str | None, protocol: HttpProtocol) -> bool:
    """Whether HTTP/2 is spoken after a handshake.

    Args:
        chosen: What the server has chosen by ALPN; None where it has chosen nothing.
        protocol: That the cluster speaks. It decides where nothing was chosen, or only that this is the mesh.
    """
    if chosen is None or chosen == "istio":
        return protocol is HttpProtocol.HTTP2
    return chosen in ("h2", "istio-h2")


class _Kept(Struct, eq=False):
    """A context, the stamps of what it was made from, the clusters that use it, and why it cannot be renewed."""

    stamps: tuple[object, ...]
    context: TlsClientContext
    clusters: set[OwnCluster]
    problem: str = ""


class TlsChooser:
    """Makes and keeps TLS contexts.

    Args:
        make_default: Makes the context of https URLs whose cluster has no TLS settings; called once, when needed.
        http2: Whether that context offers HTTP/2.
        secrets: What names of certificates in settings stand for.
        on_first: Called before there is a context whose certificates may change: from then on `refresh` must be, too.
        must_be_told: A body that ends with its connection is whole only where the peer sent close_notify.
    """

    def __init__(
        self,
        make_default: Callable[[], ssl.SSLContext],
        *,
        http2: bool,
        secrets: Secrets = NO_SECRETS,
        on_first: Callable[[], None] = lambda: None,
        must_be_told: bool = True,
    ) -> None:
        self.must_be_told = must_be_told
        self._secrets = secrets
        self._make_default = make_default
        self._http2 = http2
        self._on_first = on_first
        self._default: TlsClientContext | None = None
        self._is_watched = False
        self._has_renewed = False
        self._contexts: dict[tuple[UpstreamTls, HttpProtocol], _Kept] = {}

    def choose(self, endpoint: Endpoint, scheme: str, url_host: str) -> tuple[TlsClientContext, str] | None:
        """Context and server name for a connection, or None for plaintext. An https URL never goes out in plaintext.

        Raises:
            ConnectError: Certificate or key files cannot be used.
        """
        config = endpoint.cluster.config
        settings = config.tls_of(endpoint.config)
        if settings is not None:
            try:
                context = self._cluster_context(settings, endpoint.cluster)
            except (ResourceError, OSError) as error:
                raise ConnectError(f"cluster {config.name}: TLS settings cannot be used: {error}") from error
            return context, endpoint.config.hostname if context.auto_sni else context.server_name
        if scheme != "https":
            return None
        if self._default is None:
            default = self._make_default()
            tell_of_broken_ends(default)
            default.set_alpn_protocols(["h2", "http/1.1"] if self._http2 else ["http/1.1"])
            self._default = TlsClientContext(default)
        return self._default, url_host

    def may_share(self, endpoint: Endpoint, scheme: str) -> bool:
        """Whether connections to an endpoint may turn out to carry many requests at once."""
        return endpoint.cluster.config.protocol is not HttpProtocol.HTTP1 or (scheme == "https" and self._http2)

    def _cluster_context(self, settings: UpstreamTls, cluster: OwnCluster) -> TlsClientContext:
        # Certificates that were replaced have other stamps, so that rotated ones are used by new connections.
        key = (settings, cluster.config.protocol)
        if not self._is_watched:
            self._is_watched = True
            self._on_first()
        kept = self._contexts.get(key)
        if kept is not None:
            kept = self._renewed(key, kept)
            kept.clusters.add(cluster)
            return kept.context
        tls = self._secrets.of_client(settings)
        stamps = _stamps(tls)
        made = _Kept(stamps, make_client_context(tls, offered_protocols(*key)), {cluster})
        self._contexts[key] = made
        return made.context

    def _renewed(self, key: tuple[UpstreamTls, HttpProtocol], kept: _Kept) -> _Kept:
        """What takes the place of a context whose certificates have changed; while those cannot be used, itself."""
        try:
            tls = self._secrets.of_client(key[0])
            stamps = _stamps(tls)
            if stamps == kept.stamps:
                return kept
            context = make_client_context(tls, offered_protocols(*key))
        except (ResourceError, OSError) as error:
            # In the middle of a change, or gone.
            if str(error) != kept.problem:
                kept.problem = str(error)
                logger.error("certificates cannot be used, the last good ones stay: %s", error)
            return kept
        renewed = self._contexts[key] = _Kept(stamps, context, set(kept.clusters))
        kept.context.is_current = False
        self._has_renewed = True
        return renewed

    def refresh(self) -> bool:
        """Look whether certificates have changed; connections with the old ones are then not used again."""
        for key, kept in list(self._contexts.items()):
            self._renewed(key, kept)
        # A new connection may have been the first to see a change.
        has_renewed, self._has_renewed = self._has_renewed, False
        return has_renewed

    def after_fork(self) -> None:
        """In a forked child: the thread that looked for changes is the parent's."""
        self._is_watched = False

    def forget_retired(self) -> None:
        """Let go of contexts that no cluster uses any more, and of sessions with endpoints that are gone."""
        for key, kept in list(self._contexts.items()):
            for cluster in [cluster for cluster in list(kept.clusters) if cluster.is_retired]:
                kept.clusters.discard(cluster)
            if not kept.clusters:
                self._contexts.pop(key, None)
            sessions = kept.context.sessions
            for session in [one for one in list(sessions) if one[0].is_removed]:
                sessions.pop(session, None)

    def trusts(self, endpoint: Endpoint, chain: PeerChain | None) -> bool:
        """Whether the settings of now would let in a peer that was let in before."""
        settings = endpoint.cluster.config.tls_of(endpoint.config)
        if settings is None or chain is None:
            return settings is None
        try:
            return still_trusted(chain, self._secrets.of_client(settings).trust)
        except ResourceError:
            return True


# Servers whose sessions are remembered; a cluster has few, and a context lives as long as its certificates.
_MAX_SESSIONS = 256


class ResumedContext:
    """A context whose one handshake resumes a session, for event loops that take no session.

    Args:
        context: The real one.
        session: Of the same context.
    """

    def __init__(self, context: ssl.SSLContext, session: ssl.SSLSession) -> None:
        self._context = context
        self._session = session

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """See ssl.SSLContext."""
        return self._context.wrap_bio(*args, **{**kwargs, "session": self._session})


def keep_session(slot: Slot) -> None:
    """Remember a connection's session, so that the next one to the same server needs no whole handshake."""
    context, secured, chain = slot.tls, slot.secured, slot.chain
    slot.secured = None
    if context is None or secured is None or chain is None or not context.is_current:
        return
    session = secured.session
    if session is not None and session.has_ticket:
        if len(context.sessions) >= _MAX_SESSIONS:
            context.sessions.clear()
        context.sessions[(slot.endpoint, secured.server_hostname)] = (session, chain)


def verify_peer(chosen: TlsClientContext, secured: ssl.SSLObject | ssl.SSLSocket, slot: Slot) -> None:
    """Check the peer's names and fingerprints after the handshake, and note in the slot who it is.

    Raises:
        PeerIdentityError: As an ConnectError.
    """
    known = chosen.sessions.get((slot.endpoint, secured.server_hostname)) if secured.session_reused else None
    slot.tls, slot.secured = chosen, secured
    slot.chain = _checked(chosen.trust, known[1] if known is not None else peer_chain(secured))
    slot.endpoint.principal = _spiffe_id(slot.chain)


def _spiffe_id(chain: PeerChain | None) -> str:
    try:
        return read_peer(chain.leaf).spiffe_id if chain is not None else ""
    except PeerIdentityError:
        return ""


def _checked(trust: TlsTrust | None, chain: PeerChain | None) -> PeerChain | None:
    if trust is None:
        return chain
    try:
        check_peer(chain.leaf if chain is not None else None, trust)
        bundles = trust.bundles.read_bundles() if trust.bundles is not None else {}
        if bundles and chain is not None:
            check_trust_domain(chain, bundles)
    except PeerIdentityError as error:
        raise as_transport_error(error) from error
    except OSError as error:
        raise ConnectError(f"the peer's trust domain cannot be checked: {error}") from error
    return chain


def _stamps(tls: UpstreamTls) -> tuple[object, ...]:
    if tls.identity is None:
        return (trust_stamp(tls.trust),)
    return trust_stamp(tls.trust), tls.identity.certificate.stamp(), tls.identity.private_key.stamp()
