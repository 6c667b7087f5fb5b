"""The development CA of a configuration, in a private folder of the user's, as long as a process uses it.

Theory of operation. The file is named after the configuration's folder. Whoever uses it holds a shared lock on it,
which the system takes from a process that ends, however it ends. Who lets go of it as the last removes it, and what
lies beside it; what killed processes have left is removed by the next that starts. So keys do not pile up, and a file
that can be locked alone is nobody's.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import os
import stat
import tempfile
import time
from pathlib import Path

from .certificate_authority import CertificateAuthority

__all__ = ["HeldAuthority"]

# Between its making and its renaming a file looks like nobody's.
_GRACE_SECONDS = 60.0
_ROUNDS = 100
_CA, _ROOTS = ".pem", ".roots.pem"


class HeldAuthority:
    """The CA of a configuration: made by the first who asks.

    Args:
        root: The configuration.

    Attributes:
        authority: The CA.

    Raises:
        OSError, ValueError: The user's private folder cannot be used.
    """

    def __init__(self, root: Path) -> None:
        folder = _private_folder()
        _remove_unused(folder)
        self._path = folder / f"{hashlib.sha256(str(root).encode()).hexdigest()[:32]}{_CA}"
        self._descriptor, self.authority = _held(self._path)
        self._owner = os.getpid()
        atexit.register(self.release)

    @property
    def is_fresh(self) -> bool:
        """Whether it can be used on."""
        return self.authority.is_fresh

    @property
    def is_in_place(self) -> bool:
        """Whether whoever asks now finds the same one: its file is still there."""
        return self._descriptor >= 0 and _is_same(self._descriptor, self._path)

    def write_beside(self, suffix: str, content: bytes) -> Path:
        """A file beside the CA's, which only this user can read, and which goes with it."""
        path = self._path.with_name(self._path.name.removesuffix(_CA) + suffix)
        os.replace(_write_fresh(path, content), path)
        return path

    def release(self) -> None:
        """Let go of it; it is removed if nobody else holds it. Safe to call again.

        A forked child lets go of what it has inherited only.
        """
        if self._descriptor < 0:
            return
        atexit.unregister(self.release)
        descriptor, self._descriptor = self._descriptor, -1
        try:
            if os.getpid() == self._owner:
                _remove_if_unused(descriptor, self._path)
        finally:
            os.close(descriptor)


def _held(path: Path) -> tuple[int, CertificateAuthority]:
    for _ in range(_ROUNDS):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            _make(path)
            continue
        is_held = False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if _is_same(descriptor, path):
                authority = _load(path)
                if authority is not None:
                    is_held = True
                    return descriptor, authority
                path.unlink(missing_ok=True)
        finally:
            if not is_held:
                os.close(descriptor)
    raise OSError(f"{path} is removed again and again")


def _load(path: Path) -> CertificateAuthority | None:
    """None where its time is over, or somebody has written into it: those who use it have it in memory."""
    try:
        return CertificateAuthority.load(path.read_bytes())
    except ValueError:
        return None


def _make(path: Path) -> None:
    fresh = _write_fresh(path, CertificateAuthority.make().dump())
    try:
        # A link does not replace what another process has put there in the meantime.
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def _write_fresh(path: Path, content: bytes) -> Path:
    fresh = path.with_name(f"{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    return fresh


def _is_same(descriptor: int, path: Path) -> bool:
    """Whether what was locked is still what others find."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _remove_if_unused(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    if _is_same(descriptor, path):
        for one in (path, *path.parent.glob(f"{path.name.removesuffix(_CA)}.*")):
            one.unlink(missing_ok=True)


def _remove_unused(folder: Path) -> None:
    """Remove what processes that were killed have left."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if path.name.endswith(_CA) and not path.name.endswith(_ROOTS):
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    # Whoever is about to lock it sees that it is gone, and makes another.
                    _remove_if_unused(descriptor, path)
                finally:
                    os.close(descriptor)
            elif time.time() - path.stat().st_mtime > _GRACE_SECONDS and _is_left_over(path):
                path.unlink()


def _is_left_over(path: Path) -> bool:
    """Of a process that was killed while it wrote, or of an authority that is gone."""
    is_unfinished = path.suffix[1:].isdecimal()
    return is_unfinished or not path.with_name(f"{path.name.partition('.')[0]}{_CA}").exists()


def _private_folder() -> Path:
    """A folder of this user's that nobody else can write or read.

    Raises:
        OSError: Somebody else has made it.
    """
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    folder = Path(base) / f"meshsdk-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise OSError(f"{folder} is not a private folder of this user")
    return folder
