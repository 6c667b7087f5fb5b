"""What nobody who looks may see: keys, passwords, and what lets a caller in.

Source: Envoy's protos mark their secret fields (udpa.annotations.sensitive), and /config_dump shows "[redacted]" for
them (Envoy docs, operations/admin). Headers and query parameters have no such mark; their names tell.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable

from ..routing import RequestHead

__all__ = ["REDACTED", "is_sensitive", "shown_head", "shown_target", "shown_url"]

REDACTED = "[redacted]"

_SAYS_SECRET = ("auth", "cookie", "token", "secret", "password", "passwd", "credential", "session", "api-key", "apikey")
_SAYS_SECRET_TOO = ("key", "sig", "signature", "code", "pwd", "x-forwarded-client-cert")


def is_sensitive(name: str) -> bool:
    """Whether a header or parameter of that name may let its bearer in."""
    name = name.lower()
    # The pseudo-header of HTTP/2 says where a request goes.
    return name != ":authority" and (name in _SAYS_SECRET_TOO or any(word in name for word in _SAYS_SECRET))


def shown_headers(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Headers, without the values of those that are secret."""
    return [(name, REDACTED.encode() if is_sensitive(name.decode("latin-1")) else value) for name, value in headers]


def shown_target(target: str) -> str:
    """A path with its query, without the values of parameters that are secret."""
    path, mark, query = target.partition("?")
    if not mark:
        return target
    parts = []
    for part in query.split("&"):
        name, equals, _ = part.partition("=")
        is_secret = bool(equals) and is_sensitive(urllib.parse.unquote_plus(name))
        parts.append(f"{name}={REDACTED}" if is_secret else part)
    return f"{path}?{'&'.join(parts)}"


def shown_head(head: RequestHead) -> RequestHead:
    """A request, as it may be shown."""
    return RequestHead(
        head.method, head.scheme, head.authority, shown_target(head.target), shown_headers(head.raw_headers)
    )


def shown_url(head: RequestHead) -> str:
    """A request's URL, as it may be shown."""
    return f"{head.scheme}://{head.authority}{shown_target(head.target)}"
