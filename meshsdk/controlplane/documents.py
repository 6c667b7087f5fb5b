"""Files to documents: YAML or JSON, several to a file, bounded and safe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError

__all__ = ["Document", "config_files", "read_documents"]

SUFFIXES = (".yaml", ".yml", ".json")

# Kubernetes itself takes no object above 1.5 MiB; a file may hold many.
_MAX_FILE_BYTES = 64 << 20
# Aliases make a small file mean a huge document ("billion laughs"); manifests do without, or use a few.
_MAX_ALIASES = 100

# libyaml's parser where it was built in; both construct plain data only.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Document:
    """One document: where it stands, and what it says."""

    where: str
    data: dict[str, Any]


def config_files(root: Path) -> list[Path]:
    """The configuration files of a folder, or the file itself, in a stable order.

    Raises:
        ConfigError: There is no such file or folder.
    """
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise ConfigError(str(root), "there is no such file or folder")
    # Kubernetes mounts config maps as links into hidden folders; those must not be read twice.
    return sorted(
        path
        for path in root.rglob("*")
        if path.suffix in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    )


def read_documents(path: Path) -> Iterator[Document]:
    """The documents of one file; a Kubernetes List is taken apart.

    Raises:
        ConfigError: The file cannot be read, is not YAML, or a document is not an object.
    """
    text = _read(path)
    try:
        aliases = sum(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=_Loader))
        if aliases > _MAX_ALIASES:
            raise ConfigError(str(path), f"has {aliases} YAML aliases; at most {_MAX_ALIASES} are taken")
        parsed = list(yaml.load_all(text, Loader=_Loader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(str(path), f"is not YAML: {' '.join(str(error).split())}") from error
    for index, data in enumerate(parsed, 1):
        where = f"{path} document {index}" if len(parsed) > 1 else str(path)
        if data is None:
            continue
        yield from _split(where, data)


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise ConfigError(str(path), f"is larger than {_MAX_FILE_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"cannot be read: {error}") from error


def _split(where: str, data: Any) -> Iterator[Document]:
    if isinstance(data, list):
        for index, item in enumerate(data):
            yield from _split(f"{where} item {index}", item)
    elif not isinstance(data, dict):
        raise ConfigError(where, f"must be an object, is {type(data).__name__}")
    elif data.get("kind") == "List" and isinstance(data.get("items"), list):
        for index, item in enumerate(data["items"]):
            yield from _split(f"{where} item {index}", item)
    else:
        yield Document(where, data)
