"""A folder of this process alone, for a socket and for keys: mode 0700, in memory where the system has a place for it.

A file lock says that its process lives, so a folder that a crashed process left is recognised and removed by the next
one, also where containers share the place and process ids mean nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

__all__ = ["PrivateFolder", "write_private"]

_PREFIX = "meshsdk-"
_LOCK = "lock"
# Between the making of a folder and of its lock it looks abandoned.
_GRACE_SECONDS = 60.0


class PrivateFolder:
    """Made at once; removed by `remove`, and at the end of the process.

    Args:
        base: Where to make it. Default: a tmpfs of the system's, else the directory for temporary files.

    Attributes:
        path: The folder.
    """

    def __init__(self, base: Path | None = None) -> None:
        base = base or _memory_folder()
        _remove_abandoned(base)
        self.path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getuid()}-", dir=base))  # mode 0700
        self._lock = os.open(self.path / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._owner = os.getpid()
        atexit.register(self.remove)

    def remove(self) -> None:
        """Remove it with all it holds. Safe to call again; a forked child leaves its parent's alone."""
        if self._lock >= 0 and os.getpid() == self._owner:
            atexit.unregister(self.remove)
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def write_private(path: Path, content: bytes) -> None:
    """Write a file that nobody else can read."""
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _memory_folder() -> Path:
    for candidate in ("/dev/shm", os.environ.get("XDG_RUNTIME_DIR", "")):
        if candidate and os.access(candidate, os.W_OK | os.X_OK):
            return Path(candidate)
    return Path(tempfile.gettempdir())


def _remove_abandoned(base: Path) -> None:
    """Remove the folders of this user's processes that have crashed."""
    for folder in base.glob(f"{_PREFIX}{os.getuid()}-*"):
        with contextlib.suppress(OSError):
            status = folder.lstat()
            if status.st_uid == os.getuid() and not folder.is_symlink() and _is_abandoned(folder, status.st_mtime):
                shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path, modified: float) -> bool:
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return time.time() - modified > _GRACE_SECONDS
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)
