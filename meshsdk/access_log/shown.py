"""Values from outside, made fit to stand in a line of a log, in the style of its format.

What peers say may hold ends of lines, moves of a terminal's cursor, marks of direction, or 64 kB. Envoy's codecs refuse
the worst of it and its log writes the rest as it is; here it is escaped, and what is long is cut. What came before
costs a look into a dictionary.
"""

from __future__ import annotations

import json
from collections.abc import Callable

__all__ = ["JSON", "LONGEST_VALUE", "TEXT", "TEXT_OR_NOTHING", "Missing", "Style", "raw_style"]

# Characters of one value; an URL may be long and mean it.
LONGEST_VALUE = 8192

_MAX_KNOWN = 2048
_LONGEST_KNOWN = 256


class Missing(str):
    """What stands for a value that is not there: each style's own, and no other text."""

    __slots__ = ()


class Style:
    """How values are written.

    Args:
        missing: What stands for none.
        text: Makes a value of a text.

    Attributes:
        known: What was made of headers' values before.
    """

    __slots__ = ("known", "missing", "text")

    def __init__(self, missing: str, text: Callable[[str], str]) -> None:
        self.missing = Missing(missing)
        self.text = text
        self.known: dict[bytes, str] = {}

    def show(self, value: bytes) -> str:
        """A header's value."""
        text = self.text(value.decode("latin-1"))
        if len(value) <= _LONGEST_KNOWN:
            if len(self.known) >= _MAX_KNOWN:
                self.known.clear()
            self.known[value] = text
        return text


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and len(text) <= LONGEST_VALUE


def _readable(text: str) -> str:
    """What of a value is told at most, as text: most likely it is UTF-8; what is none shows its bytes."""
    if len(text) > LONGEST_VALUE:
        text = f"{text[:LONGEST_VALUE]}...(+{len(text) - LONGEST_VALUE})"
    try:
        return text.encode("latin-1").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text  # It is text already.


def _in_text(text: str) -> str:
    if _is_plain(text):
        return text
    text = _readable(text)
    # A tab is as good as a blank, and Envoy's own codec lets it pass, too.
    return "".join(one if one.isprintable() or one == "\t" else one.encode("unicode_escape").decode() for one in text)


def _unescaped(text: str) -> str:
    return text if _is_plain(text) else _readable(text)


def _in_json(text: str) -> str:
    if _is_plain(text) and '"' not in text and "\\" not in text:
        return f'"{text}"'
    text = _readable(text)
    return json.dumps(text, ensure_ascii=not text.isprintable())


TEXT = Style("-", _in_text)
TEXT_OR_NOTHING = Style("", _in_text)
# What is no number, within quotes.
JSON = Style("null", _in_json)


def raw_style(missing: str) -> Style:
    """Values that something else escapes."""
    return Style(missing, _unescaped)
