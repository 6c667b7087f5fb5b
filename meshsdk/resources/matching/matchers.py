"""Matchers that routes share: strings, headers, query parameters, percentages.

Sources: envoy.type.matcher.v3.StringMatcher, envoy.config.route.v3.{HeaderMatcher, QueryParameterMatcher},
envoy.type.v3.FractionalPercent.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from msgspec import Struct

from ...errors import ResourceError
from ..notes import Notes
from ..values import checked_regex

__all__ = [
    "FractionalPercent",
    "HeaderMatchKind",
    "HeaderMatcher",
    "QueryParameterMatcher",
    "StringMatchKind",
    "StringMatcher",
    "parse_fractional_percent",
    "parse_header_matcher",
    "parse_query_parameter_matcher",
    "parse_runtime_fraction",
    "parse_string_matcher",
]


class StringMatchKind(Enum):
    """The alternatives of StringMatcher.match_pattern."""

    EXACT = "exact"
    PREFIX = "prefix"
    SUFFIX = "suffix"
    CONTAINS = "contains"
    REGEX = "safe_regex"


class StringMatcher(Struct, frozen=True, gc=False):
    """One way to match a string. A regex must match the whole of it, by RE2."""

    kind: StringMatchKind
    value: str
    ignore_case: bool = False


class HeaderMatchKind(Enum):
    """The alternatives of HeaderMatcher.header_match_specifier."""

    STRING = "string_match"
    RANGE = "range_match"
    PRESENT = "present_match"


class HeaderMatcher(Struct, frozen=True, gc=False):
    """A condition on one request header.

    Attributes:
        name: Lower case; a pseudo-header such as `:path` is allowed.
        string: For STRING.
        range: For RANGE: [start, end) of an integer in base 10.
        present: For PRESENT: whether the header must be there or must not.
        invert: The result is turned round.
        missing_as_empty: A missing header is matched as if it were there and empty.
    """

    name: str
    kind: HeaderMatchKind
    string: StringMatcher | None = None
    range: tuple[int, int] | None = None
    present: bool = True
    invert: bool = False
    missing_as_empty: bool = False


class QueryParameterMatcher(Struct, frozen=True, gc=False):
    """A condition on one query parameter: a string match, or its presence where `string` is None."""

    name: str
    string: StringMatcher | None = None
    present: bool = True


class FractionalPercent(Struct, frozen=True, gc=False):
    """A share of all requests: `numerator` of `denominator`."""

    numerator: int
    denominator: int

    @property
    def share(self) -> float:
        """Between 0 and 1; Envoy lets a numerator above the denominator mean always."""
        return min(1.0, self.numerator / self.denominator)


_STRING_FIELDS = {kind.value: kind for kind in StringMatchKind}


def parse_string_matcher(message: Any, where: str) -> StringMatcher:
    """An envoy.type.matcher.v3.StringMatcher."""
    which = message.WhichOneof("match_pattern")
    if which not in _STRING_FIELDS:
        raise ResourceError(f"{where}.{which}", "is a matcher that meshsdk does not know")
    if which == "safe_regex":
        # StringMatcher.ignore_case: "This has no effect for the safe_regex match."
        pattern = checked_regex(message.safe_regex.regex, f"{where}.safe_regex.regex")
        return StringMatcher(StringMatchKind.REGEX, pattern)
    return StringMatcher(_STRING_FIELDS[which], getattr(message, which), message.ignore_case)


# Deprecated alternatives of HeaderMatcher that Envoy still takes, as the string matches that replace them.
_OLD_HEADER_MATCHES = {
    "exact_match": StringMatchKind.EXACT,
    "prefix_match": StringMatchKind.PREFIX,
    "suffix_match": StringMatchKind.SUFFIX,
    "contains_match": StringMatchKind.CONTAINS,
}


def parse_header_matcher(message: Any, where: str) -> HeaderMatcher:
    """An envoy.config.route.v3.HeaderMatcher; with no specifier it matches a header that is there."""
    name = message.name.lower()
    which = message.WhichOneof("header_match_specifier")
    missing_as_empty = message.treat_missing_header_as_empty
    if which in (None, "present_match"):
        present = message.present_match if which else True
        return HeaderMatcher(
            name,
            HeaderMatchKind.PRESENT,
            present=present,
            invert=message.invert_match,
            missing_as_empty=missing_as_empty,
        )
    if which == "range_match":
        bounds = (message.range_match.start, message.range_match.end)
        return HeaderMatcher(
            name,
            HeaderMatchKind.RANGE,
            range=bounds,
            invert=message.invert_match,
            missing_as_empty=missing_as_empty,
        )
    if which == "string_match":
        string = parse_string_matcher(message.string_match, f"{where}.string_match")
    elif which == "safe_regex_match":
        pattern = checked_regex(message.safe_regex_match.regex, f"{where}.safe_regex_match.regex")
        string = StringMatcher(StringMatchKind.REGEX, pattern)
    elif which in _OLD_HEADER_MATCHES:
        string = StringMatcher(_OLD_HEADER_MATCHES[which], getattr(message, which))
    else:
        raise ResourceError(f"{where}.{which}", "is a matcher that meshsdk does not know")
    return HeaderMatcher(
        name,
        HeaderMatchKind.STRING,
        string=string,
        invert=message.invert_match,
        missing_as_empty=missing_as_empty,
    )


def parse_query_parameter_matcher(message: Any, where: str) -> QueryParameterMatcher:
    """An envoy.config.route.v3.QueryParameterMatcher; with no specifier it matches a parameter that is there."""
    which = message.WhichOneof("query_parameter_match_specifier")
    if which == "string_match":
        return QueryParameterMatcher(message.name, parse_string_matcher(message.string_match, f"{where}.string_match"))
    return QueryParameterMatcher(message.name, present=message.present_match if which else True)


_DENOMINATORS = {0: 100, 1: 10_000, 2: 1_000_000}


def parse_fractional_percent(message: Any, where: str) -> FractionalPercent:
    """An envoy.type.v3.FractionalPercent."""
    denominator = _DENOMINATORS.get(message.denominator)
    if denominator is None:
        raise ResourceError(f"{where}.denominator", f"unknown value {message.denominator}")
    return FractionalPercent(message.numerator, denominator)


def parse_runtime_fraction(message: Any, where: str, notes: Notes) -> FractionalPercent:
    """An envoy.config.core.v3.RuntimeFractionalPercent; there is no runtime here, so its default always holds."""
    if message.runtime_key:
        notes.add(f"{where}.runtime_key", "there is no Envoy runtime in this process; default_value is used")
    return parse_fractional_percent(message.default_value, f"{where}.default_value")
