"""A decision, for people."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from ..branches import Branch
from ..decision import Decision

__all__ = ["render_decision"]

_WIDEST = 10_000

_LOOKS = {"good": "green", "bad": "red", "dim": "dim"}


def render_decision(decision: Decision, console: Console) -> None:
    """Print a decision as a tree, from the request to the endpoints."""
    root = decision.tree()
    tree = Tree(Text(root.text, "bold"))
    _grow(tree, root)
    # Names go on beyond the width: they are to be found and copied whole.
    whole = console.measure(tree, options=console.options.update_width(_WIDEST)).maximum
    console.width = max(console.width, whole)
    console.print(tree)


def _grow(tree: Tree, branch: Branch) -> None:
    for one in branch.below:
        _grow(tree.add(Text(one.text, _LOOKS.get(one.look, ""))), one)
