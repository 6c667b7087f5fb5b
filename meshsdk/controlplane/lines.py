"""On which line of its file a problem stands.

Problems name a document and a field. Lines are looked up when there is a problem, in the file as it stands, and only if
that is still the text that was read: keeping the line of every field would cost more than all the rest of reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct, field

from ..errors import ConfigError
from .documents import Document, digest_of
from .files import read_file, shown

__all__ = ["Places", "with_lines"]

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# Whoever has more problems than this reads the first of them.
_MAX_LOOKED_UP = 200
# It takes a second to look through a million characters.
_MAX_TEXT = 1 << 16


class _File(Struct):
    """A file's documents by their places, and its text; None where that is another by now.

    Attributes:
        after: The line on which the next document begins; 0 of the last one.
        nodes: Documents with the place of each field, by their places, once somebody has asked.
    """

    by_where: dict[str, Document]
    after: dict[str, int]
    text: list[str] | None
    nodes: dict[str, Any] = field(default_factory=dict)


def with_lines(texts: Iterable[str], files: Mapping[Path, tuple[Document, ...]]) -> Iterator[str]:
    """The same problems, each with the line where that is known.

    Args:
        texts: Problems that begin with where they stand.
        files: The documents of each file.
    """
    places = Places(files)
    left = _MAX_LOOKED_UP
    for text in texts:
        line = 0
        if left and places.file_of(text) is not None:
            left -= 1
            line = places.line_of(text)
        yield f"{text} (line {line})" if line else text


class Places:
    """Where problems stand, which begin with their file, their document, and a field of it.

    Args:
        files: The documents of each file.
    """

    def __init__(self, files: Mapping[Path, tuple[Document, ...]]) -> None:
        self._files = files
        self._names = {shown(path): path for path in files}
        self._known: dict[Path, _File] = {}

    def file_of(self, text: str) -> Path | None:
        """The longest name that a problem begins with: a file's name may begin with another's."""
        found = _begins_with(text, self._names)
        return self._names[found] if found else None

    def document_of(self, text: str) -> Document | None:
        """The document whose place a problem begins with, the longest that there is."""
        path = self.file_of(text)
        if path is None:
            return None
        file = self._file(path)
        found = _begins_with(text, file.by_where)
        return file.by_where[found] if found else None

    def field_of(self, text: str, document: Document) -> str:
        """What follows the document's place, and its kind and name."""
        rest = text[len(document.where) :]
        kind, metadata = document.data.get("kind"), document.data.get("metadata")
        label = f" {kind}/{metadata.get('name')}" if isinstance(metadata, dict) else ""
        return rest[len(label) :] if label and rest.startswith(label) else rest

    def line_of(self, text: str) -> int:
        """The line of a problem, from 1; 0 where it is not known."""
        path, document = self.file_of(text), self.document_of(text)
        if path is None or document is None:
            return 0
        file = self._file(path)
        if file.text is None:
            return document.line
        if document.where not in file.nodes:
            file.nodes[document.where] = _composed(file.text, shown(path), document, file)
        node = file.nodes[document.where]
        return (document.line or 1) + _line_of_field(node, self.field_of(text, document)) if node else document.line

    def _file(self, path: Path) -> _File:
        if path not in self._known:
            self._known[path] = _read(path, self._files[path])
        return self._known[path]


def _begins_with(text: str, names: Mapping[str, Any]) -> str:
    ends = [end for end in range(1, len(text) + 1) if text[end : end + 1] in ("", " ", ":", ".")]
    return next((text[:end] for end in reversed(ends) if text[:end] in names), "")


def _read(path: Path, documents: tuple[Document, ...]) -> _File:
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


def _composed(text: list[str], name: str, document: Document, file: _File) -> Any:
    """The document, or the item of a list that it is, with the place of each field; None where it is too long."""
    first = document.line or 1
    until = file.after[document.where] if document.line else 0
    lines = text[first - 1 : until - 1 if until else None]
    if " item " in document.where[len(name) :]:
        lines = [*_item(lines)]
    piece = "\n".join(lines)
    if len(piece) > _MAX_TEXT:
        return None
    try:
        return yaml.compose(piece, Loader=_Loader)
    except (yaml.YAMLError, ValueError):
        return None


def _item(lines: list[str]) -> Iterator[str]:
    """The lines of the item of a list that begins with the first; what follows the list is no part of it."""
    indent = len(lines[0]) - len(lines[0].lstrip(" "))
    yield lines[0]
    for line in lines[1:]:
        if line.strip() and len(line) - len(line.lstrip(" ")) <= indent:
            return
        yield line


def _line_of_field(node: Any, path: str) -> int:
    """The line, from 0, of the last part of `.spec.http[0].route: …` that is there.

    Args:
        node: The document, or an item of a list.
        path: Where to look, and whatever follows.
    """
    if isinstance(node, yaml.SequenceNode) and len(node.value) == 1 and not path.startswith("["):
        node = node.value[0]
    line = 0
    while node is not None:
        step, mark, node = max(_steps(node, path), key=lambda found: len(found[0]), default=("", None, None))
        line = line if mark is None else mark.line
        path = path[len(step) :]
    return line


def _steps(node: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """What of a list or object a path may lead to: the path so far, where that stands, and what it is."""
    steps: list[tuple[str, Any, Any]] = []
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            steps += [(step, key.start_mark, value) for step in (f".{key.value}", f"[{key.value!r}]")]
    elif isinstance(node, yaml.SequenceNode):
        steps += [(f"[{index}]", value.start_mark, value) for index, value in enumerate(node.value)]
    for step, mark, value in steps:
        if path.startswith(step) and path[len(step) : len(step) + 1] in ("", ".", "[", ":", " "):
            yield step, mark, value
