"""String matchers compiled to functions. Regular expressions run in RE2: linear time, whatever the input.

Envoy compares bytes, those of configuration being UTF-8; so do its regular expressions, to which a character is a byte
(RE2's Latin1). Here strings are compared that have a character for each byte, as those of headers have anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import re2

from ..resources import RegexRewrite, StringMatcher, StringMatchKind

__all__ = [
    "compile_any",
    "compile_header_string",
    "compile_regex_match",
    "compile_regex_rewrite",
    "compile_string",
    "header_text",
]

StringTest = Callable[[str], bool]


def compile_string(matcher: StringMatcher) -> StringTest:
    """A function that says whether a text matches."""
    test = compile_header_string(matcher)
    return lambda value: test(value if value.isascii() else _as_bytes(value))


@lru_cache(maxsize=1024)
def compile_any(matchers: tuple[StringMatcher, ...]) -> StringTest:
    """A function that says whether one of the matchers matches a text; of the same matchers it is the same function."""
    tests = [compile_string(matcher) for matcher in matchers]
    return lambda value: any(test(value) for test in tests)


def compile_header_string(matcher: StringMatcher) -> StringTest:
    """A function that says whether a header's value matches, as `RequestHead` tells it."""
    if matcher.kind is StringMatchKind.REGEX:
        return compile_regex_match(matcher.value)
    wanted, test = _as_bytes(matcher.value), _TESTS[matcher.kind]
    if matcher.ignore_case:
        wanted = _lower(wanted)
        return lambda value: test(_lower(value), wanted)
    return lambda value: test(value, wanted)


def header_text(value: str, errors: str = "surrogateescape") -> str:
    """What a header's value says, of which `RequestHead` tells a character for each byte.

    Args:
        value: The value.
        errors: What becomes of bytes that are no UTF-8; by default they equal nothing that configuration says.
    """
    return value if value.isascii() else value.encode("latin-1", "replace").decode("utf-8", errors)


def _as_bytes(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("latin-1")


_TO_LOWER = {ord(letter): letter.lower() for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}


def _lower(value: str) -> str:
    """Only the letters of ASCII have two cases to Envoy (absl::AsciiStrToLower)."""
    return value.lower() if value.isascii() else value.translate(_TO_LOWER)


_TESTS: dict[StringMatchKind, Callable[[str, str], bool]] = {
    StringMatchKind.EXACT: str.__eq__,
    StringMatchKind.PREFIX: str.startswith,
    StringMatchKind.SUFFIX: str.endswith,
    StringMatchKind.CONTAINS: str.__contains__,
}


def compile_regex_match(pattern: str) -> StringTest:
    """A function that says whether the whole of a string matches (envoy.type.matcher.v3.RegexMatcher)."""
    full_match = re2.compile(_as_bytes(pattern)).fullmatch
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
