"""The pages as GitHub reads them: their blocks, links and headings."""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

__all__ = ["PAGES", "PROJECT", "REPOSITORY", "ROOT", "Block", "anchors_of", "blocks_of", "links_of", "name_of"]

ROOT = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REPOSITORY: str = PROJECT["urls"]["Homepage"]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "integrations/*/*.md", "examples/**/*.md")
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md"
)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code.

    Attributes:
        page: Where it stands.
        line: Of its first line of code.
        language: Of its fence; empty where it is only indented, or its fence names none.
        title: What the fence says beside, as Material shows it: `title="app.py"`.
        text: As it is printed.
    """

    page: Path
    line: int
    language: str
    title: str
    text: str

    def __str__(self) -> str:
        return f"{name_of(self.page)}:{self.line}"


def name_of(page: Path) -> str:
    """A page's path in the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    return [_block(page, token) for token in _tokens(page) if token.type in ("fence", "code_block")]


def _block(page: Path, token: Token) -> Block:
    language, _, rest = token.info.strip().partition(" ")
    title = re.fullmatch(r'title="([^"]+)"', rest.strip())
    assert title or not rest, f"{page}: what does {token.info!r} say?"
    return Block(page, (token.map or [0])[0] + 2, language, title[1] if title else "", token.content)


def links_of(page: Path) -> Iterator[str]:
    """Where a page's links and pictures lead, as they are written."""
    for token in _tokens(page):
        for child in token.children or ():
            yield from (str(child.attrs[name]) for name in ("href", "src") if name in child.attrs)
        if token.type in ("html_block", "inline"):
            yield from re.findall(r'(?:href|src|srcset)="([^"]+)"', token.content)


@cache
def anchors_of(page: Path) -> frozenset[str]:
    """The anchors that GitHub gives a page's headings."""
    tokens = _tokens(page)
    found: dict[str, int] = {}
    anchors = []
    for before, token in itertools.pairwise(tokens):
        if before.type == "heading_open":
            text = "".join(child.content for child in token.children or ())
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            count = found[slug] = found.get(slug, -1) + 1
            anchors.append(f"{slug}-{count}" if count else slug)
    return frozenset(anchors)


@cache
def _tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text())
