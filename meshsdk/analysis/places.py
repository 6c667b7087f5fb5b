"""From what stands somewhere to its place: file, document, object, field and line."""

from __future__ import annotations

import re
from typing import Any

from ..controlplane.documents import Document
from ..controlplane.files import shown
from ..controlplane.lines import Places
from .findings import Place

__all__ = ["PlaceBook"]

# `.spec.http[0].route` and `[0]['a key']`, up to what is said of it.
_FIELD = re.compile(r"((?:\.[^\s.:\[\]]+|\[(?:\d+|'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")\])*)(?:: )?", re.DOTALL)
_NUMBER = re.compile(r" document (\d+)")
_ITEM = re.compile(r"(item \d+(?: item \d+)*)")


class PlaceBook:
    """Looks places up.

    Args:
        places: Where fields stand.
    """

    def __init__(self, places: Places) -> None:
        self._places = places

    def place(self, document: Document, path: str = "") -> Place:
        """A field of a document; `path` as in `.spec.hosts[0]`."""
        name, namespace, kind = _named(document)
        file = self._places.file_of(document.where)
        within = document.where[len(shown(file)) :] if file is not None else ""
        number, item = _NUMBER.match(within), _ITEM.search(within)
        return Place(
            file=shown(file) if file is not None else "",
            line=self._places.line_of(f"{document.where}{path}"),
            document=int(number[1]) if number is not None else 0,
            item=item[1] if item is not None else "",
            kind=kind,
            namespace=namespace,
            name=name,
            path=path.removeprefix("."),
        )

    def split(self, problem: str) -> tuple[Document | None, Place, str]:
        """A problem that begins with where it stands: its document, its place, and what is wrong."""
        document = self._places.document_of(problem)
        if document is None:
            file = self._places.file_of(problem)
            name = shown(file) if file is not None else ""
            return None, Place(file=name), problem[len(name) :].lstrip(": ")
        rest = self._places.field_of(problem, document)
        found = _FIELD.match(rest)
        path = found[1] if found is not None else ""
        said = rest[found.end() if found is not None else 0 :].lstrip()
        return document, self.place(document, path), said


def _named(document: Document) -> tuple[str, str, str]:
    """Name, namespace and kind, as far as a document has them."""
    metadata, kind = document.data.get("metadata"), document.data.get("kind")
    of: dict[Any, Any] = metadata if isinstance(metadata, dict) else {}
    name, namespace = of.get("name"), of.get("namespace")
    if not isinstance(name, str):
        return "", "", kind if isinstance(kind, str) else ""
    return name, namespace if isinstance(namespace, str) else "default", kind if isinstance(kind, str) else ""
