"""What a request must be like for a route, or for a rule of a filter's (envoy.config.route.v3.RouteMatch)."""

from __future__ import annotations

from enum import Enum
from typing import Any

from msgspec import Struct

from ...errors import ResourceError
from .. import protos
from ..notes import Notes
from ..values import checked_regex, optional, unpack
from .matchers import (
    FractionalPercent,
    HeaderMatcher,
    QueryParameterMatcher,
    parse_header_matcher,
    parse_query_parameter_matcher,
    parse_runtime_fraction,
)
from .path_template import UriTemplate, parse_uri_template

__all__ = ["PathMatch", "PathMatchKind", "RouteMatch", "parse_match"]

_MATCH_FIELDS = frozenset(
    "prefix path safe_regex path_separated_prefix path_match_policy connect_matcher case_sensitive headers"
    " query_parameters runtime_fraction grpc tls_context dynamic_metadata filter_state".split()
)


class PathMatchKind(Enum):
    """The alternatives of RouteMatch.path_specifier that meshsdk carries out."""

    PREFIX = "prefix"
    EXACT = "path"
    REGEX = "safe_regex"
    SEPARATED_PREFIX = "path_separated_prefix"
    TEMPLATE = "path_match_policy"
    CONNECT = "connect_matcher"


class PathMatch(Struct, frozen=True, gc=False):
    """A condition on the path without its query string.

    Attributes:
        template: For TEMPLATE; `value` is its text.
    """

    kind: PathMatchKind
    value: str
    case_sensitive: bool = True
    template: UriTemplate | None = None


class RouteMatch(Struct, frozen=True, gc=False):
    """All conditions of a route; every one must hold (envoy.config.route.v3.RouteMatch).

    Attributes:
        never: Why no request can match that comes without a client certificate, as in a client all do: a condition on
            such a certificate, on filter state or dynamic metadata. Empty for most routes.
        never_with_certificate: The same of requests that come with one.
    """

    path: PathMatch
    headers: tuple[HeaderMatcher, ...] = ()
    query_parameters: tuple[QueryParameterMatcher, ...] = ()
    runtime_fraction: FractionalPercent | None = None
    grpc: bool = False
    never: str = ""
    never_with_certificate: str = ""


def parse_match(message: Any, where: str, notes: Notes) -> RouteMatch:
    """A RouteMatch.

    Raises:
        ResourceError: It holds a condition that is not known, or a path that is none.
    """
    if len(protos.unknown_fields.UnknownFieldSet(message)):
        # A condition that is not evaluated would let the route match more than it may.
        raise ResourceError(where, "holds a condition newer than this meshsdk knows; it is refused")
    notes.unless_acted_on(message, where, _MATCH_FIELDS)
    return RouteMatch(
        path=_parse_path(message, where),
        headers=tuple(
            parse_header_matcher(header, f"{where}.headers[{index}]") for index, header in enumerate(message.headers)
        ),
        query_parameters=tuple(
            parse_query_parameter_matcher(parameter, f"{where}.query_parameters[{index}]")
            for index, parameter in enumerate(message.query_parameters)
        ),
        runtime_fraction=optional(
            message, "runtime_fraction", lambda f: parse_runtime_fraction(f, f"{where}.runtime_fraction", notes)
        ),
        grpc=message.HasField("grpc"),
        never=_why_never(message, with_certificate=False),
        never_with_certificate=_why_never(message, with_certificate=True),
    )


_PATH_KINDS = {kind.value: kind for kind in PathMatchKind}


def _parse_path(message: Any, where: str) -> PathMatch:
    which = message.WhichOneof("path_specifier")
    if which == "safe_regex":
        # RouteMatch.case_sensitive: "Ignored for safe_regex matching."
        return PathMatch(
            PathMatchKind.REGEX, checked_regex(message.safe_regex.regex, f"{where}.safe_regex.regex"), True
        )
    if which == "path_match_policy":
        path = f"{where}.path_match_policy.typed_config"
        config = unpack(
            message.path_match_policy.typed_config, protos.uri_template_match_pb2.UriTemplateMatchConfig, path
        )
        template = parse_uri_template(config.path_template, f"{path}.path_template")
        return PathMatch(PathMatchKind.TEMPLATE, template.text, True, template)
    if which == "connect_matcher":
        return PathMatch(PathMatchKind.CONNECT, "")
    case_sensitive = optional(message, "case_sensitive")
    return PathMatch(_PATH_KINDS[which], getattr(message, which), case_sensitive is not False)


def _why_never(message: Any, *, with_certificate: bool) -> str:
    """Why no request can match, with a verified client certificate or without one.

    There is no filter state, and no filter has said anything when a route is sought; an inverted metadata matcher holds
    for what is missing (Envoy: source/common/router/config_impl.cc, RouteEntryImplBase::matchRoute).
    """
    if message.filter_state:
        return "it asks for filter state, which there is none of"
    if any(not matcher.invert for matcher in message.dynamic_metadata):
        return "it asks for dynamic metadata, which there is none of yet"
    tls = message.tls_context
    asked = [value for value in (optional(tls, "presented"), optional(tls, "validated")) if value is not None]
    if any(value is not with_certificate for value in asked):
        return f"it is for requests {'with' if asked[0] else 'without'} a client certificate"
    return ""
