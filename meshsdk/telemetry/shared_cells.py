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
    return Path(tempfile.gettempdir()) / f"meshsdk-metrics-{os.geteuid()}-{name}"


def open_memory(place: Path | None) -> Memory:
    """Memory in a folder; this process's own where there is none, or it cannot be used: requests go on."""
    if place is None:
        return PrivateMemory(_ROWS)
    try:
        return _SharedMemory(place)
    except OSError as error:
        logger.error("metrics are not shared with other processes: %s", MeshError(str(error)))
        return PrivateMemory(_ROWS)


def has_others(place: Path | None) -> bool:
    """Whether other processes count in a folder now."""
    if place is None or not place.is_dir():
        return False
    for path in place.glob(f"{_PREFIX}*{_CELLS}"):
        with contextlib.suppress(OSError), path.open("r+b") as file:
            if not _lock(file):
                return True
    return False


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
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        known = folder.lstat()
        if not stat.S_ISDIR(known.st_mode) or known.st_uid != os.geteuid():
            raise PermissionError(f"{folder} is no folder of this user's")
        self._folder = folder
        with (folder / _DOOR).open("wb") as door:
            _lock(door, waits=True)
            self._file = self._take()
        self._path = Path(self._file.name)
        self._labels = self._path.with_suffix(_LABELS).open("ab", buffering=0)
        self._pages = mmap.mmap(self._file.fileno(), _BYTES)
        self.numbers = memoryview(self._pages).cast("Q")

    def _take(self) -> IO[bytes]:
        """The file of a process that is gone, or a new one. Where all are gone, nothing of theirs is kept."""
        free: list[IO[bytes]] = []
        is_alone = True
        for path in sorted(self._folder.glob(f"{_PREFIX}*{_CELLS}")):
            file: IO[bytes] = path.open("r+b")
            if _lock(file):
                free.append(file)
            else:
                is_alone = False
                file.close()
        if is_alone:
            for file in free:
                Path(file.name).with_suffix(_LABELS).unlink(missing_ok=True)
                Path(file.name).unlink()
        taken = free[0] if free and not is_alone else self._make()
        for file in free:
            if file is not taken:
                file.close()
        return taken

    def _make(self) -> IO[bytes]:
        descriptor, name = tempfile.mkstemp(_CELLS, f"{_PREFIX}{os.getpid()}-", self._folder)
        os.close(descriptor)
        file = Path(name).open("r+b")  # noqa: SIM115 - it is held as long as this process counts.
        _lock(file)
        try:
            _give_room(file)
            Path(name).with_suffix(_LABELS).touch(0o600)
        except OSError:
            file.close()
            Path(name).unlink()
            raise
        return file

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
                numbers = memoryview(path.read_bytes())
            except OSError:
                continue  # Its process has just begun, or all of them end.
            if len(numbers) == _BYTES:
                # After the numbers: a row that is read has been labelled before.
                yield _read_labels(path), numbers.cast("Q")


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
        for line in path.with_suffix(_LABELS).read_bytes().split(b"\n"):
            with contextlib.suppress(ValueError, TypeError):
                number, kind, *labels = json.loads(line)
                if 0 < int(number) < _ROWS:
                    rows[int(number)] = (str(kind), tuple(map(str, labels)))
    return rows
