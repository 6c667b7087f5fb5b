"""Sessions that stay with an endpoint (Envoy docs, http_filters/stateful_session_filter; gRFC A55).

The endpoint's address is written into a cookie or a header of the response, and read from the same of later requests.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

from ..resources import StatefulSession
from ..routing import RequestHead

__all__ = ["endpoint_of", "remember"]

Headers = Sequence[tuple[bytes, bytes]]


def endpoint_of(session: StatefulSession, head: RequestHead) -> str:
    """The address that a request's session is with; empty where it has none."""
    if session.cookie:
        return _decoded(head.cookie(session.cookie)) if _covers(session.path, head.path) else ""
    return _decoded(head.first_header(session.header) or "")


def remember(session: StatefulSession, head: RequestHead, known: str, endpoint: str, headers: Headers) -> Headers:
    """The response's headers, with the endpoint written down where the session was not with it already."""
    if session.header:
        return [*headers, (session.header.encode("latin-1"), base64.b64encode(endpoint.encode()))]
    if endpoint == known or not _covers(session.path, head.path):
        return headers
    return [*headers, (b"set-cookie", _cookie(session, endpoint).encode("latin-1"))]


def _decoded(value: str) -> str:
    """An address in base 64; as Envoy's cookie also carries it, inside a small message with an expiry."""
    try:
        decoded = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return ""
    if decoded[:1] == b"\n" and len(decoded) > 2 and len(decoded) >= 2 + decoded[1]:
        # envoy.Cookie (stateful_session/cookie.proto): field 1 is the address.
        decoded = decoded[2 : 2 + decoded[1]]
    return decoded.decode("latin-1")


def _covers(path: str, request_path: str) -> bool:
    """Whether a cookie of a path goes with a request (RFC 6265 section 5.1.4)."""
    if path in ("", "/"):
        return True
    if not request_path.startswith(path):
        return False
    return path.endswith("/") or len(request_path) == len(path) or request_path[len(path)] in "/?#"


def _cookie(session: StatefulSession, endpoint: str) -> str:
    value = base64.b64encode(endpoint.encode()).decode()
    line = f'{session.cookie}="{value}"'
    if session.ttl_seconds:
        line += f"; Max-Age={session.ttl_seconds}"
    if session.path:
        line += f"; Path={session.path}"
    for name, attribute in session.attributes:
        line += f"; {name}={attribute}" if attribute else f"; {name}"
    return line + "; HttpOnly"
