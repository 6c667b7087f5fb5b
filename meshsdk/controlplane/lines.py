"""On which line of its file a problem stands.

Problems name a document and a field. Lines are looked up when there is a problem, in the file as it stands, and only if
that is still the text that was read: keeping the line of every field would cost more than all the rest of reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct

from ..errors import ConfigError
from .documents import Document, digest_of
from .files import read_file, shown

__all__ = ["with_lines"]

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# Whoever has more problems than this reads the first of them.
_MAX_LOOKED_UP = 200
# It takes a second to look through a million characters.
_MAX_TEXT = 1 << 16


class _File(Struct):
    by_where: dict[str, Document]
    after: dict[str, int]
    text: list[str] | None


def with_lines(texts: Iterable[str], files: dict[Path, tuple[Document, ...]]) -> Iterator[str]:
    """The same problems, each with the line where that is known.

    Args:
        texts: Problems that begin with where they stand.
        files: The documents of each file.
    """
    names = {shown(path): path for path in files}
    known: dict[Path, _File] = {}
    left = _MAX_LOOKED_UP
    for text in texts:
        path = _file_of(text, names)
        line = 0
        if path is not None and left:
            left -= 1
            if path not in known:
                known[path] = _read(path, files[path])
            line = _line(text, shown(path), known[path])
        yield f"{text} (line {line})" if line else text


def _file_of(text: str, names: dict[str, Path]) -> Path | None:
    """The longest name that a problem begins with: a file's name may begin with another's."""
    ends = [end for end in range(1, len(text) + 1) if text[end : end + 1] in ("", " ", ":", ".")]
    return next((names[text[:end]] for end in reversed(ends) if text[:end] in names), None)


def _read(path: Path, documents: tuple[Document, ...]) -> _File:
    """A file's documents by their places; without its text if that is another by now."""
    text, is_same = "", False
    try:
        if documents:
            text = read_file(path)
            is_same = digest_of(text) == documents[0].digest
    except ConfigError:
        pass
    starts = sorted({one.line for one in documents})
    following = dict(zip(starts, [*starts[1:], 0], strict=False))
    return _File(
        {one.where: one for one in documents},
        {one.where: following[one.line] for one in documents},
        text.split("\n") if is_same else None,
    )


def _line(text: str, name: str, file: _File) -> int:
    document = _document_of(text, name, file)
    if document is None:
        return 0
    if file.text is None:
        return document.line
    first = document.line or 1
    until = file.after[document.where] if document.line else 0
    lines = file.text[first - 1 : until - 1 if until else None]
    if " item " in document.where[len(name) :]:
        lines = [*_item(lines)]
    piece = "\n".join(lines)
    return first + _line_of_field(piece, _field_of(text, document)) if len(piece) <= _MAX_TEXT else document.line


def _item(lines: list[str]) -> Iterator[str]:
    """The lines of the item of a list that begins with the first; what follows the list is no part of it."""
    indent = len(lines[0]) - len(lines[0].lstrip(" "))
    yield lines[0]
    for line in lines[1:]:
        if line.strip() and len(line) - len(line.lstrip(" ")) <= indent:
            return
        yield line


def _document_of(text: str, name: str, file: _File) -> Document | None:
    """The document whose place a problem begins with, the longest that there is."""
    ends = [end for end in range(len(name), len(text) + 1) if text[end : end + 1] in ("", " ", ":", ".")]
    return next((file.by_where[text[:end]] for end in reversed(ends) if text[:end] in file.by_where), None)


def _field_of(text: str, document: Document) -> str:
    """What follows the document's place, and its kind and name."""
    rest = text[len(document.where) :]
    kind, metadata = document.data.get("kind"), document.data.get("metadata")
    label = f" {kind}/{metadata.get('name')}" if isinstance(metadata, dict) else ""
    return rest[len(label) :] if label and rest.startswith(label) else rest


def _line_of_field(text: str, field: str) -> int:
    """The line, from 0, of the last part of `.spec.http[0].route: …` that is there.

    Args:
        text: The document, or an item of a list.
        field: Where to look, and whatever follows.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError):
        return 0
    if isinstance(node, yaml.SequenceNode) and len(node.value) == 1 and not field.startswith("["):
        node = node.value[0]
    line = 0
    while node is not None:
        step, mark, node = max(_steps(node, field), key=lambda found: len(found[0]), default=("", None, None))
        line = line if mark is None else mark.line
        field = field[len(step) :]
    return line


def _steps(node: Any, field: str) -> Iterator[tuple[str, Any, Any]]:
    """What of a list or object a path may lead to: the path so far, where that stands, and what it is."""
    steps: list[tuple[str, Any, Any]] = []
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            steps += [(step, key.start_mark, value) for step in (f".{key.value}", f"[{key.value!r}]")]
    elif isinstance(node, yaml.SequenceNode):
        steps += [(f"[{index}]", value.start_mark, value) for index, value in enumerate(node.value)]
    for step, mark, value in steps:
        if field.startswith(step) and field[len(step) : len(step) + 1] in ("", ".", "[", ":", " "):
            yield step, mark, value
