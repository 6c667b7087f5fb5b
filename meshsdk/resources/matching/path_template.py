"""Path templates such as `/users/{id}/{rest=**}`: a pattern as an RE2 expression, and rewrites by its variables.

Source: envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig and
envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig. `*` is one segment, `**` any number (and no
glob may follow it), `{name}` and `{name=pattern}` are variables.
"""

from __future__ import annotations

import re2
from msgspec import Struct

from ...errors import ResourceError

__all__ = ["UriTemplate", "parse_rewrite_template", "parse_uri_template"]

# RFC 3986 pchar.
_CHARACTERS = r"a-zA-Z0-9\-._~%!$&'()*+,;=:@"
_LITERAL = re2.compile(f"[{_CHARACTERS}]+")
_REWRITE_LITERAL = re2.compile(f"[{_CHARACTERS}/]+")
_VARIABLE_NAME = re2.compile("[a-zA-Z][a-zA-Z0-9_]*")
_VISIBLE = re2.compile("/[[:graph:]]*")
_GLOBS = {"*": f"[{_CHARACTERS}]+", "**": f"[{_CHARACTERS}/]*"}

_MAX_VARIABLES = 5
_MAX_VARIABLE_LENGTH = 16

# A rewrite: literals, and variables by name.
RewriteTemplate = tuple[tuple[str, bool], ...]


class UriTemplate(Struct, frozen=True, gc=False):
    """A path template: its text, the same as an RE2 expression, and its variables."""

    text: str
    regex: str
    variables: tuple[str, ...]


def parse_uri_template(text: str, where: str) -> UriTemplate:
    """A checked path template.

    Raises:
        ResourceError: It breaks a rule of Envoy's.
    """
    if _VISIBLE.fullmatch(text) is None:
        raise ResourceError(where, f"{text!r} must begin with a slash and hold visible characters only")
    variables: list[str] = []
    globs: list[str] = []
    parts = []
    for segment in _split(text[1:]):
        parts.append(_segment_regex(segment, variables, globs, where))
    if "**" in globs[:-1]:
        raise ResourceError(where, f"{text!r}: nothing may be globbed after **")
    return UriTemplate(text, "/" + "/".join(parts), tuple(variables))


def _split(text: str) -> list[str]:
    """The segments: at slashes, but not at those inside braces."""
    segments, current, depth = [], "", 0
    for character in text:
        depth += (character == "{") - (character == "}")
        if character == "/" and depth <= 0:
            segments.append(current)
            current = ""
        else:
            current += character
    # A trailing slash is an empty last segment; an empty template has none.
    return [*segments, current] if current or segments else []


def _segment_regex(segment: str, variables: list[str], globs: list[str], where: str) -> str:
    if not segment:
        return ""
    if segment.startswith("{"):
        inside, closed, suffix = segment[1:].partition("}")
        if not closed:
            raise ResourceError(where, f"{segment!r}: the brace is not closed")
        return _variable_regex(inside, variables, globs, where) + (_literal(suffix, where) if suffix else "")
    for glob in ("**", "*"):
        if segment.startswith(glob):
            globs.append(glob)
            suffix = segment.removeprefix(glob)
            return _GLOBS[glob] + (_literal(suffix, where) if suffix else "")
    return _literal(segment, where)


def _variable_regex(text: str, variables: list[str], globs: list[str], where: str) -> str:
    name, has_pattern, pattern = text.partition("=")
    if _VARIABLE_NAME.fullmatch(name) is None or len(name) > _MAX_VARIABLE_LENGTH:
        raise ResourceError(where, f"{name!r} is not a variable's name of at most {_MAX_VARIABLE_LENGTH} characters")
    if name in variables:
        raise ResourceError(where, f"the variable {name!r} stands twice")
    variables.append(name)
    if len(variables) > _MAX_VARIABLES:
        raise ResourceError(where, f"has more than {_MAX_VARIABLES} variables")
    if not has_pattern:
        pattern = "*"
    parts = []
    for part in pattern.split("/"):
        if part in _GLOBS:
            globs.append(part)
            parts.append(_GLOBS[part])
        else:
            parts.append(_literal(part, where))
    return f"(?P<{name}>{'/'.join(parts)})"


def _literal(text: str, where: str) -> str:
    if _LITERAL.fullmatch(text) is None:
        raise ResourceError(where, f"{text!r} is not allowed in a path template")
    return "".join(f"\\{character}" if character in "$()*+." else character for character in text)


def parse_rewrite_template(text: str, template: UriTemplate | None, where: str) -> RewriteTemplate:
    """A checked rewrite: pairs of text and whether it is a variable's name.

    Raises:
        ResourceError: It breaks a rule of Envoy's, or names a variable that the match does not have.
    """
    if template is None:
        raise ResourceError(where, "needs a match by path template beside it")
    if _VISIBLE.fullmatch(text) is None:
        raise ResourceError(where, f"{text!r} must begin with a slash and hold visible characters only")
    if "//" in text:
        raise ResourceError(where, f"{text!r} must not hold two slashes in a row")
    parts: list[tuple[str, bool]] = []
    rest = text
    while rest:
        literal, brace, rest = rest.partition("{")
        if literal:
            if _REWRITE_LITERAL.fullmatch(literal) is None:
                raise ResourceError(where, f"{literal!r} is not allowed in a path rewrite")
            parts.append((literal, False))
        if brace:
            name, closed, rest = rest.partition("}")
            if not closed or name not in template.variables:
                raise ResourceError(where, f"{name!r} is not a variable of {template.text!r}")
            parts.append((name, True))
    return tuple(parts)
