"""What a test applies: objects in YAML, as data or in files; each is a file of its own in a folder."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct
from msgspec.structs import replace

from ..controlplane.documents import digest_of, text_pieces

__all__ = ["Given", "ObjectKey", "Objects", "Written", "find_objects"]

Given = str | os.PathLike[str] | Mapping[str, Any] | Iterable[Mapping[str, Any]]

# Kind, namespace and name.
ObjectKey = tuple[str, str, str]

_SUFFIXES = (".yaml", ".yml", ".json")
_UNREADABLE = "unreadable"

# What a folder does with a file that is wrong; here it was never taken.
_OF_THE_FOLDER = ("; it is left out", "; what it said before stays in use")


class Written(Struct, frozen=True):
    """One object.

    Attributes:
        text: What is written, on the lines on which it was given.
        origin: The file that it was given in; empty where it was none.
    """

    key: ObjectKey
    text: str
    origin: str = ""


def find_objects(given: Given, namespace: str = "default") -> list[Written]:
    """The objects that somebody gave.

    Args:
        given: A text of YAML (or JSON), the path of a file or of a folder, an object, or several objects.
        namespace: Of objects that name none.

    Raises:
        OSError: A path cannot be read.
        TypeError: It is something else.
    """
    if isinstance(given, str):
        return list(_of_text(textwrap.dedent(given), namespace))
    if isinstance(given, os.PathLike):
        files = _files(Path(given))
        return [replace(one, origin=str(path)) for path in files for one in _of_text(path.read_text(), namespace)]
    if isinstance(given, Mapping):
        return list(_of_data(given, namespace))
    return [one for data in given for one in find_objects(data, namespace)]


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(one for one in path.rglob("*") if one.suffix in _SUFFIXES and one.is_file())


def _of_text(text: str, namespace: str) -> Iterator[Written]:
    for line, piece in text_pieces(text):
        # Problems name the line in the whole text.
        yield from _of_piece("\n" * (line - 1) + piece, namespace)


def _of_piece(text: str, namespace: str) -> Iterator[Written]:
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError:
        data = _UNREADABLE  # It is written as it stands: whoever reads the folder says what is wrong.
    if data is None:
        return
    if not isinstance(data, Mapping):
        yield Written((_UNREADABLE, namespace, digest_of(text).hex()[:8]), text)
    elif _is_list(data) or (_is_of(data) and not _metadata(data).get("namespace") and namespace != "default"):
        yield from _of_data(data, namespace)
    else:
        yield Written(_key_of(data, namespace), text)


def _of_data(data: Mapping[str, Any], namespace: str) -> Iterator[Written]:
    if _is_list(data):
        for one in data["items"]:
            yield from _of_data(one, namespace)
        return
    if _is_of(data) and not _metadata(data).get("namespace"):
        data = {**data, "metadata": {**_metadata(data), "namespace": namespace}}
    yield Written(_key_of(data, namespace), yaml.safe_dump(_plain(data), sort_keys=False))


def _is_list(data: Mapping[str, Any]) -> bool:
    return data.get("kind") == "List" and isinstance(data.get("items"), list)


def _is_of(data: Mapping[str, Any]) -> bool:
    """Whether it is an object of Kubernetes, which has a namespace."""
    return "kind" in data and isinstance(data.get("metadata", {}), Mapping)


def _metadata(data: Mapping[str, Any]) -> Mapping[str, Any]:
    found = data.get("metadata")
    return found if isinstance(found, Mapping) else {}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _key_of(data: Mapping[str, Any], namespace: str) -> ObjectKey:
    if "@type" in data:
        name = data.get("name") or data.get("cluster_name") or data.get("clusterName") or ""
        return str(data["@type"]).rpartition(".")[2], "", str(name)
    metadata = _metadata(data)
    return str(data.get("kind", "")), str(metadata.get("namespace") or namespace), str(metadata.get("name", ""))


class Objects:
    """A folder with a file for each object, in the order in which they came first, as a cluster has them by age.

    Args:
        folder: It is there, and empty.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: dict[ObjectKey, Path] = {}
        self._origins: dict[ObjectKey, str] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._paths

    def get(self, key: ObjectKey) -> Any:
        """What an object says; None where there is none."""
        path = self._paths.get(key)
        return yaml.safe_load(path.read_text()) if path is not None else None

    def told(self, problem: str) -> str:
        """A problem of the folder in the words of whoever gave the objects: without our files, and what is done."""
        for key, path in self._paths.items():
            origin = self._origins.get(key, "")
            problem = problem.replace(f"{path}: ", origin and f"{origin}: ").replace(
                f"{path} ", origin and f"{origin} "
            )
        for advice in _OF_THE_FOLDER:
            problem = problem.replace(advice, "")
        return problem

    def put(self, objects: Iterable[Written]) -> dict[ObjectKey, str | None]:
        """Write objects; what stood in their places before, None where nothing did."""
        before: dict[ObjectKey, str | None] = {}
        for one in objects:
            path = self._paths.get(one.key)
            before.setdefault(one.key, path.read_text() if path is not None else None)
            self._write(one.key, one.text)
            self._origins[one.key] = one.origin
        return before

    def remove(self, keys: Iterable[ObjectKey]) -> None:
        """Delete objects that are there."""
        for key in keys:
            self._paths.pop(key).unlink()

    def restore(self, before: Mapping[ObjectKey, str | None]) -> None:
        """Undo what `put` did."""
        for key, text in before.items():
            if text is None:
                self.remove([key])
            else:
                self._write(key, text)

    def _write(self, key: ObjectKey, text: str) -> None:
        path = self._paths.get(key)
        if path is None:
            number = max((int(one.name[:5]) for one in self._paths.values()), default=-1) + 1
            shown = re.sub(r"[^a-z0-9.-]+", "_", ".".join(part for part in key if part).lower())[:100]
            path = self._paths[key] = self._folder / f"{number:05}-{shown}.yaml"
        fresh = path.with_suffix(".new")
        fresh.write_text(text)
        os.replace(fresh, path)  # Another inode, so that no edit looks like the one before it.
