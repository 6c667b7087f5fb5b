"""CEL conditions, carried out by cel-cpp.

An expression that fails, as on a header that is not there, does not hold; Envoy does the same.

Sources: Envoy docs, advanced/attributes; source/extensions/filters/common/expr/{evaluator,context}.cc.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...resources.matching import CelCondition, cel_environment, cel_now
from ...routing.string_match import header_text
from ..connection import address_text
from ..request import InboundRequest

__all__ = ["compile_cel"]

_MISSING = object()
_LARGEST = 2**63 - 1


def compile_cel(condition: CelCondition) -> Callable[[InboundRequest], bool]:
    """A function that says whether a condition holds for a request."""
    expression = cel_environment().deserialize(condition.serialized)
    asked = [(root, attribute, _ATTRIBUTES[root, attribute]) for root, attribute in sorted(condition.attributes)]
    roots = sorted({root for root, _, _ in asked})

    def holds(request: InboundRequest) -> bool:
        data: dict[str, dict[str, object]] = {root: {} for root in roots}
        for root, attribute, read in asked:
            value = read(request)
            if value is not _MISSING:
                data[root][attribute] = value
        return expression.eval(data=data).value() is True

    return holds


def _headers(request: InboundRequest) -> dict[str, str]:
    head = request.head
    told = {":method": head.method, ":path": head.target, ":scheme": head.scheme, ":authority": head.authority}
    for raw_name, raw_value in head.raw_headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("utf-8", "replace")
        if name != "host":
            told[name] = f"{told[name]},{value}" if name in told else value
    return told


def _header(name: str) -> Callable[[InboundRequest], object]:
    def read(request: InboundRequest) -> object:
        value = request.head.header(name)
        return _MISSING if value is None else header_text(value, "replace")

    return read


def _size(request: InboundRequest) -> object:
    """What Content-Length says; where there is none, nothing of the body has come when it is asked."""
    declared = request.head.header("content-length")
    if declared is None:
        return 0
    # Longer ones are no number to Envoy either, and Python refuses to read very long ones.
    is_number = declared.isdecimal() and len(declared) <= len(str(_LARGEST)) and int(declared) <= _LARGEST
    return int(declared) if is_number else _MISSING


def _address(ip: str, port: int) -> object:
    return address_text(ip, port) or _MISSING


def _of_peer(kind: str) -> Callable[[InboundRequest], object]:
    """The first name of a kind, as Envoy's attribute is one string."""

    def read(request: InboundRequest) -> object:
        peer = request.connection.peer
        names = peer.values(kind) if peer is not None else ()
        return names[0] if names else _MISSING

    return read


def _peer(read: Callable[[Any], object]) -> Callable[[InboundRequest], object]:
    """Of a certificate; empty where none is shown over TLS, as in Envoy."""

    def of(request: InboundRequest) -> object:
        connection = request.connection
        if connection.peer is not None:
            return read(connection.peer)
        return "" if connection.is_tls else _MISSING

    return of


_ATTRIBUTES: dict[tuple[str, str], Callable[[InboundRequest], object]] = {
    ("request", "path"): lambda request: request.head.target,
    ("request", "url_path"): lambda request: request.head.target.partition("?")[0],
    ("request", "query"): lambda request: request.head.target.partition("?")[2].partition("#")[0],
    ("request", "host"): lambda request: request.head.authority,
    ("request", "scheme"): lambda request: request.head.scheme,
    ("request", "method"): lambda request: request.head.method,
    ("request", "headers"): _headers,
    ("request", "referer"): _header("referer"),
    ("request", "useragent"): _header("user-agent"),
    ("request", "id"): _header("x-request-id"),
    ("request", "size"): _size,
    ("request", "protocol"): lambda request: request.connection.protocol,
    # A request is decided on when it has come.
    ("request", "time"): lambda request: cel_now(),
    # It is known when the request has ended.
    ("request", "duration"): lambda request: _MISSING,
    ("source", "address"): lambda request: _address(str(request.remote or ""), request.remote_port),
    ("source", "port"): lambda request: request.remote_port,
    ("destination", "address"): lambda request: _address(
        request.connection.destination_ip, request.connection.destination_port
    ),
    ("destination", "port"): lambda request: request.connection.destination_port,
    ("connection", "mtls"): lambda request: request.connection.peer is not None,
    ("connection", "requested_server_name"): lambda request: request.connection.server_name,
    ("connection", "subject_peer_certificate"): _peer(lambda peer: peer.subject),
    ("connection", "uri_san_peer_certificate"): _of_peer("URI"),
    ("connection", "dns_san_peer_certificate"): _of_peer("DNS"),
    ("connection", "sha256_peer_certificate_digest"): _peer(lambda peer: peer.sha256),
    ("connection", "uri_san_local_certificate"): lambda request: request.connection.own_uri or _MISSING,
    ("metadata", "filter_metadata"): lambda request: request.metadata,
}
