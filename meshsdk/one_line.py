"""Text from outside, made fit to stand in a line: see `log_lines`."""

from __future__ import annotations

__all__ = ["one_line"]


def one_line(text: str) -> str:
    """The same text, with what cannot be seen escaped as Python does: ends of lines, controls, marks of direction."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
