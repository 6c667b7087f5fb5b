"""The file of last known good resources.

Theory of operation. A file is of one node and one list of servers, whose fingerprint is its name; processes that share
both share it (gunicorn's workers, containers that start anew on one volume). It is data (msgpack), never code, between
a line that says what it is and the digest of the rest; whatever is wrong with it is said, and it counts as empty.

- It is replaced as a whole: written beside, flushed to the disk, renamed. A reader has the old one or the new one.
- It is changed under a lock by reading it, putting in what is new, and leaving out what is too old or too much, so that
  processes that want different resources do not take each other's away.
- Whoever could write to the file or the folder could tell this process where to send its requests and whom to let in.
  So both must belong to this user, be no link, and be writable by nobody else; else nothing is read or written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ..bootstrap import Bootstrap
from ..log_lines import logger_of

try:
    import fcntl
except ImportError:  # Windows has no such modes and locks; `Mesh` refuses a cache there.
    fcntl = None  # type: ignore[assignment]

__all__ = ["MAX_BYTES", "Key", "Record", "Store", "fingerprint"]

logger = logger_of("meshsdk.last_good")

_HEAD = b"meshsdk last known good, 1\n"
_DIGEST_BYTES = 32
# Of one file. Beyond this the resources that were heard of longest ago are left out.
MAX_BYTES = 64 << 20
_OVERHEAD_BYTES = 128
_MAX_KEEPING_SECONDS = 300.0
_LOCK_SECONDS = 5.0
# Files of nodes that are no more: pods have names of their own, and a machine's disk has seen many.
_FORGOTTEN_SECONDS = 30 * 86_400.0
_FILE = re.compile(r"([0-9a-f]{32})\.resources")

# Type URL and name.
Key = tuple[str, str]


class Record(msgspec.Struct, frozen=True, array_like=True):
    """One resource.

    Attributes:
        heard_at: When the server last had it so, in seconds since the epoch.
        packed: Its bytes; empty where the server has said that there is none.
    """

    type_url: str
    name: str
    version: str
    heard_at: float
    packed: bytes

    @property
    def size(self) -> int:
        """About as many bytes as it takes."""
        return len(self.packed) + len(self.name) + len(self.version) + _OVERHEAD_BYTES


class _Contents(msgspec.Struct, frozen=True, array_like=True):
    fingerprint: str
    records: list[Record]


_decoder = msgspec.msgpack.Decoder(_Contents)


class Refused(Exception):
    """The folder or the file is not used; the text says why."""


def fingerprint(bootstrap: Bootstrap) -> str:
    """Of a node and the servers that it asks: configuration is for one node, and versions are one server's."""
    node, servers = bootstrap.node, [server.uri for server in bootstrap.servers]
    place = node.locality
    authorities = {name: [one.uri for one in each.servers] for name, each in bootstrap.authorities.items()}
    who: list[Any] = [node.id, node.cluster, place.region, place.zone, place.sub_zone, dict(node.metadata)]
    text = json.dumps([servers, authorities, who], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Store:
    """The file of one node in one folder. Any thread, one at a time.

    Args:
        folder: Made where it is not there, for this user alone.
        name: See `fingerprint`.
        max_bytes: How large it may be.
    """

    def __init__(self, folder: Path, name: str, max_bytes: int = MAX_BYTES) -> None:
        self.folder = folder
        self._fingerprint = name
        self._name = f"{name}.resources"
        self._max_bytes = max_bytes
        self._has_tidied = False

    @property
    def path(self) -> Path:
        """Where it is, or will be."""
        return self.folder / self._name

    def read(self) -> tuple[dict[Key, Record], str]:
        """What is kept, and why nothing is where that is not for want of a file."""
        try:
            with self._opened() as folder:
                return self._read(folder), ""
        except FileNotFoundError:
            return {}, ""
        except Refused as error:
            return {}, str(error)
        except OSError as error:
            return {}, f"{self.path} is not used: {error}"

    def update(self, changes: Mapping[Key, Record | None], max_age_seconds: float) -> tuple[int, int, str]:
        """Put in what is new, and take out what is None or too old: how many there are, their bytes, what is wrong.

        Raises:
            OSError, Refused: It cannot be written.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._opened() as folder, self._locked(folder):
            problem = ""
            try:
                kept = self._read(folder)
            except FileNotFoundError:
                kept = {}
            except Refused as error:
                logger.warning("%s; it is written anew", error)
                kept = {}
            for key, record in changes.items():
                if record is None:
                    kept.pop(key, None)
                elif key not in kept or kept[key].heard_at <= record.heard_at:
                    kept[key] = record
            oldest = time.time() - max_age_seconds
            records = sorted((one for one in kept.values() if one.heard_at > oldest), key=lambda one: -one.heard_at)
            size = 0
            for place, record in enumerate(records):
                size += record.size
                if size > self._max_bytes:
                    size -= record.size
                    problem = (
                        f"{len(records) - place} of {len(records)} resources are too much for {self._max_bytes} bytes"
                    )
                    del records[place:]
                    break
            self._write(folder, records)
            if not self._has_tidied:
                self._has_tidied = True
                _forget_others(folder, self._fingerprint, max(_FORGOTTEN_SECONDS, 2 * max_age_seconds))
            return len(records), size, problem

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        try:
            folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise Refused(f"{self.folder} is not used: it is a link, or no folder ({error.strerror})") from error
        try:
            self._check(self.folder, os.fstat(folder))
            yield folder
        finally:
            os.close(folder)

    def _check(self, path: Path, found: os.stat_result) -> None:
        if found.st_uid != os.geteuid():
            raise Refused(f"{path} is not used: it belongs to user {found.st_uid}, and this process is {os.geteuid()}")
        if found.st_mode & 0o022:
            raise Refused(f"{path} is not used: others may write to it (mode {stat.S_IMODE(found.st_mode):04o})")

    @contextlib.contextmanager
    def _locked(self, folder: int) -> Iterator[None]:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        lock = os.open(f"{self._fingerprint}.lock", flags, 0o600, dir_fd=folder)
        try:
            deadline = time.monotonic() + _LOCK_SECONDS
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise Refused(f"{self.path} is not written: another process holds its lock") from None
                    time.sleep(0.01)
            try:
                yield
            finally:
                # Said, since a child that was forked meanwhile has this descriptor as well.
                fcntl.flock(lock, fcntl.LOCK_UN)
        finally:
            os.close(lock)

    def _read(self, folder: int) -> dict[Key, Record]:
        try:
            # A pipe in its place must not hold anybody up.
            file = os.open(self._name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise Refused(f"{self.path} is not used: it is a link, or cannot be read ({error.strerror})") from error
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode):
                raise Refused(f"{self.path} is not used: it is no file")
            self._check(self.path, found)
            # Its head, its digest, and what each record takes besides its own bytes, are little.
            if found.st_size > 2 * self._max_bytes:
                raise Refused(f"{self.path} is not used: {found.st_size} bytes are too many")
            with os.fdopen(file, "rb", closefd=False) as opened:
                data = opened.read(found.st_size)
        finally:
            os.close(file)
        return self._parsed(data)

    def _parsed(self, data: bytes) -> dict[Key, Record]:
        if not data.startswith(_HEAD):
            raise Refused(f"{self.path} is not used: it is of another kind, or of another version of meshsdk")
        start = len(_HEAD) + _DIGEST_BYTES
        body = data[start:]
        if hashlib.sha256(body).digest() != data[len(_HEAD) : start]:
            raise Refused(f"{self.path} is not used: it is damaged")
        try:
            contents = _decoder.decode(body)
        except (ValueError, RecursionError) as error:
            raise Refused(f"{self.path} is not used: {error}") from error
        if contents.fingerprint != self._fingerprint:
            raise Refused(f"{self.path} is not used: it is another node's, or of other management servers")
        latest = time.time() + _MAX_KEEPING_SECONDS
        # Who could say that it is of tomorrow could say that it never gets old. (What is no number is not less.)
        return {(one.type_url, one.name): one for one in contents.records if one.heard_at < latest}

    def _write(self, folder: int, records: list[Record]) -> None:
        body = msgspec.msgpack.encode(_Contents(self._fingerprint, records))
        temporary = f"{self._fingerprint}.new"
        # Of a process that was killed: nobody else writes here who has not the lock.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(temporary, flags, 0o600, dir_fd=folder)
        try:
            with os.fdopen(file, "wb") as opened:
                opened.write(_HEAD + hashlib.sha256(body).digest() + body)
                opened.flush()
                os.fsync(file)
            os.rename(temporary, self._name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise
        os.fsync(folder)


def _forget_others(folder: int, own: str, seconds: float) -> None:
    """Take away what no process has written to for a long time; one that runs does so every half an hour."""
    for name in os.listdir(folder):
        found = _FILE.fullmatch(name)
        if found is None or found[1] == own:
            continue
        with contextlib.suppress(OSError):
            if time.time() - os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime > seconds:
                for suffix in ("resources", "new", "lock"):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(f"{found[1]}.{suffix}", dir_fd=folder)
