"""Names of resources that are URIs: `xdstp://authority/type/id?context=parameters` (xRFC TP1, gRFC A47).

Equal names are written in one way wherever they are compared, so they are normalised where they come in: context
parameters stand in the order of their keys, the last one of a key counts. A name that is no URI is left as it is.
"""

from __future__ import annotations

import urllib.parse

__all__ = ["SCHEME", "authority_of", "filled_in", "normalised", "split_target"]

SCHEME = "xdstp:"

# What a URI's path may have unescaped (RFC 3986 section 3.3).
_PATH_CHARACTERS = ":/~-._!$&'()*+,;=@"


def normalised(name: str) -> str:
    """The one way to write a name."""
    if not name.startswith(SCHEME):
        return name
    whole, hash_sign, directives = name.partition("#")
    path, mark, query = whole.partition("?")
    if not mark:
        return name
    parameters: dict[str, str] = {}
    for pair in query.split("&"):
        key, _, value = pair.partition("=")
        if key:
            parameters[key] = value
    sorted_query = "&".join(f"{key}={parameters[key]}" for key in sorted(parameters))
    return f"{path}?{sorted_query}{hash_sign}{directives}" if sorted_query else f"{path}{hash_sign}{directives}"


def authority_of(name: str) -> str | None:
    """Whose resource it is: empty for `xdstp:///…`; None for a name that is no URI."""
    if not name.startswith(SCHEME):
        return None
    rest = name[len(SCHEME) :]
    if not rest.startswith("//"):
        return ""
    authority = rest[2:].partition("/")[0].partition("?")[0].partition("#")[0]
    return urllib.parse.unquote(authority)


def filled_in(template: str, target: str) -> str:
    """A template of names with `%s` replaced by a target, which is percent-encoded in a URI (gRFC A47)."""
    if not template.startswith(SCHEME):
        return template.replace("%s", target)
    return normalised(template.replace("%s", urllib.parse.quote(target, safe=_PATH_CHARACTERS)))


def split_target(target: str) -> tuple[str | None, str]:
    """Authority and rest of a channel's target: `xds://authority/host:port`; of any other the authority is None."""
    rest = target.removeprefix("xds://")
    if rest == target:
        return None, target
    authority, slash, rest = rest.partition("/")
    return (urllib.parse.unquote(authority) or None, rest) if slash else (None, target)
