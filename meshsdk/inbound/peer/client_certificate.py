"""X-Forwarded-Client-Cert: whom proxies before this process say that they have seen.

Sources: Envoy docs, http_conn_man/headers, x-forwarded-client-cert; source/common/http/conn_manager_utility.cc
(ConnectionManagerUtility::mutateXfccRequestHeader).
"""

from __future__ import annotations

from collections.abc import Callable

from ...resources.listener import ForwardClientCertificate, ServerManager
from ..request import InboundRequest
from .downstream import escaped_pem

__all__ = ["compile_client_certificate"]

_HEADER = b"x-forwarded-client-cert"
_MAX_ELEMENTS = 1024


def compile_client_certificate(manager: ServerManager) -> Callable[[InboundRequest], None]:
    """A function that makes a request's header what the settings say."""
    mode = manager.forward_certificate
    elements: dict[tuple[object, ...], bytes] = {}
    tells_chain = manager.certificate_details.chain

    def sanitize(request: InboundRequest) -> None:
        request.remove_header(_HEADER)

    def keep(request: InboundRequest) -> None:
        pass

    def keep_of_peers(request: InboundRequest) -> None:
        if request.connection.peer is None:
            request.remove_header(_HEADER)

    def add(request: InboundRequest) -> None:
        connection = request.connection
        if connection.peer is None:
            request.remove_header(_HEADER)
            return
        sent = connection.peer_certificates if tells_chain else ()
        key = (connection.peer.sha256, connection.own_uri, sent)
        own = elements.get(key)
        if own is None:
            if len(elements) >= _MAX_ELEMENTS:
                elements.clear()
            own = elements[key] = _element(manager, request).encode("latin-1", "replace")
        head = request.head
        if _HEADER not in head.by_name():
            request.head = head.plus(_HEADER, own)
            return
        if mode is ForwardClientCertificate.APPEND_FORWARD:
            before = [value for name, value in head.raw_headers if name.lower() == _HEADER]
            own = b",".join([*before, own])
        others = [header for header in head.raw_headers if header[0].lower() != _HEADER]
        request.head = head.with_headers([*others, (_HEADER, own)])

    match mode:
        case ForwardClientCertificate.SANITIZE:
            return sanitize
        case ForwardClientCertificate.ALWAYS_FORWARD_ONLY:
            return keep
        case ForwardClientCertificate.FORWARD_ONLY:
            return keep_of_peers
        case _:
            return add


def _element(manager: ServerManager, request: InboundRequest) -> str:
    connection, details = request.connection, manager.certificate_details
    peer = connection.peer
    assert peer is not None
    parts = []
    if connection.own_uri:
        parts.append(f"By={connection.own_uri}")
    parts.append(f"Hash={peer.sha256}")
    if details.certificate or details.chain:
        if details.certificate:
            parts.append(f'Cert="{escaped_pem(peer.der)}"')
        if details.chain:
            # As it was sent; a server that does not tell has the peer's own certificate only.
            parts.append(f'Chain="{"".join(map(escaped_pem, connection.peer_certificates or (peer.der,)))}"')
    if details.subject:
        parts.append(f'Subject="{_quoted(peer.subject)}"')
    if details.uri:
        parts += [f"URI={uri}" for uri in peer.values("URI")] or ["URI="]
    if details.dns:
        parts += [f"DNS={name}" for name in peer.values("DNS")]
    return ";".join(parts)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
