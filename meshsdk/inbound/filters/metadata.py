"""Conditions on what earlier filters said, compiled (Envoy: source/common/common/matchers.cc, MetadataMatcher)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ...resources.matching import MetadataMatcher, ValueMatcher, ValueMatchKind
from ...routing.string_match import compile_string
from ..request import InboundRequest

__all__ = ["MISSING", "compile_metadata", "compile_value", "value_at"]

MISSING = object()

Metadata = Mapping[str, Mapping[str, object]]
ValueTest = Callable[[object], bool]


def compile_metadata(matcher: MetadataMatcher, *, of_route: bool = False) -> Callable[[InboundRequest], bool]:
    """A function that says whether a request's metadata matches: what filters said, or what its route says."""
    test, name, path, expected = compile_value(matcher.value), matcher.filter, matcher.path, not matcher.invert

    def holds(request: InboundRequest) -> bool:
        return test(value_at(request.route_metadata if of_route else request.metadata, name, path)) is expected

    return holds


def value_at(metadata: Metadata, name: str, path: tuple[str, ...]) -> object:
    """The value at a path below a filter's name; MISSING where there is none."""
    value: object = metadata.get(name, MISSING)
    for key in path:
        value = value.get(key, MISSING) if isinstance(value, dict) else MISSING
    return value


def compile_value(matcher: ValueMatcher) -> ValueTest:
    """A function that says whether a value matches."""
    match matcher.kind:
        case ValueMatchKind.NULL:
            return lambda value: value is None
        case ValueMatchKind.PRESENT:
            wanted = matcher.boolean
            # Envoy: present_match false never matches, since a value that is not there is of no kind.
            return lambda value: value is not MISSING and wanted
        case ValueMatchKind.BOOLEAN:
            boolean = matcher.boolean
            return lambda value: isinstance(value, bool) and value is boolean
        case ValueMatchKind.NUMBER:
            return _number(matcher)
        case ValueMatchKind.STRING:
            assert matcher.string is not None
            matches = compile_string(matcher.string)
            return lambda value: isinstance(value, str) and matches(value)
        case ValueMatchKind.LIST:
            inner = compile_value(matcher.inner[0])
            return lambda value: isinstance(value, list | tuple) and any(map(inner, value))
        case ValueMatchKind.OR:
            tests = [compile_value(one) for one in matcher.inner]
            return lambda value: any(test(value) for test in tests)


def _number(matcher: ValueMatcher) -> ValueTest:
    def is_number(value: object) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    if matcher.bounds is not None:
        start, end = matcher.bounds
        return lambda value: is_number(value) and start <= value < end  # type: ignore[operator]
    number = matcher.number
    return lambda value: is_number(value) and value == number
