"""Requests that policy and application might understand differently: refused before either sees them.

Sources: RFC 9110 sections 5.5, 7.2 and 8.6, RFC 9112 section 3.2; Envoy docs, http_conn_man/header_validation.
"""

from __future__ import annotations

import re2

from ..exchange.local_reply import LocalReply
from ..routing import RequestHead

__all__ = ["malformed"]

_TOKEN = re2.compile("[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_USUAL_METHODS = frozenset("GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH".split())
# The digits of 2^64.
_LONGEST_LENGTH = 20
_ONCE = (b"host", b"content-length", b":authority")


def malformed(head: RequestHead) -> LocalReply | None:
    """A 400, where the request is ambiguous: no Host or several, pseudo-headers, control characters, odd lengths."""
    # All names, and all values, are looked through at once: that is what most requests cost.
    by_name, headers = head.by_name(), head.raw_headers
    if len(by_name) == len(headers):
        values = b"".join(by_name.values())
    else:
        names = [name.lower() for name, _ in headers]
        for once in _ONCE:
            if names.count(once) > 1:
                return _bad(f"{once.decode()} stands twice")
        values = b"".join([value for _, value in headers])
    if b":" in b"".join(by_name) and any(name[:1] == b":" and name not in _ONCE for name in by_name):
        return _bad("a pseudo-header in the place of a header")
    if b"\r" in values or b"\n" in values or b"\0" in values:
        return _bad("a control character in a header")
    length = by_name.get(b"content-length")
    if length is not None and not (length.isdigit() and len(length) <= _LONGEST_LENGTH):
        return _bad("the Content-Length is no number")
    if not head.authority and b"host" not in by_name:
        return _bad("no Host")
    target = head.target
    if not target.startswith("/") and target != "*" and head.method != "CONNECT":
        return _bad("the target is no path")
    if "\0" in target or "%00" in head.path:
        return _bad("NUL in the path")
    if head.method not in _USUAL_METHODS and _TOKEN.fullmatch(head.method) is None:
        return _bad("the method is none")
    return None


def _bad(why: str) -> LocalReply:
    body = b"Bad Request: " + why.encode()
    return LocalReply(400, body, ((b"content-type", b"text/plain"),), flag="DPE", details="http1.codec_error")
