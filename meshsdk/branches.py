"""A tree of lines, for people."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct, field

__all__ = ["Branch", "as_text"]


class Branch(Struct):
    """A line, and those below it.

    Attributes:
        look: `good`, `bad`, `dim` or nothing.
    """

    text: str
    look: str = ""
    below: list[Branch] = field(default_factory=list)

    def add(self, text: str, look: str = "") -> Branch:
        """Put a line below; returns it."""
        self.below.append(Branch(text, look))
        return self.below[-1]


def as_text(tree: Branch) -> str:
    """A tree as lines."""
    return "\n".join(_lines(tree, "", ""))


def _lines(branch: Branch, first: str, rest: str) -> Iterator[str]:
    yield first + branch.text
    for index, one in enumerate(branch.below):
        is_last = index == len(branch.below) - 1
        yield from _lines(one, rest + ("└── " if is_last else "├── "), rest + ("    " if is_last else "│   "))
