"""Files to documents: YAML or JSON, several to a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .files import read_file, shown
from .strict_yaml import YamlError, parse_yaml

__all__ = ["Document", "read_documents"]


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """One document: where it stands, and what it says.

    Two are equal when each value is of the same type, too: `true` and `1` are not the same to those who read them.
    """

    where: str
    data: dict[Any, Any]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Document):
            return NotImplemented
        return self.where == other.where and repr(self.data) == repr(other.data)

    def __hash__(self) -> int:
        return hash(self.where)


def read_documents(path: Path) -> tuple[Document, ...]:
    """The documents of one file; a Kubernetes List is taken apart.

    Raises:
        ConfigError: The file cannot be read, is not YAML, or a document is not an object.
    """
    name = shown(path)
    try:
        parsed = parse_yaml(read_file(path))
    except YamlError as error:
        raise ConfigError(f"{name} document {error.document}", f"is not YAML: {error.problem}") from error
    found: list[Document] = []
    for index, data in enumerate(parsed, 1):
        if data is not None:
            found += _split(f"{name} document {index}" if len(parsed) > 1 else name, data)
    return tuple(found)


def _split(where: str, data: Any) -> Iterator[Document]:
    if isinstance(data, list):
        for index, item in enumerate(data):
            yield from _split(f"{where} item {index}", item)
    elif not isinstance(data, dict):
        raise ConfigError(where, f"must be an object, is {type(data).__name__}")
    elif _is_list(data):
        items = data.get("items")
        if not isinstance(items, list):
            raise ConfigError(f"{where}.items", "must be the list of objects")
        for index, item in enumerate(items):
            yield from _split(f"{where} item {index}", item)
    else:
        yield Document(where, data)


def _is_list(data: dict[Any, Any]) -> bool:
    """`List`, as kubectl makes it, and `PodList` and the like, as servers do."""
    kind = data.get("kind")
    return isinstance(kind, str) and (kind == "List" or (kind.endswith("List") and "items" in data))
