"""Cells that the processes of one application share, so that whoever is scraped tells for all of them.

Each process counts into a file of its own, mapped into memory: adding costs what it costs anyway, and a process that is
killed leaves all that it has counted. Beside it stands a file that says what its rows mean, a line each. Whoever is
scraped adds up all files of the folder. A process holds a lock on its file as long as it lives; a new one goes on with
the file of one that is gone, so that there are as many files as processes at the most, and no counter ever falls. When
none of them is left, the next one begins anew, as counters of a restarted application do.

Which folder that is: prometheus_client's, where PROMETHEUS_MULTIPROC_DIR names one; else one by the port that all were
told, or by the parent of gunicorn's and multiprocessing's workers. Other processes share with nobody.
"""

from __future__ import annotations

import contextlib
import json
import logging
import mmap
import os
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows has neither forks nor these locks.
    fcntl = None  # type: ignore[assignment]

from ..errors import MeshError
from .cells import ROW, Labels, Meanings, Memory, PrivateMemory
from .istio_metrics import DEFAULT_MAX_SERIES
from .prometheus import MULTIPROCESS_VARIABLE

__all__ = ["has_others", "open_memory", "place_of"]

logger = logging.getLogger("meshsdk.telemetry")

_ROWS = DEFAULT_MAX_SERIES + 1
_BYTES = _ROWS * ROW * 8
# Of this layout: another version of this library has files of its own.
_PREFIX = f"meshsdk-1-{_ROWS}-"
_CELLS, _LABELS, _DOOR = ".cells", ".labels", f"{_PREFIX}lock"
_OWN_FOLDER = "meshsdk-metrics-"

# The files that this process counts in: its locks are no other's.
_own: dict[Path, int] = {}


def place_of(port: int | None, environment: Mapping[str, str]) -> Path | None:
    """The folder that processes of this application share; None where there is only this one.

    Args:
        port: That all of them were told; None is none.
        environment: The process's.
    """
    if fcntl is None:
        return None
    named = environment.get(MULTIPROCESS_VARIABLE)
    if named:
        return Path(named)
    if port is not None:
        return _own_folder(f"port-{port}")
    return _own_folder(f"parent-{os.getppid()}") if _is_worker() else None


def _is_worker() -> bool:
    """Whether this process is one of several that serve the same."""
    multiprocessing = sys.modules.get("multiprocessing.process")
    is_child = multiprocessing is not None and multiprocessing.parent_process() is not None
    return is_child or "gunicorn.arbiter" in sys.modules


def _own_folder(name: str) -> Path:
    return Path(tempfile.gettempdir()) / f"{_OWN_FOLDER}{os.geteuid()}-{name}"


def open_memory(place: Path | None) -> Memory:
    """Memory in a folder; this process's own where there is none, or it cannot be used: requests go on."""
    if place is None:
        return PrivateMemory(_ROWS)
    try:
        return _SharedMemory(place)
    except (OSError, ValueError) as error:
        logger.error("metrics are not shared with other processes: %s", MeshError(str(error)))
        return PrivateMemory(_ROWS)


def has_others(place: Path | None) -> bool:
    """Whether anybody else counts in a folder now: another process, or another Mesh of this one."""
    if place is None or not place.is_dir():
        return False
    held: list[Path] = []
    with contextlib.suppress(OSError), _entered(place):
        for path in place.glob(f"{_PREFIX}*{_CELLS}"):
            with contextlib.suppress(OSError), _open(path) as file:
                if not _lock(file):
                    held.append(path)
    return len(held) > 1 or any(_own.get(path) != os.getpid() for path in held)


@contextmanager
def _entered(folder: Path) -> Iterator[None]:
    """While this holds, no other process begins or looks who is there."""
    with _open(folder / _DOOR, os.O_CREAT) as door:
        _lock(door, waits=True)
        yield


def _open(path: Path, flags: int = 0) -> IO[bytes]:
    """A file of this user's, and nothing that somebody else has put in its place.

    Raises:
        OSError: There is none, or it is something else.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | flags, 0o600)
    known = os.fstat(descriptor)
    if not stat.S_ISREG(known.st_mode) or known.st_uid != os.geteuid():
        os.close(descriptor)
        raise PermissionError(f"{path} is no file of this user's")
    return open(descriptor, "r+b", buffering=0)


def _check_folder(folder: Path) -> None:
    """One that is named need only be there; where any user makes folders, it must be this user's alone.

    Raises:
        OSError: It is neither.
    """
    if not folder.name.startswith(_OWN_FOLDER):
        return
    known = folder.lstat()
    if not stat.S_ISDIR(known.st_mode) or known.st_uid != os.geteuid() or known.st_mode & 0o022:
        raise PermissionError(f"{folder} is no folder of this user's alone")


def _lock(file: IO[Any], *, waits: bool = False) -> bool:
    """Hold a file until it is closed; False where another process does."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


class _SharedMemory:
    """Memory in a file.

    Args:
        folder: Of the files.

    Raises:
        OSError: It cannot be used, or is not this user's alone.
        ValueError: A file cannot be mapped.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        _check_folder(folder)
        self._folder = folder
        with _entered(folder):
            self._path, self._file = self._take()
        self._labels = _open(self._path.with_suffix(_LABELS), os.O_CREAT | os.O_APPEND)
        self._pages = mmap.mmap(self._file.fileno(), _BYTES)
        self.numbers = memoryview(self._pages).cast("Q")
        _own[self._path] = os.getpid()

    def _take(self) -> tuple[Path, IO[bytes]]:
        """The file of a process that is gone, or a new one. Where all are gone, nothing of theirs is kept."""
        free: dict[Path, IO[bytes]] = {}
        is_alone = True
        with contextlib.ExitStack() as stack:
            for path in sorted(self._folder.glob(f"{_PREFIX}*{_CELLS}")):
                with contextlib.suppress(OSError):
                    file = stack.enter_context(_open(path))
                    if _lock(file):
                        free[path] = file
                    else:
                        is_alone = False
            for path in [path for path, file in free.items() if is_alone or not _is_whole(file)]:
                _discard(path)
                del free[path]
            for path, file in free.items():
                # Its own description holds the lock, so it outlives those that are closed here.
                kept = os.fdopen(os.dup(file.fileno()), "r+b", buffering=0)
                return path, kept
        return self._make()

    def _make(self) -> tuple[Path, IO[bytes]]:
        descriptor, name = tempfile.mkstemp(_CELLS, f"{_PREFIX}{os.getpid()}-", self._folder)
        path, file = Path(name), os.fdopen(descriptor, "r+b", buffering=0)
        try:
            _lock(file)
            _give_room(file)
        except OSError:
            file.close()
            _discard(path)
            raise
        return path, file

    def read_labels(self) -> Meanings:
        """See `Memory`."""
        return _read_labels(self._path)

    def write_labels(self, number: int, kind: str, labels: Labels) -> None:
        """See `Memory`."""
        # The end of the line comes first: what a full disk has cut short spoils no other line.
        line = f"\n{json.dumps([number, kind, *labels])}".encode()
        if self._labels.write(line) != len(line):
            raise OSError("the labels cannot be written whole")

    def others(self) -> Iterator[tuple[Meanings, memoryview]]:
        """See `Memory`."""
        for path in self._folder.glob(f"{_PREFIX}*{_CELLS}"):
            if path == self._path:
                continue
            try:
                numbers = memoryview(_read(path))
            except OSError:
                continue  # Its process has just begun, or all of them end.
            if len(numbers) == _BYTES:
                # After the numbers: a row that is read has been labelled before.
                yield _read_labels(path), numbers.cast("Q")


def _is_whole(file: IO[bytes]) -> bool:
    """Whether whoever has made a file came so far as to give it room."""
    return os.fstat(file.fileno()).st_size == _BYTES


def _discard(path: Path) -> None:
    path.with_suffix(_LABELS).unlink(missing_ok=True)
    path.unlink()


def _read(path: Path) -> bytes:
    """The whole of a file of this user's.

    Raises:
        OSError: There is none.
    """
    with _open(path) as file:
        return file.read()


def _give_room(file: IO[bytes]) -> None:
    """Have all of a file on its disk: what is written to a hole of a full one later ends the process.

    Raises:
        OSError: There is no room.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, _BYTES)
    else:
        file.truncate(_BYTES)


def _read_labels(path: Path) -> Meanings:
    """What the rows of a file stand for; a line that is not whole is still being written, or never will be."""
    rows: Meanings = {}
    with contextlib.suppress(OSError):
        for line in _read(path.with_suffix(_LABELS)).split(b"\n"):
            with contextlib.suppress(ValueError, TypeError):
                number, kind, *labels = json.loads(line)
                if 0 < int(number) < _ROWS:
                    rows[int(number)] = (str(kind), tuple(map(str, labels)))
    return rows
