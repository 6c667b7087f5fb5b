"""Files to documents: YAML or JSON, several to a file.

Theory of operation. A text is cut where a line begins with `---`, which to YAML ends whatever stands before it. What a
piece says is kept by its digest, so that an edit costs what was edited, and the text itself need not be kept. Whose a
document is, is found out here, once; then what nobody reads of it is forgotten: of a dump that is nearly all.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .files import read_file, shown
from .kinds import Kind, kind_of
from .pruning import pruned
from .strict_json import parse_json
from .strict_yaml import MAX_ALIASES, Words, YamlDocument, YamlError, read_yaml

__all__ = ["Document", "Pieces", "digest_of", "read_documents", "text_pieces"]


@dataclass(frozen=True, slots=True)
class Document:
    """One document: where it stands, and what it says.

    Attributes:
        line: Where it begins in its file, from 1; 0 where that is not known.
        digest: Of the file's text.
        kind: Whose it is; None of what is not ours.
        fault: What is wrong with that.
    """

    where: str
    data: dict[Any, Any]
    line: int = field(default=0, compare=False)
    digest: bytes = field(default=b"", repr=False, compare=False)
    kind: Kind | None = None
    fault: ConfigError | None = None

    def __eq__(self, other: object) -> bool:
        """Equal is what has values of the same type, too: `true` and `1` are not the same to those who read them."""
        if not isinstance(other, Document):
            return NotImplemented
        if self.where != other.where:
            return False
        if self.fault is not other.fault and str(self.fault) != str(other.fault):
            return False
        return self.data is other.data or repr(self.data) == repr(other.data)

    def __hash__(self) -> int:
        return hash(self.where)


@dataclass(frozen=True, slots=True)
class _Object:
    """One object of a piece.

    Attributes:
        place: Its place in a list, for messages.
        line: Where it begins in its piece, from 0; -1 where that is not known.
        fault: As of a document; its `where` begins below the object.
        is_refused: The file cannot be read because of it.
    """

    place: str
    data: dict[Any, Any]
    line: int
    kind: Kind | None = None
    fault: ConfigError | None = None
    is_refused: bool = False


@dataclass(frozen=True, slots=True)
class _Piece:
    """What a piece of a text says: its objects, by document."""

    documents: tuple[tuple[_Object, ...], ...]
    aliases: int


Pieces = dict[bytes, _Piece]


def read_documents(path: Path, known: Pieces | None = None, *, is_whole: bool = False) -> tuple[Document, ...]:
    """The documents of one file; a Kubernetes List is taken apart.

    Args:
        path: The file.
        known: What its pieces said before; what they say now is put in their place.
        is_whole: With what nobody reads of them, for those who look at objects that are not ours.

    Raises:
        ConfigError: The file cannot be read, is not YAML, or a document is not an object.
    """
    name, text = shown(path), read_file(path)
    known = {} if known is None else known
    pieces: Pieces = {}
    found: list[tuple[int, tuple[_Object, ...]]] = []
    aliases, words = 0, Words()
    for line, piece in text_pieces(text):
        digest = digest_of(piece)
        try:
            read = known.get(digest) or _read_piece(piece, line, words, is_whole)
            aliases += read.aliases
            if aliases > MAX_ALIASES:
                raise YamlError(1, f"has more than {MAX_ALIASES} aliases")
        except YamlError as error:
            where = f"{name} document {len(found) + error.document}"
            raise ConfigError(where, f"is not YAML: {error.problem}") from error
        pieces[digest] = read
        found += ((line, objects) for objects in read.documents)
    known.clear()
    known.update(pieces)
    return tuple(_placed(name, found, digest_of(text)))


def text_pieces(text: str) -> Iterator[tuple[int, str]]:
    """A text, cut between its documents; with the line on which each piece begins, from 1."""
    start, line = 0, 1
    # A directive belongs to what comes after it.
    end = -1 if text.startswith("%") or "\n%" in text or "\n..." in text else text.find("\n---")
    while end >= 0:
        if text[end + 4 : end + 5] in ("", " ", "\t", "\r", "\n"):
            piece = text[start : end + 1]
            yield line, piece
            line += piece.count("\n")
            start = end + 1
        end = text.find("\n---", end + 4)
    yield line, text[start:]


def digest_of(text: str) -> bytes:
    """Of two texts that are not the same, two that are not."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _read_piece(text: str, first_line: int, words: Words, is_whole: bool) -> _Piece:
    documents, aliases = _parse(text, first_line, words)
    return _Piece(tuple(tuple(_objects_of(one, first_line, is_whole)) for one in documents), aliases)


def _parse(text: str, first_line: int, words: Words) -> tuple[list[YamlDocument], int]:
    if text.lstrip()[:1] in ("{", "["):
        try:
            return [YamlDocument(parse_json(text), 0)], 0
        except ValueError:
            pass  # It may be YAML, whose reader says what is wrong, and where.
    return read_yaml(text, first_line, words)


def _objects_of(document: YamlDocument, first_line: int, is_whole: bool) -> Iterator[_Object]:
    objects = [] if document.data is None else [*_split("", document.data)]
    lines = document.item_lines if len(document.item_lines) == len(objects) else ()
    for index, one in enumerate(objects):
        line = (lines[index] if lines and one.place else document.line) - first_line
        yield _known(dataclasses.replace(one, line=line if document.line else -1), is_whole)


def _split(place: str, data: Any) -> Iterator[_Object]:
    items: Any = None
    if isinstance(data, list):
        items = data
    elif not isinstance(data, dict):
        yield _refused(place, f"must be an object, is {type(data).__name__}")
    elif _is_list(data):
        items = data.get("items")
        if isinstance(items, list):
            items = [_with_kind_of(data, item) for item in items]
        else:
            yield _refused(f"{place}.items", "must be the list of objects")
    else:
        yield _Object(place, data, 0)
    for index, item in enumerate(items if isinstance(items, list) else ()):
        yield from _split(f"{place} item {index}", item)


def _refused(place: str, problem: str) -> _Object:
    return _Object("", {}, 0, fault=ConfigError(place, problem), is_refused=True)


def _is_list(data: dict[Any, Any]) -> bool:
    """`List`, as kubectl makes it, and `PodList` and the like, as servers do."""
    kind = data.get("kind")
    return isinstance(kind, str) and (kind == "List" or (kind.endswith("List") and "items" in data))


def _with_kind_of(whole: dict[Any, Any], item: Any) -> Any:
    """An item of a `PodList`, to which servers give neither kind nor version: it has those of the list."""
    kind = whole["kind"].removesuffix("List")
    if not kind or not isinstance(item, dict) or "kind" in item or "apiVersion" in item or "metadata" not in item:
        return item
    return {"apiVersion": whole.get("apiVersion"), "kind": kind, **item}


def _known(one: _Object, is_whole: bool) -> _Object:
    """With its kind, and, unless it is to be whole, without what nobody reads."""
    if one.is_refused or "@type" in one.data:
        return one
    try:
        kind = kind_of(one.data, "")
    except ConfigError as error:
        return dataclasses.replace(one, fault=error)
    return dataclasses.replace(one, data=one.data if is_whole else pruned(one.data, kind), kind=kind)


def _placed(name: str, found: list[tuple[int, tuple[_Object, ...]]], digest: bytes) -> Iterator[Document]:
    for number, (line, objects) in enumerate(found, 1):
        whole = f"{name} document {number}" if len(found) > 1 else name
        for one in objects:
            where = whole + one.place
            fault = one.fault
            if fault is not None:
                fault = type(fault)(where + fault.where, fault.problem)
                if one.is_refused:
                    raise fault
            yield Document(where, one.data, line + one.line if one.line >= 0 else 0, digest, one.kind, fault)
