"""Making paths uniform before routes see them, as a connection manager is told to.

Source: Envoy source/common/http/path_utility.cc; HttpConnectionManager.path_with_escaped_slashes_action, normalize_path
and merge_slashes. Normalization follows RFC 3986 section 6.2.2 as Envoy's URL library does it: dot segments go,
unreserved characters are not escaped, and a backslash is a slash.
"""

from __future__ import annotations

from collections.abc import Callable

import re2

from ..resources import EscapedSlashes, PathNormalization

__all__ = ["NormalizedTarget", "compile_path_normalization", "is_uniform"]

# The new target, and the status of the answer that takes the request's place: 0, 400 (refused) or 307 (redirect).
NormalizedTarget = tuple[str, int]

_ESCAPED_SLASH = re2.compile("(?i)%2f|%5c")
_SLASHES = re2.compile("//+")
_ESCAPE = re2.compile("%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def is_uniform(target: str) -> bool:
    """Whether a target has nothing that any settings would change: so it is with most, and this is fast to see."""
    return target[:1] == "/" and "%" not in target and "\\" not in target and "/." not in target and "//" not in target


def compile_path_normalization(settings: PathNormalization) -> Callable[[str], NormalizedTarget]:
    """A function from a target (path and query) to the uniform one."""

    def normalize(target: str) -> NormalizedTarget:
        path, question_mark, query = target.partition("?")
        status = 0
        if (
            settings.escaped_slashes is not EscapedSlashes.KEEP
            and "%" in path
            and _ESCAPED_SLASH.search(path) is not None
        ):
            if settings.escaped_slashes is EscapedSlashes.REJECT:
                return target, 400
            path = str(_ESCAPED_SLASH.sub(_unescaped_slash, path))
            status = 307 if settings.escaped_slashes is EscapedSlashes.REDIRECT else 0
        if settings.normalize:
            normalized = normalized_path(path)
            if normalized is None:
                return target, 400
            path = normalized
        if settings.merge_slashes and "//" in path:
            # Envoy joins what stands between the slashes; where that is nothing, the first and the last one stay.
            path = str(_SLASHES.sub("/", path)) if path.strip("/") else path[:2]
        return path + question_mark + query, status

    return normalize


def _unescaped_slash(match: object) -> str:
    return "/" if match[0].lower() == "%2f" else "\\"  # type: ignore[index]


def normalized_path(path: str) -> str | None:
    """The path in RFC 3986's normal form; None where it has none."""
    if not path.startswith("/"):
        return None
    if "%" not in path and "\\" not in path and "/." not in path:
        return path
    path = str(_ESCAPE.sub(_unescaped, path)).replace("\\", "/")
    segments: list[str] = []
    parts = path[1:].split("/")
    for index, segment in enumerate(parts):
        is_last = index == len(parts) - 1
        if segment == ".":
            if is_last:
                segments.append("")
        elif segment == "..":
            if segments:
                segments.pop()
            if is_last:
                segments.append("")
        else:
            segments.append(segment)
    return "/" + "/".join(segments)


def _unescaped(match: object) -> str:
    character = chr(int(match[1], 16))  # type: ignore[index]
    return character if character in _UNRESERVED else match[0]  # type: ignore[index]
