"""Rules that Envoy's protos have for single values, and how one that does not hold is told."""

from __future__ import annotations

import ipaddress
import operator
import uuid
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

import re2

from . import protos

__all__ = ["Broken", "Check", "any_check", "duration_check", "legal_duration", "scalar_check"]

# Checks know no path: they raise with what is below them, and who called them puts its own step before.
Check = Callable[[Any], None]

# protoc-gen-validate's own patterns for its well-known regexes (validate/validate.proto, KnownRegex).
_HTTP_HEADER_NAME = re2.compile(r":?[0-9a-zA-Z!#$%&'*+\-.^_|~\x60]+")
_HTTP_HEADER_VALUE = re2.compile(r"[^\x00-\x08\x0A-\x1F\x7F]*")
_NO_CONTROL_BREAKS = re2.compile(r"[^\x00\x0A\x0D]*")


class Broken(Exception):
    """A rule that does not hold, and where, as seen from whoever catches it."""

    def __init__(self, problem: str, path: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.path = path

    def below(self, step: str) -> Broken:
        """As seen from one step further up."""
        return Broken(self.problem, step + self.path)


def scalar_check(kind: str, rule: Any, field: Any) -> Check | None:
    """The check of a number, text, enum or bool; None where its rule allows all.

    Args:
        kind: Of the rule, as validate.FieldRules names it.
        rule: The rule.
        field: The enum's descriptor is looked up there; None for wrapped values.
    """
    if kind in ("string", "bytes"):
        tests = list(_text_tests(rule)) if kind == "string" else list(_bytes_tests(rule))
    elif kind == "enum":
        tests = list(_enum_tests(rule, field))
    elif kind == "bool":
        tests = [(lambda v: v == rule.const, f"must be {rule.const}")] if rule.HasField("const") else []
    else:
        tests = list(_number_tests(rule))
    if not tests:
        return None
    ignore_empty = getattr(rule, "ignore_empty", False)

    def check_scalar(value: Any) -> None:
        if ignore_empty and not value:
            return
        for holds, problem in tests:
            if not holds(value):
                raise Broken(f"{problem}, is {_shown(value)}")

    return check_scalar


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


Test = tuple[Callable[[Any], bool], str]


def _membership_tests(rule: Any) -> Iterable[Test]:
    allowed = tuple(getattr(rule, "in"))
    refused = tuple(rule.not_in)
    if allowed:
        yield (lambda v: v in allowed), f"must be one of {list(allowed)}"
    if refused:
        yield (lambda v: v not in refused), f"must not be one of {list(refused)}"


def _number_tests(rule: Any) -> Iterable[Test]:
    for name, compare, words in _COMPARISONS:
        if rule.HasField(name):
            yield _number_test(compare, getattr(rule, name)), f"must be {words}{getattr(rule, name)}"
    yield from _membership_tests(rule)


_COMPARISONS = (
    ("const", operator.eq, ""),
    ("lt", operator.lt, "below "),
    ("lte", operator.le, "at most "),
    ("gt", operator.gt, "above "),
    ("gte", operator.ge, "at least "),
)


def _number_test(compare: Callable[[Any, Any], bool], bound: float) -> Callable[[Any], bool]:
    return lambda value: compare(value, bound)


def _enum_tests(rule: Any, field: Any) -> Iterable[Test]:
    if rule.HasField("const"):
        yield (lambda v: bool(v == rule.const)), f"must be {rule.const}"
    if rule.defined_only and field is not None:
        numbers = frozenset(field.enum_type.values_by_number)
        yield (lambda v: v in numbers), f"must be a value of {field.enum_type.name}"
    yield from _membership_tests(rule)


def _text_tests(rule: Any) -> Iterable[Test]:
    if rule.HasField("const"):
        yield (lambda v: v == rule.const), f"must be {rule.const!r}"
    if rule.HasField("len"):
        yield (lambda v: len(v) == rule.len), f"must be {rule.len} characters long"
    least_length, least_bytes = rule.min_len, rule.min_bytes
    if least_length or least_bytes:
        least = max(least_length, least_bytes)
        yield (
            (lambda v: len(v) >= least_length and (not least_bytes or len(v.encode()) >= least_bytes)),
            ("must not be empty" if least == 1 else f"must be at least {least} long"),
        )
    if rule.HasField("max_len"):
        yield (lambda v: len(v) <= rule.max_len), f"must be at most {rule.max_len} characters long"
    if rule.HasField("max_bytes"):
        yield (lambda v: len(v.encode()) <= rule.max_bytes), f"must be at most {rule.max_bytes} bytes long"
    if rule.pattern:
        pattern = re2.compile(rule.pattern)
        yield (lambda v: pattern.search(v) is not None), f"must match {rule.pattern!r}"
    if rule.prefix:
        yield (lambda v: v.startswith(rule.prefix)), f"must start with {rule.prefix!r}"
    if rule.suffix:
        yield (lambda v: v.endswith(rule.suffix)), f"must end with {rule.suffix!r}"
    if rule.contains:
        yield (lambda v: rule.contains in v), f"must contain {rule.contains!r}"
    if rule.not_contains:
        yield (lambda v: rule.not_contains not in v), f"must not contain {rule.not_contains!r}"
    yield from _membership_tests(rule)
    yield from _well_known_tests(rule)


def _well_known_tests(rule: Any) -> Iterable[Test]:
    kind = rule.WhichOneof("well_known")
    if kind == "well_known_regex":
        strict = rule.strict or not rule.HasField("strict")
        named = rule.well_known_regex == protos.validate_pb2.HTTP_HEADER_NAME
        pattern = (_HTTP_HEADER_NAME if named else _HTTP_HEADER_VALUE) if strict else _NO_CONTROL_BREAKS
        what = "a legal HTTP header name" if named else "a legal HTTP header value"
        yield (lambda v: pattern.fullmatch(v) is not None), f"must be {what}"
    elif kind in ("uri", "uri_ref") and getattr(rule, kind):
        yield (lambda v: _is_uri(v, absolute=kind == "uri")), "must be a URI"
    elif kind in ("ip", "ipv4", "ipv6") and getattr(rule, kind):
        version = {"ip": None, "ipv4": 4, "ipv6": 6}[kind]
        yield (lambda v: _is_ip(v, version)), "must be an IP address"
    elif kind == "uuid" and rule.uuid:
        yield _is_uuid, "must be a UUID"


def _is_uri(value: str, *, absolute: bool) -> bool:
    try:
        return bool(urlsplit(value).scheme) or not absolute
    except ValueError:
        return False


def _is_ip(value: str, version: int | None) -> bool:
    try:
        return version in (None, ipaddress.ip_address(value).version)
    except ValueError:
        return False


def _is_uuid(value: str) -> bool:
    try:
        return bool(uuid.UUID(value))
    except ValueError:
        return False


def _bytes_tests(rule: Any) -> Iterable[Test]:
    if rule.min_len:
        least = rule.min_len
        yield (lambda v: len(v) >= least), "must not be empty" if least == 1 else f"must be at least {least} bytes long"
    if rule.HasField("max_len"):
        yield (lambda v: len(v) <= rule.max_len), f"must be at most {rule.max_len} bytes long"
    yield from _membership_tests(rule)


# google.protobuf.Duration: within 10,000 years, and both parts of one sign.
_MAX_DURATION_SECONDS = 315_576_000_000


def legal_duration(value: Any) -> None:
    """What holds for every google.protobuf.Duration."""
    if abs(value.seconds) > _MAX_DURATION_SECONDS or abs(value.nanos) > 999_999_999:
        raise Broken("is out of a duration's range")
    if (value.seconds > 0 > value.nanos) or (value.seconds < 0 < value.nanos):
        raise Broken("seconds and nanos must have the same sign")


def duration_check(rule: Any) -> Check:
    """The check of a google.protobuf.Duration with bounds."""

    def total(duration: Any) -> int:
        return int(duration.seconds) * 1_000_000_000 + int(duration.nanos)

    def shown(duration: Any) -> str:
        return f"{total(duration) / 1e9:g}s"

    tests: list[tuple[Callable[[int, int], bool], int, str]] = [
        (compare, total(getattr(rule, name)), f"must be {words} {shown(getattr(rule, name))}")
        for name, compare, words in (
            ("lt", int.__lt__, "below"),
            ("lte", int.__le__, "at most"),
            ("gt", int.__gt__, "above"),
            ("gte", int.__ge__, "at least"),
        )
        if rule.HasField(name)
    ]

    def check_duration(value: Any) -> None:
        legal_duration(value)
        for compare, bound, problem in tests:
            if not compare(total(value), bound):
                raise Broken(f"{problem}, is {shown(value)}")

    return check_duration


def any_check(rule: Any) -> Check | None:
    """The check of what a google.protobuf.Any may hold; None where that may be anything."""
    allowed = tuple(getattr(rule, "in"))
    if not allowed:
        return None

    def check_any(value: Any) -> None:
        if value.type_url not in allowed:
            raise Broken(f"must hold one of {list(allowed)}, holds {value.type_url!r}")

    return check_any
