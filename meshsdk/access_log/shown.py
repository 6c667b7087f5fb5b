"""Values from outside, made fit to stand in a line of a log.

What peers say may hold ends of lines, moves of a terminal's cursor, marks of direction, or 64 kB. Envoy's codecs refuse
the worst of it and its log writes the rest as it is; here it is escaped as Python does, and what is long is cut. What
is plain costs a look into a dictionary.
"""

from __future__ import annotations

__all__ = ["LONGEST_VALUE", "bounded_bytes", "shown", "shown_bytes"]

# Characters of one value; an URL may be long and mean it.
LONGEST_VALUE = 8192

_MAX_KNOWN = 2048
_LONGEST_KNOWN = 256

_known: dict[bytes, str] = {}


def shown_bytes(value: bytes) -> str:
    """A header's value."""
    text = _known.get(value)
    if text is None:
        text = shown(value.decode("latin-1"))
        if len(value) <= _LONGEST_KNOWN:
            if len(_known) >= _MAX_KNOWN:
                _known.clear()
            _known[value] = text
    return text


def shown(text: str) -> str:
    """Text, a byte a character where it came from the network."""
    if len(text) > LONGEST_VALUE:
        text = f"{text[:LONGEST_VALUE]}...(+{len(text) - LONGEST_VALUE})"
    if text.isascii() and text.isprintable():
        return text
    text = _decoded(text)
    if text.isprintable():
        return text
    # A tab is as good as a blank, and Envoy's own codec lets it pass, too.
    return "".join(one if one.isprintable() or one == "\t" else one.encode("unicode_escape").decode() for one in text)


def bounded_bytes(value: bytes) -> str:
    """A header's value for a format that escapes by itself (JSON)."""
    text = _known.get(value)
    if text is None or not text.isascii() or "\\" in text:
        text = value[: LONGEST_VALUE + 1].decode("latin-1")
        if len(text) > LONGEST_VALUE:
            text = f"{text[:LONGEST_VALUE]}...(+{len(value) - LONGEST_VALUE})"
        return text if text.isascii() else _decoded(text)
    return text


def _decoded(text: str) -> str:
    """A header's value is most likely UTF-8; what is none shows its bytes."""
    try:
        return text.encode("latin-1").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text  # It is text already.
