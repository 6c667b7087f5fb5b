"""Conditions on what filters said of a request (envoy.type.matcher.v3.MetadataMatcher, ValueMatcher)."""

from __future__ import annotations

from enum import Enum
from typing import Any

from msgspec import Struct

from ...errors import ResourceError
from .matchers import StringMatcher, parse_string_matcher

__all__ = [
    "MetadataMatcher",
    "ValueMatchKind",
    "ValueMatcher",
    "parse_metadata_matcher",
    "parse_value_matcher",
]


class ValueMatchKind(Enum):
    """The alternatives of ValueMatcher.match_pattern."""

    NULL = "null_match"
    NUMBER = "double_match"
    STRING = "string_match"
    BOOLEAN = "bool_match"
    PRESENT = "present_match"
    LIST = "list_match"
    OR = "or_match"


class ValueMatcher(Struct, frozen=True, gc=False):
    """One way to match a value of a struct.

    Attributes:
        string: For STRING.
        boolean: For BOOLEAN, and for PRESENT: whether it must be there.
        bounds: For NUMBER: [start, end).
        number: For NUMBER: exactly this, where `bounds` is None.
        inner: For LIST (some element matches it) and for OR (one of them matches).
    """

    kind: ValueMatchKind
    string: StringMatcher | None = None
    boolean: bool = False
    bounds: tuple[float, float] | None = None
    number: float = 0.0
    inner: tuple[ValueMatcher, ...] = ()


class MetadataMatcher(Struct, frozen=True, gc=False):
    """A condition on the value at a path below a filter's name."""

    filter: str
    path: tuple[str, ...]
    value: ValueMatcher
    invert: bool = False


def parse_metadata_matcher(message: Any, where: str) -> MetadataMatcher:
    """A MetadataMatcher.

    Raises:
        ResourceError: It holds a kind of match that meshsdk does not know.
    """
    return MetadataMatcher(
        filter=message.filter,
        path=tuple(segment.key for segment in message.path),
        value=parse_value_matcher(message.value, f"{where}.value"),
        invert=message.invert,
    )


def parse_value_matcher(message: Any, where: str) -> ValueMatcher:
    """A ValueMatcher.

    Raises:
        ResourceError: It is of a kind that meshsdk does not know.
    """
    which = message.WhichOneof("match_pattern")
    path = f"{where}.{which}"
    match which:
        case "null_match":
            return ValueMatcher(ValueMatchKind.NULL)
        case "double_match":
            if message.double_match.WhichOneof("match_pattern") == "range":
                bounds = (message.double_match.range.start, message.double_match.range.end)
                return ValueMatcher(ValueMatchKind.NUMBER, bounds=bounds)
            return ValueMatcher(ValueMatchKind.NUMBER, number=message.double_match.exact)
        case "string_match":
            return ValueMatcher(ValueMatchKind.STRING, string=parse_string_matcher(message.string_match, path))
        case "bool_match":
            return ValueMatcher(ValueMatchKind.BOOLEAN, boolean=message.bool_match)
        case "present_match":
            return ValueMatcher(ValueMatchKind.PRESENT, boolean=message.present_match)
        case "list_match":
            return ValueMatcher(
                ValueMatchKind.LIST, inner=(parse_value_matcher(message.list_match.one_of, f"{path}.one_of"),)
            )
        case "or_match":
            inner = tuple(
                parse_value_matcher(one, f"{path}.value_matchers[{index}]")
                for index, one in enumerate(message.or_match.value_matchers)
            )
            return ValueMatcher(ValueMatchKind.OR, inner=inner)
        case _:
            raise ResourceError(path, "is a matcher that meshsdk does not know")
