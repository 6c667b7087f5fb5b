"""String matchers compiled to functions. Regular expressions run in RE2: linear time, whatever the input."""

from __future__ import annotations

from collections.abc import Callable

import re2

from ..resources import RegexRewrite, StringMatcher, StringMatchKind

__all__ = ["compile_regex_match", "compile_regex_rewrite", "compile_string"]

StringTest = Callable[[str], bool]


def compile_string(matcher: StringMatcher) -> StringTest:
    """A function that says whether a string matches."""
    if matcher.kind is StringMatchKind.REGEX:
        return compile_regex_match(matcher.value)
    wanted = matcher.value.lower() if matcher.ignore_case else matcher.value
    test = _TESTS[matcher.kind]
    if matcher.ignore_case:
        return lambda value: test(value.lower(), wanted)
    return lambda value: test(value, wanted)


_TESTS: dict[StringMatchKind, Callable[[str, str], bool]] = {
    StringMatchKind.EXACT: str.__eq__,
    StringMatchKind.PREFIX: str.startswith,
    StringMatchKind.SUFFIX: str.endswith,
    StringMatchKind.CONTAINS: str.__contains__,
}


def compile_regex_match(pattern: str) -> StringTest:
    """A function that says whether the whole of a string matches (envoy.type.matcher.v3.RegexMatcher)."""
    full_match = re2.compile(pattern).fullmatch
    return lambda value: full_match(value) is not None


def compile_regex_rewrite(rewrite: RegexRewrite) -> Callable[[str], str]:
    """A function that replaces every match; in the substitution `\\0` to `\\9` are groups and `\\\\` is a backslash.

    RE2's own rules (re2.h, RE2::Rewrite), so that a substitution means here what it means in Envoy.
    """
    pattern = re2.compile(rewrite.pattern)
    parts = _split_substitution(rewrite.substitution)

    def substitute(match: object) -> str:
        group = match.group  # type: ignore[attr-defined]
        return "".join(part if isinstance(part, str) else group(part) or "" for part in parts)

    return lambda text: str(pattern.sub(substitute, text))


def _split_substitution(substitution: str) -> list[str | int]:
    parts: list[str | int] = []
    characters = iter(substitution)
    for character in characters:
        if character != "\\":
            parts.append(character)
            continue
        escaped = next(characters, "\\")
        parts.append(int(escaped) if escaped.isdecimal() else escaped)
    return parts
