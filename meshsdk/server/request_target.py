"""The target of a request line: which path it names, and whose.

A target in absolute form names its host, and then the Host header does not count (RFC 9112 section 3.2.2).

Source: Envoy, source/common/http/http1/codec_impl.cc (handlePath) and source/common/http/utility.cc (Url::initialize).
"""

from __future__ import annotations

import re2

__all__ = ["is_below", "origin_form"]

# The characters of http_parser_parse_url, which Envoy asks: a host of others is refused, not matched.
_USER = rb"[a-z0-9\-_.!~*'()%;:&=+$,]+@"
_HOST = rb"[a-z0-9.\-]+|\[[0-9a-f:.]+\]"
_PORT = rb"[0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"
_ABSOLUTE = re2.compile(rb"(?i)https?://(?:%b)?((?:%b)(?::(?:%b))?)(/.*)?" % (_USER, _HOST, _PORT))


def origin_form(target: bytes) -> tuple[bytes, bytes | None]:
    """A target as path and query, and the host that it names where it is absolute. What is neither stays as it is."""
    if target[:1] == b"/":
        return target, None
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        return target, None
    return absolute[2] or b"/", absolute[1]


def is_below(path: str, prefix: str) -> bool:
    """Whether a path leads to an application that is mounted at a prefix."""
    return path.startswith(prefix) and (not prefix or path[len(prefix) :][:1] in ("", "/"))
