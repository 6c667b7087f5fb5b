"""Requests that policy and application might understand differently: refused before either sees them.

Sources: RFC 9110 section 5.5 and 7.2, RFC 9112 section 3.2; Envoy docs, http_conn_man/header_validation.
"""

from __future__ import annotations

import re2

from ..exchange.local_reply import LocalReply
from ..routing import RequestHead

__all__ = ["malformed"]

_TOKEN = re2.compile("[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_USUAL_METHODS = frozenset("GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH".split())
_ONCE = (b"host", b"content-length", b":authority")


def malformed(head: RequestHead) -> LocalReply | None:
    """A 400, where the request is ambiguous: no Host or several, pseudo-headers, control characters."""
    # All names, and all values, are looked through at once: that is what most requests cost.
    names = [name.lower() for name, _ in head.raw_headers]
    for once in _ONCE:
        if names.count(once) > 1:
            return _bad(f"{once.decode()} stands twice")
    if b":" in b"".join(names) and any(name[:1] == b":" and name not in _ONCE for name in names):
        return _bad("a pseudo-header in the place of a header")
    values = b"".join([value for _, value in head.raw_headers])
    if b"\r" in values or b"\n" in values or b"\0" in values:
        return _bad("a control character in a header")
    if not head.authority and b"host" not in names:
        return _bad("no Host")
    if not head.target.startswith("/") and head.target != "*" and head.method != "CONNECT":
        return _bad("the target is no path")
    if "\0" in head.target or "%00" in head.path:
        return _bad("NUL in the path")
    if head.method not in _USUAL_METHODS and _TOKEN.fullmatch(head.method) is None:
        return _bad("the method is none")
    return None


def _bad(why: str) -> LocalReply:
    body = b"Bad Request: " + why.encode()
    return LocalReply(400, body, ((b"content-type", b"text/plain"),), flag="DPE", details="http1.codec_error")
