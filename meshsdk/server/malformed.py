"""Requests that policy and application might understand differently: refused before either sees them.

What is refused is what Envoy refuses, and some that it takes though two readers may differ on it.

Sources: RFC 9110 sections 5.5, 7.2 and 8.6, RFC 9112 sections 3.2 and 6; Envoy docs, http_conn_man/header_validation;
source/common/http/{header_utility,http1/codec_impl,http1/balsa_parser}.cc.
"""

from __future__ import annotations

from functools import lru_cache

import re2

from ..exchange.local_reply import LocalReply
from ..resources.listener import RequestRules, Underscores
from ..routing import RequestHead

__all__ = ["bad_request", "malformed"]

_USUAL_METHODS = frozenset("GET HEAD POST PUT DELETE OPTIONS PATCH".split())
# source/common/http/http1/balsa_parser.cc; CONNECT comes first below.
_METHODS = _USUAL_METHODS.union(
    "ACL BIND CHECKOUT COPY LINK LOCK MERGE MKACTIVITY MKCALENDAR MKCOL MOVE MSEARCH NOTIFY PROPFIND PROPPATCH PURGE"
    " REBIND REPORT SEARCH SOURCE SUBSCRIBE TRACE UNBIND UNLINK UNLOCK UNSUBSCRIBE".split()
)
# RFC 3986, section 3.2.2: a name, an address or an address of a future kind, and a port that is one. Envoy also takes
# user information and empty ports, which readers differ on, and commas, by which some servers join two Hosts.
_AUTHORITY = re2.compile(r"(?:[0-9A-Za-z._~!$&'()*+;=%-]+|\[[0-9A-Za-z._~!$&'()*+,;=:%-]+\])(?::[0-9]{1,5})?")
# Python's own readers differ on them: a route's regular expression may end before a last newline.
_ESCAPED_CONTROL = re2.compile("%(?:[01][0-9A-Fa-f]|7[Ff])")
# The digits of 2^64.
_LONGEST_LENGTH = 20
_ONCE = (b"host", b"content-length", b"transfer-encoding", b":authority")
_CHUNKED = (b"chunked", b"Chunked", b"CHUNKED")


def malformed(head: RequestHead, rules: RequestRules, protocol: str = "1.1") -> LocalReply | None:
    """The answer to a request that is none, or may be read in two ways; None for the others.

    Args:
        head: The request.
        rules: What the port takes.
        protocol: HTTP's version, as ASGI writes it: 1.1, 2.
    """
    # All names, and all values, are looked through at once: that is what most requests cost.
    by_name, headers = head.by_name(), head.raw_headers
    names = b"".join(by_name)
    if len(by_name) == len(headers):
        values = b"".join(by_name.values())
        size = len(names)
    else:
        every = [name.lower() for name, _ in headers]
        for once in _ONCE:
            if every.count(once) > 1:
                return bad_request(f"{once.decode()} stands twice")
        values = b"".join([value for _, value in headers])
        size = len(b"".join(every))
    if len(headers) > rules.max_headers or size + len(values) + len(head.target) > rules.max_head_bytes:
        return LocalReply(431, flag="DPE", details="http1.headers_too_large")
    if b":" in names and any(name[:1] == b":" and name not in _ONCE for name in by_name):
        return bad_request("a pseudo-header in the place of a header")
    if b"_" in names and rules.underscores is Underscores.REJECT_REQUEST:
        return LocalReply(400, flag="DPE", details="http1.unexpected_underscore")
    if b"\r" in values or b"\n" in values or b"\0" in values:
        return bad_request("a control character in a header")
    return _odd_framing(by_name, protocol, rules) or _odd_line(head, by_name)


def _odd_framing(by_name: dict[bytes, bytes], protocol: str, rules: RequestRules) -> LocalReply | None:
    """What is wrong with the length of the body, or with HTTP's version."""
    length, coding = by_name.get(b"content-length"), by_name.get(b"transfer-encoding")
    if length is not None and not (length.isdigit() and len(length) <= _LONGEST_LENGTH):
        return bad_request("the Content-Length is no number")
    if length is not None and coding is not None:
        return bad_request("a Content-Length beside a Transfer-Encoding")
    if coding is not None and coding not in _CHUNKED and coding.lower() != b"chunked":
        return LocalReply(501, flag="DPE", details="http1.invalid_transfer_encoding")
    if protocol != "1.1" and protocol not in ("2", "3") and not (protocol == "1.0" and rules.accepts_http_10):
        return LocalReply(426, flag="DPE", details="low_version")
    return None


def _odd_line(head: RequestHead, by_name: dict[bytes, bytes]) -> LocalReply | None:
    """What is wrong with method, target or host."""
    if not head.authority and b"host" not in by_name:
        return bad_request("no Host")
    if not _is_authority(head.authority):
        return bad_request("the Host is none")
    target = head.target
    if not target.startswith("/") and not (target == "*" and head.method == "OPTIONS"):
        return bad_request("the target is no path")
    if not (target.isascii() and target.isprintable()) or (
        "%" in target and _ESCAPED_CONTROL.search(head.path) is not None
    ):
        return bad_request("a control character in the path")
    method = head.method
    if method not in _USUAL_METHODS and method not in _METHODS:
        if method == "CONNECT":
            return LocalReply(404, flag="NR", details="route_not_found")
        return bad_request("the method is none")
    return None


@lru_cache(maxsize=1024)
def _is_authority(text: str) -> bool:
    """Whether a Host is one: the same few come again and again."""
    return _AUTHORITY.fullmatch(text) is not None


def bad_request(why: str) -> LocalReply:
    """A 400 that says why."""
    body = b"Bad Request: " + why.encode()
    return LocalReply(400, body, ((b"content-type", b"text/plain"),), flag="DPE", details="http1.codec_error")
