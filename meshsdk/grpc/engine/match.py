"""Route conditions as grpc-core takes them.

grpc-core matches paths and metadata by itself. What is the same for every call on a channel (method, scheme,
authority, content type, no query) is decided here, once; what it cannot see is left to meshsdk (`NotNative`).

Sources: gRFC A28 and A63; grpc/grpc src/core/xds/grpc/xds_routing.cc (GetHeaderValue: binary metadata is not seen,
content-type is always application/grpc).
"""

from __future__ import annotations

import random

import re2
from envoy.config.route.v3 import route_components_pb2

from ...resources import HeaderMatcher, HeaderMatchKind, PathMatch, PathMatchKind, RouteMatch, StringMatchKind
from ...routing import RequestHead
from ...routing.conditions import compile_conditions, compile_header

__all__ = ["NotNative", "call_head", "native_match"]

# What a gRPC request's head is before any metadata (gRPC PROTOCOL-HTTP2).
_FIXED_HEADERS = ((b"content-type", b"application/grpc"), (b"te", b"trailers"))
_FIXED_NAMES = frozenset({":method", ":scheme", ":authority", "host", "content-type", "te"})

# These are made by grpc-core below its own matching, so it does not see them there.
_UNSEEN_NAMES = frozenset({":path", "grpc-timeout", "user-agent"})

_STRING_FIELDS = {
    StringMatchKind.EXACT: "exact",
    StringMatchKind.PREFIX: "prefix",
    StringMatchKind.SUFFIX: "suffix",
    StringMatchKind.CONTAINS: "contains",
}


class NotNative(Exception):
    """grpc-core cannot carry this out, so meshsdk decides; the message says what."""


def call_head(authority: str, method: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> RequestHead:
    """The head of a call as routes see it.

    Args:
        authority: Of the channel.
        method: `/package.Service/Method`.
        headers: Its metadata.
    """
    return RequestHead("POST", "http", authority, method, (*_FIXED_HEADERS, *headers))


def native_match(match: RouteMatch, authority: str) -> route_components_pb2.RouteMatch | None:
    """A route's conditions; None where no call on a channel of this authority can meet them.

    Raises:
        NotNative: A condition looks at what grpc-core does not see.
    """
    if match.never or match.path.kind is PathMatchKind.CONNECT:
        return None
    message = route_components_pb2.RouteMatch()
    _write_path(match.path, message)
    head = call_head(authority, "/")
    for header in match.headers:
        if header.name in _FIXED_NAMES:
            if not compile_header(header).holds(head, random.random):
                return None
        else:
            _write_header(header, message.headers.add())
    without_headers = RouteMatch(match.path, query_parameters=match.query_parameters)
    if not all(condition.holds(head, random.random) for condition in compile_conditions(without_headers)):
        return None
    if match.runtime_fraction is not None:
        fraction = message.runtime_fraction.default_value
        fraction.numerator = match.runtime_fraction.numerator
        fraction.denominator = _DENOMINATORS[match.runtime_fraction.denominator]
    return message


_DENOMINATORS = {100: 0, 10_000: 1, 1_000_000: 2}


def _write_path(path: PathMatch, message: route_components_pb2.RouteMatch) -> None:
    if path.kind is PathMatchKind.PREFIX:
        message.prefix = path.value
    elif path.kind is PathMatchKind.EXACT:
        message.path = path.value
    else:
        message.safe_regex.regex = _path_regex(path)
        return
    if not path.case_sensitive:
        message.case_sensitive.value = False


def _path_regex(path: PathMatch) -> str:
    if path.template is not None:
        return path.template.regex
    if path.kind is PathMatchKind.SEPARATED_PREFIX:
        flags = "" if path.case_sensitive else "(?i)"
        return f"{flags}{re2.escape(path.value)}(?:/.*)?"
    return path.value


def _write_header(matcher: HeaderMatcher, message: route_components_pb2.HeaderMatcher) -> None:
    if matcher.name in _UNSEEN_NAMES or matcher.name.endswith("-bin"):
        raise NotNative(f"a condition on {matcher.name}, which grpc-core does not see")
    if matcher.missing_as_empty:
        raise NotNative("treat_missing_header_as_empty")
    message.name = matcher.name
    message.invert_match = matcher.invert
    if matcher.kind is HeaderMatchKind.PRESENT:
        message.present_match = matcher.present
    elif matcher.range is not None:
        message.range_match.start, message.range_match.end = matcher.range
    elif matcher.string is not None:
        if matcher.string.kind is StringMatchKind.REGEX:
            message.string_match.safe_regex.regex = matcher.string.value
        else:
            setattr(message.string_match, _STRING_FIELDS[matcher.string.kind], matcher.string.value)
            message.string_match.ignore_case = matcher.string.ignore_case
