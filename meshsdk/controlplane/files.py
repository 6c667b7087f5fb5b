"""Which files a folder has, and what is in them.

Nothing that stands where configuration may stand is left out in silence: what cannot be listed, followed or opened is
an entry with a problem. Nothing is opened that is not a file, since a FIFO blocks and a device may do anything.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from ..errors import ConfigError

__all__ = ["FileEntry", "list_files", "read_file", "shown"]

SUFFIXES = (".yaml", ".yml", ".json")

# Kubernetes itself takes no object above 1.5 MiB; a file may hold many.
_MAX_FILE_BYTES = 64 << 20

# Line breaks to YAML 1.1 and to libyaml, not to YAML 1.2 nor to most editors: a comment that ends at one goes on
# below, and what follows it counts.
_HIDDEN_BREAKS = {"\x85": "U+0085", "\u2028": "U+2028", "\u2029": "U+2029"}

_OPEN = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_CLOEXEC", 0)


class FileEntry(Struct, frozen=True):
    """Something that is configuration, or stands in its place.

    Attributes:
        stamp: Changes with what is there: device, inode, times and size.
        modified: In nanoseconds; 0 where it is not known.
        problem: Why it cannot be read; empty for files.
        is_folder: Others may be below it, which are not known either.
    """

    path: Path
    stamp: tuple[int, ...] = ()
    modified: int = 0
    problem: str = ""
    is_folder: bool = False


def shown(path: str | os.PathLike[str]) -> str:
    """A path for messages: on one line, whatever its name is."""
    text = os.fspath(path)
    return text if text.isprintable() else ascii(text)[1:-1]


def list_files(root: Path, *, is_file: bool | None = None) -> list[FileEntry]:
    """What configuration a folder has, in a stable order; or the one entry of a file.

    Args:
        root: The folder, or one file.
        is_file: What `root` was when it was first looked at. Something else in its place is a problem.
    """
    try:
        found = os.stat(root)
    except OSError as error:
        is_gone = isinstance(error, FileNotFoundError)
        problem = "there is no such file or folder" if is_gone else f"cannot be read: {_reason(error)}"
        return [FileEntry(root, problem=problem, is_folder=True)]
    is_folder_now = stat.S_ISDIR(found.st_mode)
    if is_file is None:
        is_file = not is_folder_now
    if is_file != (not is_folder_now):
        kind = "folder, and was a file" if is_folder_now else "file, and was a folder"
        return [FileEntry(root, problem=f"is a {kind}", is_folder=True)]
    return [_entry(root, found)] if is_file else _walk(root, found)


def _walk(root: Path, of_root: os.stat_result) -> list[FileEntry]:
    entries: list[FileEntry] = []
    # Links to folders are followed, as Kubernetes mounts keys with a path; by its inode each is read once.
    seen = {(of_root.st_dev, of_root.st_ino)}
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            names = os.listdir(folder)
        except OSError as error:
            entries.append(FileEntry(folder, problem=f"cannot be listed: {_reason(error)}", is_folder=True))
            continue
        for name in names:
            # Kubernetes mounts config maps as links into hidden folders; those must not be read twice.
            if name.startswith("."):
                continue
            path = folder / name
            try:
                found = os.stat(path)
            except OSError as error:
                # Whatever its name: it may have led to a folder.
                is_lost = isinstance(error, FileNotFoundError)
                problem = "is a link that leads nowhere" if is_lost else f"cannot be read: {_reason(error)}"
                entries.append(FileEntry(path, problem=problem, is_folder=True))
                continue
            if path.suffix.lower() in SUFFIXES:
                entries.append(_entry(path, found))
            elif stat.S_IFMT(found.st_mode) in (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK):
                # A folder of this name may have been meant.
                entries.append(replace(_entry(path, found), is_folder=True))
            elif stat.S_ISDIR(found.st_mode) and (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                folders.append(path)
    return sorted(entries, key=lambda entry: entry.path)


def _entry(path: Path, found: os.stat_result) -> FileEntry:
    stamp = (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
    return FileEntry(path, stamp, found.st_mtime_ns, _unlike_a_file(found))


_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def _unlike_a_file(found: os.stat_result) -> str:
    if stat.S_ISREG(found.st_mode):
        return ""
    return f"is {_KINDS.get(stat.S_IFMT(found.st_mode), 'something else')}, where a file must be"


def read_file(path: Path) -> str:
    """The text of a file.

    Raises:
        ConfigError: It cannot be read, is not UTF-8, or is no file.
    """
    try:
        # Looked at before it is opened: opening alone has effects on some devices.
        if problem := _unlike_a_file(os.stat(path)):
            raise ConfigError(shown(path), problem)
        with os.fdopen(os.open(path, _OPEN), "rb") as file:
            before = os.fstat(file.fileno())
            if problem := _unlike_a_file(before):
                raise ConfigError(shown(path), problem)
            # What has no size, as in /proc, may go on without end.
            content = file.read(_MAX_FILE_BYTES + 1) if before.st_size <= _MAX_FILE_BYTES else None
            after = os.fstat(file.fileno())
        if content is None or len(content) > _MAX_FILE_BYTES:
            raise ConfigError(shown(path), f"is larger than {_MAX_FILE_BYTES} bytes")
        if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
            raise ConfigError(shown(path), "is being written")
        if len(content) != after.st_size:
            # The kernel's own, as in /proc: what they say is another text each time, and may look like YAML.
            raise ConfigError(
                shown(path), f"has {len(content)} bytes and a size of {after.st_size}: it is no stored file"
            )
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(shown(path), f"cannot be read: {_reason(error)}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            shown(path), f"cannot be read: it is not UTF-8: {error.reason} at byte {error.start}"
        ) from error
    for character, name in _HIDDEN_BREAKS.items():
        if character in text:
            line = text.count("\n", 0, text.index(character)) + 1
            raise ConfigError(
                shown(path), f"has the character {name} in line {line}, a line break to some readers only"
            )
    return text


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
