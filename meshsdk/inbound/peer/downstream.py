"""What header changes of a server may ask of a request's connection, its peer and what filters said.

Sources: Envoy docs, observability/access_log/usage (command operators DOWNSTREAM_…); source/common/formatter.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache, partial
from typing import Any

import re2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from ...errors import ResourceError
from ...resources import HeaderMutations
from ...routing.formatter import FormatContext, format_time
from ...routing.header_mutation import MutationLevel, compile_mutations
from ..connection import address_text
from ..request import InboundRequest

__all__ = [
    "check_changes",
    "check_operators",
    "compile_changes",
    "connection_value",
    "escaped_pem",
    "format_context",
]


def format_context(request: InboundRequest, **more: Any) -> FormatContext:
    """What the command operators of a server's header changes are given."""
    return FormatContext(
        request.head,
        route=request.route_name,
        dynamic_metadata=request.metadata,
        route_metadata=request.route_metadata,
        downstream=partial(connection_value, request),
        **more,
    )


def compile_changes(levels: Sequence[HeaderMutations], where: str) -> tuple[MutationLevel, ...]:
    """A server's header changes.

    Raises:
        ResourceError: See `check_changes`; or a format string is wrong.
    """
    check_changes(levels, where)
    return compile_mutations(levels, where)


def check_changes(levels: Sequence[HeaderMutations], where: str) -> None:
    """The application may go by a header that tells of its peer, and would get a stranger's where ours cannot be made.

    Raises:
        ResourceError: A value asks of a connection what is not known here.
    """
    for level in levels:
        for addition in level.add:
            check_operators(addition.value, f"{where} header {addition.name}")


def check_operators(text: str, where: str) -> None:
    """See `check_changes`.

    Raises:
        ResourceError: A format string asks of a connection what is not known here.
    """
    for operator in _ABOUT_CONNECTIONS.findall(text):
        if operator not in _OPERATORS:
            raise ResourceError(where, f"%{operator}% is not known to servers")


def escaped_pem(der: bytes) -> str:
    """A certificate as PEM, escaped for URLs, as Envoy writes it into headers."""
    return urllib.parse.quote(_certificate(der).public_bytes(Encoding.PEM).decode(), safe="")


def connection_value(request: InboundRequest, operator: str, arguments: str) -> str:
    """The value of an operator that is about a request's connection; empty where there is none."""
    read = _OPERATORS.get(operator)
    return read(request, arguments) if read is not None else ""


@lru_cache(maxsize=256)
def _certificate(der: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(der)


# And about what filters keep of them.
_ABOUT_CONNECTIONS = re2.compile(r"%(DOWNSTREAM_[A-Z_0-9]+|FILTER_STATE|PER_REQUEST_STATE)")

Read = Callable[[InboundRequest, str], str]


def _of_peer(read: Callable[[x509.Certificate], str]) -> Read:
    def value(request: InboundRequest, arguments: str) -> str:
        peer = request.connection.peer
        return read(_certificate(peer.der)) if peer is not None else ""

    return value


def _names(kind: str) -> Read:
    def value(request: InboundRequest, arguments: str) -> str:
        peer = request.connection.peer
        return ",".join(peer.values(kind)) if peer is not None else ""

    return value


def _of_chain(read: Callable[[x509.Certificate], str]) -> Read:
    def value(request: InboundRequest, arguments: str) -> str:
        return ",".join(read(_certificate(one)) for one in request.connection.peer_certificates)

    return value


def _moment(read: Callable[[x509.Certificate], datetime]) -> Read:
    def value(request: InboundRequest, arguments: str) -> str:
        peer = request.connection.peer
        if peer is None:
            return ""
        moment = read(_certificate(peer.der))
        return format_time(arguments or "%Y-%m-%dT%H:%M:%E3SZ", int(moment.timestamp()) * 1_000_000_000)

    return value


def _sha256(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()


def _sha1(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA1()).hex()


def _serial(certificate: x509.Certificate) -> str:
    text = f"{certificate.serial_number:x}"
    return text.zfill(len(text) + len(text) % 2)


def _remote_ip(request: InboundRequest) -> str:
    return str(request.remote or "")


_OPERATORS: dict[str, Read] = {
    "PROTOCOL": lambda request, _: request.connection.protocol,
    "REQUESTED_SERVER_NAME": lambda request, _: request.connection.server_name,
    "DOWNSTREAM_REMOTE_ADDRESS": lambda request, _: address_text(_remote_ip(request), request.remote_port),
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": lambda request, _: _remote_ip(request),
    "DOWNSTREAM_REMOTE_PORT": lambda request, _: str(request.remote_port) if _remote_ip(request) else "",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS": lambda request, _: address_text(
        request.connection.source_ip, request.connection.source_port
    ),
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT": lambda request, _: request.connection.source_ip,
    "DOWNSTREAM_DIRECT_REMOTE_PORT": lambda request, _: str(request.connection.source_port or ""),
    "DOWNSTREAM_LOCAL_ADDRESS": lambda request, _: address_text(
        request.connection.destination_ip, request.connection.destination_port
    ),
    "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT": lambda request, _: request.connection.destination_ip,
    "DOWNSTREAM_LOCAL_PORT": lambda request, _: str(request.connection.destination_port or ""),
    "DOWNSTREAM_LOCAL_URI_SAN": lambda request, _: request.connection.own_uri,
    "DOWNSTREAM_TLS_VERSION": lambda request, _: request.connection.tls_version,
    "DOWNSTREAM_TLS_CIPHER": lambda request, _: request.connection.tls_cipher,
    "DOWNSTREAM_PEER_URI_SAN": _names("URI"),
    "DOWNSTREAM_PEER_DNS_SAN": _names("DNS"),
    "DOWNSTREAM_PEER_IP_SAN": _names("IP"),
    "DOWNSTREAM_PEER_EMAIL_SAN": _names("EMAIL"),
    "DOWNSTREAM_PEER_SUBJECT": _of_peer(lambda certificate: certificate.subject.rfc4514_string()),
    "DOWNSTREAM_PEER_ISSUER": _of_peer(lambda certificate: certificate.issuer.rfc4514_string()),
    "DOWNSTREAM_PEER_SERIAL": _of_peer(_serial),
    "DOWNSTREAM_PEER_FINGERPRINT_256": _of_peer(_sha256),
    "DOWNSTREAM_PEER_FINGERPRINT_1": _of_peer(_sha1),
    "DOWNSTREAM_PEER_CERT": _of_peer(lambda certificate: escaped_pem(certificate.public_bytes(Encoding.DER))),
    "DOWNSTREAM_PEER_CERT_V_START": _moment(lambda certificate: certificate.not_valid_before_utc),
    "DOWNSTREAM_PEER_CERT_V_END": _moment(lambda certificate: certificate.not_valid_after_utc),
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256": _of_chain(_sha256),
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1": _of_chain(_sha1),
    "DOWNSTREAM_PEER_CHAIN_SERIALS": _of_chain(_serial),
}
