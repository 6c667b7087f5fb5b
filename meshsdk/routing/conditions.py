"""The conditions of a route, compiled. Each says whether it holds, and in words why it does not.

Sources: Envoy source/common/http/header_utility.cc (HeaderUtility::matchHeaders) and
source/common/router/config_utility.cc (ConfigUtility::QueryParameterMatcher) for what missing values mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import re2
from msgspec import Struct

from ..resources import (
    FractionalPercent,
    HeaderMatcher,
    HeaderMatchKind,
    PathMatch,
    PathMatchKind,
    QueryParameterMatcher,
    RouteMatch,
    StringMatcher,
    StringMatchKind,
)
from .request_head import RequestHead
from .string_match import compile_header_string, compile_regex_match
from .timeouts import is_grpc

__all__ = [
    "Condition",
    "compile_conditions",
    "compile_header",
    "compile_path",
    "compile_query_parameter",
    "no_chance",
]

RandomFraction = Callable[[], float]


def no_chance() -> float:
    """For conditions that stand where chance has no part: they take a random number, and do not use it."""
    return 0.0


class Condition(Protocol):
    """One thing that must hold for a route to match."""

    def holds(self, head: RequestHead, random_fraction: RandomFraction) -> bool:
        """Whether it holds for this request."""

    def why_not(self, head: RequestHead) -> str:
        """In words: what was asked, and what the request has instead."""


def compile_conditions(match: RouteMatch) -> tuple[Condition, ...]:
    """All conditions of a route but its path, cheapest first."""
    return tuple(_conditions(match))


def _conditions(match: RouteMatch) -> Iterable[Condition]:
    if match.never:
        yield _NeverCondition(match.never)
    if match.path.kind is PathMatchKind.CONNECT:
        yield _MethodCondition("CONNECT")
    for header in match.headers:
        yield compile_header(header)
    for parameter in match.query_parameters:
        yield compile_query_parameter(parameter)
    if match.grpc:
        yield _GrpcCondition()
    if match.runtime_fraction is not None:
        yield _FractionCondition(match.runtime_fraction)


class PathCondition(Struct, frozen=True):
    """The path condition: a test of the path without query."""

    match: PathMatch
    test: Callable[[str], bool]

    def holds(self, head: RequestHead, random_fraction: RandomFraction) -> bool:
        """See `Condition`."""
        return self.test(head.path)

    def why_not(self, head: RequestHead) -> str:
        """See `Condition`."""
        case = "" if self.match.case_sensitive else ", in any case"
        return f"path {head.path!r} does not match {self.match.kind.value} {self.match.value!r}{case}"


def compile_path(match: PathMatch, *, ignore_parameters: bool = False) -> PathCondition:
    """The compiled path condition (RouteMatch.path_specifier).

    Args:
        match: The condition.
        ignore_parameters: Leave out path parameters (RouteConfiguration.ignore_path_parameters_in_path_matching).
    """
    condition = _compile_path(match)
    # Envoy: path templates look at parameters all the same.
    if not ignore_parameters or match.kind is PathMatchKind.TEMPLATE:
        return condition
    test = condition.test
    return PathCondition(match, lambda path: test(without_parameters(path)))


_PARAMETERS = re2.compile(";[^/]*")


def without_parameters(path: str) -> str:
    """The path without what follows a semicolon in each segment."""
    return str(_PARAMETERS.sub("", path)) if ";" in path else path


def _compile_path(match: PathMatch) -> PathCondition:
    if match.kind is PathMatchKind.REGEX:
        return PathCondition(match, compile_regex_match(match.value))
    if match.template is not None:
        return PathCondition(match, compile_regex_match(match.template.regex))
    if match.kind is PathMatchKind.CONNECT:
        return PathCondition(match, lambda path: True)
    value = match.value if match.case_sensitive else match.value.lower()
    if match.kind is PathMatchKind.PREFIX:
        test = _starts_with(value)
    elif match.kind is PathMatchKind.EXACT:
        test = value.__eq__
    else:
        test = _starts_with_segment(value)
    if match.case_sensitive:
        return PathCondition(match, test)
    return PathCondition(match, lambda path: test(path.lower()))


def _starts_with(prefix: str) -> Callable[[str], bool]:
    return lambda path: path.startswith(prefix)


def _starts_with_segment(prefix: str) -> Callable[[str], bool]:
    """RouteMatch.path_separated_prefix: the prefix itself, or the prefix and a slash."""
    with_slash = prefix + "/"
    return lambda path: path == prefix or path.startswith(with_slash)


class _HeaderCondition(Struct, frozen=True):
    """A header has, or has not, a value that passes a test; of several values one is enough.

    Attributes:
        test: Of one value.
        expected: Whether some value must pass, or none may (HeaderMatcher.invert_match).
        if_missing: The result where the header is not there.
    """

    name: str
    test: Callable[[str], bool]
    expected: bool
    if_missing: bool
    wanted: str

    def holds(self, head: RequestHead, random_fraction: RandomFraction) -> bool:
        values = head.values(self.name)
        if not values:
            return self.if_missing
        return any(map(self.test, values)) is self.expected

    def why_not(self, head: RequestHead) -> str:
        return f"header {self.name} {self.wanted}: {_shown(head.header(self.name))}"


class _ExactHeaderCondition(Struct, frozen=True):
    """The commonest header condition, without a detour: a header has exactly this value."""

    name: str
    raw_name: bytes
    raw_value: bytes
    wanted: str

    def holds(self, head: RequestHead, random_fraction: RandomFraction) -> bool:
        name, value, size = self.raw_name, self.raw_value, len(self.raw_name)
        for one, found in head.raw_headers:  # noqa: SIM110 - every request comes by here.
            if found == value and len(one) == size and one.lower() == name:
                return True
        return False

    def why_not(self, head: RequestHead) -> str:
        return f"header {self.name} {self.wanted}: {_shown(head.header(self.name))}"


def compile_header(matcher: HeaderMatcher) -> Condition:
    """The compiled condition of a HeaderMatcher."""
    string, wanted = matcher.string, _describe_header(matcher)
    is_exact = string is not None and string.kind is StringMatchKind.EXACT and not string.ignore_case
    is_ordinary = not matcher.name.startswith(":") and matcher.name != "host"
    if string is not None and is_exact and is_ordinary and not (matcher.invert or matcher.missing_as_empty):
        raw_name = matcher.name.encode("latin-1", "replace")
        return _ExactHeaderCondition(matcher.name, raw_name, string.value.encode(), wanted)
    if matcher.kind is HeaderMatchKind.PRESENT:
        expected = matcher.present != matcher.invert
        if_missing = expected if matcher.missing_as_empty else not expected
        return _HeaderCondition(matcher.name, lambda value: True, expected, if_missing, wanted)
    test, expected = _value_test(matcher), not matcher.invert
    # A missing header does not match, inverted or not, unless it counts as empty.
    if_missing = matcher.missing_as_empty and test("") is expected
    return _HeaderCondition(matcher.name, test, expected, if_missing, wanted)


def _value_test(matcher: HeaderMatcher) -> Callable[[str], bool]:
    if matcher.string is not None:
        return compile_header_string(matcher.string)
    assert matcher.range is not None
    start, end = matcher.range

    def in_range(value: str) -> bool:
        digits = value.strip()
        unsigned = digits[1:] if digits[:1] in ("-", "+") else digits
        return unsigned.isdecimal() and unsigned.isascii() and len(unsigned) <= 19 and start <= int(digits) < end

    return in_range


def _describe_header(matcher: HeaderMatcher) -> str:
    modal = "must not" if matcher.invert else "must"
    if matcher.kind is HeaderMatchKind.PRESENT:
        return f"{modal} be {'present' if matcher.present else 'absent'}"
    if matcher.range is not None:
        return f"{modal} be in [{matcher.range[0]}, {matcher.range[1]})"
    assert matcher.string is not None
    return f"{modal} match {_describe_string(matcher.string)}"


def _describe_string(matcher: StringMatcher) -> str:
    return f"{matcher.kind.value} {matcher.value!r}{', in any case' if matcher.ignore_case else ''}"


def _shown(value: str | None) -> str:
    return "it is not there" if value is None else f"it is {value!r}"


class _QueryParameterCondition(Struct, frozen=True):
    name: str
    test: Callable[[str | None], bool]
    wanted: str

    def holds(self, head: RequestHead, random_fraction: RandomFraction) -> bool:
        return self.test(head.query_parameter(self.name))

    def why_not(self, head: RequestHead) -> str:
        return f"query parameter {self.name} {self.wanted}: {_shown(head.query_parameter(self.name))}"


def compile_query_parameter(matcher: QueryParameterMatcher) -> Condition:
    """A condition on one query parameter."""
    if matcher.string is None:
        wanted = "must be present" if matcher.present else "must be absent"
        return _QueryParameterCondition(matcher.name, lambda v: (v is not None) is matcher.present, wanted)
    test = compile_header_string(matcher.string)
    wanted = f"must match {_describe_string(matcher.string)}"
    return _QueryParameterCondition(matcher.name, lambda v: v is not None and test(v), wanted)


class _NeverCondition(Struct, frozen=True):
    """A condition that no request of a client meets."""

    reason: str

    def holds(self, head: RequestHead, random_fraction: RandomFraction) -> bool:
        return False

    def why_not(self, head: RequestHead) -> str:
        return self.reason


class _MethodCondition(Struct, frozen=True):
    method: str

    def holds(self, head: RequestHead, random_fraction: RandomFraction) -> bool:
        return head.method == self.method

    def why_not(self, head: RequestHead) -> str:
        return f"the method must be {self.method}: it is {head.method}"


class _GrpcCondition(Struct, frozen=True):
    def holds(self, head: RequestHead, random_fraction: RandomFraction) -> bool:
        return is_grpc(head)

    def why_not(self, head: RequestHead) -> str:
        return f"the request must be gRPC: content-type {_shown(head.header('content-type'))}"


class _FractionCondition(Struct, frozen=True):
    fraction: FractionalPercent

    def holds(self, head: RequestHead, random_fraction: RandomFraction) -> bool:
        return random_fraction() < self.fraction.share

    def why_not(self, head: RequestHead) -> str:
        return f"only {self.fraction.share:.2%} of requests match, by chance"
