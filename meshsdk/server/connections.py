"""What each kind of server tells of a connection, and of its peer's certificate.

- `meshsdk.connection` in the scope or environ: our own `serve`, and servers whose protocol classes are ours.
- ASGI's TLS extension (`scope["extensions"]["tls"]["client_cert_chain"]`): PEM, leaf first.
- gunicorn's and werkzeug's sockets in a WSGI environ, and uvicorn's transport behind ASGI's `receive`.

Headers such as X-SSL-Client-Cert are never looked at: anybody can send them. Servers and middlewares that take such
headers for facts rewrite what they tell: so the socket's word comes first, and where there is none, a request that has
such a header makes it untold from where its connection came, and whether it is secured.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import weakref
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from msgspec.structs import replace

from ..errors import PeerIdentityError
from ..inbound import Connection, Fact
from ..inbound.connection import parse_address
from ..security import PeerCertificate, read_peer
from ..security.tls_context import server_name_of
from ..security.trust_domains import sent_chain

__all__ = [
    "ADMITTED",
    "CONNECTION",
    "TARGET",
    "TELLS_PEERS",
    "Teller",
    "asgi_connection",
    "connection_of_transport",
    "wsgi_connection",
]

CONNECTION = "meshsdk.connection"

# In the scope of a request that a protocol of ours has read: its target, path and query, as it came.
TARGET = "meshsdk.target"

# On the socket of somebody else's server.
_KNOWN = "meshsdk_connection"

# Policy has let this request in already: a middleware further in must not decide again, on what the first has changed.
ADMITTED = "meshsdk.admitted"

# In the scope of an ASGI lifespan: the server tells whose certificate it has verified.
TELLS_PEERS = "meshsdk.tells_peers"


_UNIX = getattr(socket, "AF_UNIX", None)

_PROTOCOLS = {"1.0": "HTTP/1.0", "2": "HTTP/2", "3": "HTTP/3"}


class Teller:
    """Whether this process's server tells of peers by a protocol class of ours."""

    is_here = False


def asgi_connection(scope: Mapping[str, Any], receive: Any = None, port: int | None = None) -> Connection:
    """The connection of an ASGI scope.

    Args:
        scope: ASGI's.
        receive: The server's, as far as nobody has wrapped it.
        port: Where it came to, as far as the server does not tell.
    """
    protocol = _PROTOCOLS.get(scope.get("http_version", ""), "HTTP/1.1")
    known = scope.get(CONNECTION)
    if known is not None:
        return _of_request(known, port, protocol)
    transport = getattr(getattr(receive, "__self__", None), "transport", None)
    if transport is not None and hasattr(transport, "get_extra_info"):
        return _of_request(_kept_connection(transport), port, protocol)
    tls = (scope.get("extensions") or {}).get("tls")
    client, server = scope.get("client") or ("", 0), scope.get("server") or ("", 0)
    is_tls = tls is not None or scope.get("scheme") in ("https", "wss")
    chain = tuple(map(ssl.PEM_cert_to_DER_cert, (tls.get("client_cert_chain") if tls else None) or ()))
    return Connection(
        is_tls=is_tls,
        peer=_read(chain[0]) if chain else None,
        peer_certificates=chain,
        source_ip=client[0],
        source_port=client[1] or 0,
        destination_ip=server[0],
        destination_port=server[1] or port or 0,
        protocol=protocol,
        untold=_untold(server[0], has_server_name=not is_tls)
        | _untold_of_tls(is_tls, has_peer=tls is not None, has_parameters=False)
        | _untold_source(client[0], is_unix=bool(server[0]) and server[1] is None)
        | _rewritten(name.decode("latin-1").lower() for name, _ in scope["headers"]),
    )


def _kept_connection(transport: Any) -> Connection:
    """The connection of a server's own transport; its protocol object keeps what was found out at the first request."""
    holder = transport.get_protocol() if hasattr(transport, "get_protocol") else None
    known: Connection | None = getattr(holder, _KNOWN, None)
    if known is None:
        known = connection_of_transport(transport, None)
        with contextlib.suppress(AttributeError):
            setattr(holder, _KNOWN, known)
    return known


def wsgi_connection(environ: Mapping[str, Any], port: int | None = None) -> Connection:
    """The connection of a WSGI environ; `port` as in `asgi_connection`."""
    protocol = environ.get("SERVER_PROTOCOL", "HTTP/1.1")
    known = environ.get(CONNECTION)
    if known is not None:
        return _of_request(known, port, protocol)
    accepted = _accepted(environ)
    if not isinstance(accepted, socket.socket):
        return _told_connection(environ, port)
    secured = accepted if isinstance(accepted, ssl.SSLSocket) else None
    known = getattr(secured, _KNOWN, None)
    if known is not None:
        return _of_request(known, port, protocol)
    source, destination = _address(_peer_name(accepted)), _address(accepted.getsockname())
    connection = Connection(
        server_name=server_name_of(secured) if secured is not None else "",
        is_tls=secured is not None,
        peer=_read(secured.getpeercert(binary_form=True)) if secured is not None else None,
        peer_certificates=sent_chain(secured) if secured is not None else (),
        tls_version=_version(secured),
        tls_cipher=_cipher(secured),
        source_ip=source[0],
        source_port=source[1],
        destination_ip=destination[0],
        destination_port=destination[1] or port or 0,
        protocol=protocol,
        hang_up=partial(_shut_down, weakref.ref(accepted)),
        untold=_untold(destination[0], has_server_name=True)
        | _untold_of_tls(secured is not None, has_peer=True, has_parameters=True)
        | _untold_source(source[0], is_unix=accepted.family == _UNIX),
    )
    if secured is not None:
        # A connection brings many requests, and what was said in its handshake stays.
        setattr(secured, _KNOWN, connection)
    return connection


def _told_connection(environ: Mapping[str, Any], port: int | None) -> Connection:
    """What the environ of a server says that shows no socket."""
    is_tls = environ.get("wsgi.url_scheme") == "https"
    source, destination = environ.get("REMOTE_ADDR", ""), environ.get("SERVER_NAME", "")
    names = (name[5:].replace("_", "-").lower() for name in environ if name.startswith("HTTP_"))
    return Connection(
        is_tls=is_tls,
        source_ip=source,
        source_port=_port(environ.get("REMOTE_PORT")),
        destination_ip=destination,
        destination_port=_port(environ.get("SERVER_PORT")) or port or 0,
        protocol=environ.get("SERVER_PROTOCOL", "HTTP/1.1"),
        untold=_untold(destination, has_server_name=not is_tls)
        | _untold_of_tls(is_tls, has_peer=False, has_parameters=False)
        | _untold_source(source, is_unix=False)
        | _rewritten(names),
    )


# By what servers and middlewares rewrite what they tell of a connection.
_FORWARDING = frozenset(
    "forwarded x-forwarded-for x-forwarded-proto x-forwarded-protocol x-forwarded-scheme x-forwarded-ssl x-real-ip"
    " x-client-ip true-client-ip cf-connecting-ip x-scheme x-url-scheme front-end-https".split()
)
_REWRITTEN = frozenset({Fact.SOURCE, Fact.SECURED})


def _rewritten(names: Iterable[str]) -> frozenset[Fact]:
    """What a server that shows no socket may have taken from a header instead."""
    return frozenset() if _FORWARDING.isdisjoint(names) else _REWRITTEN


def _of_request(known: Connection, port: int | None, protocol: str) -> Connection:
    """A connection as one of its requests has it: HTTP's version is each one's own.

    On a unix socket there is no port, and rules about the one that configuration knows would never hold.
    """
    if port and not known.destination_port:
        known = replace(known, destination_port=port)
    return known if known.protocol == protocol else replace(known, protocol=protocol)


def _shut_down(known: weakref.ref[socket.socket]) -> None:
    accepted = known()
    if accepted is not None:
        with contextlib.suppress(OSError):
            # SSLSocket's own would wait for the peer.
            socket.socket.shutdown(accepted, socket.SHUT_RDWR)


def _peer_name(accepted: socket.socket) -> Any:
    """The peer's address; None where it has gone already."""
    try:
        return accepted.getpeername()
    except OSError:
        return None


def _accepted(environ: Mapping[str, Any]) -> Any:
    return environ.get("gunicorn.socket") or environ.get("werkzeug.socket")


def _untold(destination: str, *, has_server_name: bool) -> frozenset[Fact]:
    """What the server keeps to itself."""
    facts = set() if has_server_name else {Fact.SERVER_NAME}
    address = parse_address(destination)
    is_told = address is not None and not address.is_unspecified
    return frozenset(facts if is_told else facts | {Fact.DESTINATION_IP})


def _untold_of_tls(is_tls: bool, *, has_peer: bool, has_parameters: bool) -> frozenset[Fact]:
    """What a server that terminates TLS by itself keeps of it to itself."""
    if not is_tls:
        return frozenset()
    known = {Fact.PEER: has_peer, Fact.TLS_PARAMETERS: has_parameters, Fact.OWN_CERTIFICATE: False}
    return frozenset(fact for fact, is_told in known.items() if not is_told)


def _untold_source(address: str, *, is_unix: bool) -> frozenset[Fact]:
    """A peer on a unix socket has no address, which is known; where a server gives none otherwise, it does not tell."""
    return frozenset() if is_unix or parse_address(address) is not None else frozenset({Fact.SOURCE})


def connection_of_transport(transport: Any, own_uri: str | None) -> Connection:
    """The connection of an asyncio transport, its TLS handshake done.

    Args:
        transport: The connection's.
        own_uri: The URI of this side's certificate; None where TLS is not ours, and little of it is known.
    """
    is_ours = own_uri is not None
    secured: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    source = _address(transport.get_extra_info("peername"))
    destination = _address(transport.get_extra_info("sockname"))
    chosen = secured.selected_alpn_protocol() if secured is not None else None
    return Connection(
        is_tls=secured is not None,
        peer=_read(secured.getpeercert(binary_form=True)) if secured is not None else None,
        peer_certificates=sent_chain(secured) if secured is not None else (),
        source_ip=source[0],
        source_port=source[1],
        destination_ip=destination[0],
        destination_port=destination[1],
        server_name=server_name_of(secured) if secured is not None else "",
        application_protocols=(chosen,) if chosen else (),
        own_uri=own_uri or "" if secured is not None else "",
        tls_version=_version(secured),
        tls_cipher=_cipher(secured),
        is_watched=is_ours,
        untold=_untold(destination[0], has_server_name=is_ours or secured is None)
        | (frozenset({Fact.OWN_CERTIFICATE}) if secured is not None and not is_ours else frozenset()),
    )


def _version(secured: ssl.SSLObject | ssl.SSLSocket | None) -> str:
    return (secured.version() or "") if secured is not None else ""


def _cipher(secured: ssl.SSLObject | ssl.SSLSocket | None) -> str:
    chosen = secured.cipher() if secured is not None else None
    return chosen[0] if chosen is not None else ""


def _address(address: Any) -> tuple[str, int]:
    return (str(address[0]), int(address[1])) if isinstance(address, tuple) and len(address) >= 2 else ("", 0)


def _read(der: bytes | None) -> PeerCertificate | None:
    """A certificate that cannot be read proves nothing."""
    if der is None:
        return None
    try:
        return read_peer(der)
    except PeerIdentityError:
        return None


def _port(text: Any) -> int:
    return int(text) if str(text).isdecimal() else 0
