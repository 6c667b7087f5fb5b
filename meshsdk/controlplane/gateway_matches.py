"""Conditions of HTTPRoute and GRPCRoute (Gateway API: HTTPRouteMatch, GRPCRouteMatch), as Istio's.

Source: istio/istio pilot/pkg/config/kube/gateway/conversion.go (createURIMatch, createGRPCURIMatch, …); what is refused
is what the CRDs of Gateway API refuse.
"""

from __future__ import annotations

import re2

from ..resources.values import regex_problem
from .fields import Fields
from .http_rules import HttpMatch, StringMatch

__all__ = ["NAME", "parse_grpc_match", "parse_http_match"]

# Names of headers and query parameters (RFC 9110, token).
NAME = re2.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+")

_ANY_PATH = StringMatch("path_separated_prefix", "/")
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
_PATH_TYPES = ("Exact", "PathPrefix", "RegularExpression")
_VALUE_TYPES = ("Exact", "RegularExpression")
_PATH_CHARACTERS = re2.compile(r"(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})+")
_NOT_IN_PATHS = ("//", "/./", "/../", "%2f", "%2F")
_NOT_AT_ENDS = ("/..", "/.")
_GRPC_SERVICE = re2.compile(r"(?i)\.?[a-z_][a-z_0-9]*(\.[a-z_][a-z_0-9]*)*")
_GRPC_METHOD = re2.compile(r"[A-Za-z_][A-Za-z_0-9]*")


def parse_http_match(match: Fields) -> HttpMatch:
    """A condition of an HTTPRoute; without a path it is for all of them."""
    match.refuse_empty("path", "method", "headers", "queryParams")
    path = match.child("path")
    method = match.choice("method", _METHODS)
    parsed = HttpMatch(
        uri=_path_match(path) if path is not None else _ANY_PATH,
        method=StringMatch("exact", method) if method else None,
        headers=_value_matches(match, "headers"),
        query_params=_value_matches(match, "queryParams"),
    )
    match.finish_exactly()
    return parsed


def parse_grpc_match(match: Fields) -> HttpMatch:
    """A condition of a GRPCRoute; without a method it is for all of them."""
    match.refuse_empty("method", "headers")
    method = match.child("method")
    parsed = HttpMatch(
        uri=_method_match(method) if method is not None else None, headers=_value_matches(match, "headers")
    )
    match.finish_exactly()
    return parsed


def _path_match(path: Fields) -> StringMatch:
    kind = path.choice("type", _PATH_TYPES) or "PathPrefix"
    value = path.text("value", "/")
    path.finish_exactly()
    if kind == "RegularExpression":
        return _regex(path, value)
    if not value.startswith("/"):
        raise path.error("value", f"must begin with a slash, is {value!r}")
    found = [one for one in _NOT_IN_PATHS if one in value] + [one for one in _NOT_AT_ENDS if value.endswith(one)]
    if found:
        raise path.error("value", f"must not have {found[0]!r}, is {value!r}")
    if not _PATH_CHARACTERS.fullmatch(value):
        raise path.error("value", f"has characters that no path has, is {value!r}")
    if kind == "Exact":
        return StringMatch("exact", value)
    return StringMatch("path_separated_prefix", value.removesuffix("/") or "/")


def _method_match(method: Fields) -> StringMatch:
    """`/service/method`, as far as it is said."""
    kind = method.choice("type", _VALUE_TYPES) or "Exact"
    service, name = method.text("service"), method.text("method")
    method.finish_exactly()
    if not service and not name:
        raise method.error("service", "service or method must be set")
    if kind == "Exact":
        for field, value, known in (("service", service, _GRPC_SERVICE), ("method", name, _GRPC_METHOD)):
            if value and not known.fullmatch(value):
                raise method.error(field, f"has characters that no name of gRPC has, is {value!r}")
        if service and name:
            return StringMatch("exact", f"/{service}/{name}")
        if service:
            return StringMatch("path_separated_prefix", f"/{service}/")
    return _regex(method, f"/{service or '[^/]+'}/{name or '.+'}")


def _value_matches(match: Fields, name: str) -> dict[str, StringMatch | None]:
    found: dict[str, StringMatch | None] = {}
    for condition in match.children(name):
        key, value = condition.required_text("name"), condition.required_text("value")
        is_regex = condition.choice("type", _VALUE_TYPES) == "RegularExpression"
        condition.finish_exactly()
        if not NAME.fullmatch(key):
            raise condition.error("name", f"has characters that no name has, is {key!r}")
        if key in found:
            raise condition.error("name", f"{key!r} stands here twice")
        if is_regex and value == "*":
            # route.go, canBeConvertedToPresentMatch: it is there, whatever it is.
            found[key] = None
        else:
            found[key] = _regex(condition, value) if is_regex else StringMatch("exact", value)
    return found


def _regex(holder: Fields, value: str) -> StringMatch:
    problem = regex_problem(value)
    if problem:
        raise holder.error("value", f"is no regular expression of RE2, {value!r}: {problem}")
    return StringMatch("regex", value)
