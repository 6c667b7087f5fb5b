"""Identities and roots as files that grpc-core watches.

grpc-core takes certificates from provider instances of its bootstrap, which it reads once. So the bootstrap has a
number of empty slots from the start, each a `file_watcher` over two names in the relay's private folder; a cluster's
certificates are given a slot when they are first needed. A slot's files are always whole: each version is written
beside the others, checked (the key fits the certificate), and then put in place by the rename of one link.

Sources: gRFC A29 (certificate providers, file_watcher).
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from msgspec import Struct

from ...errors import ResourceError
from ...log_lines import logger_of
from ...resources import PemSource
from .private_folder import write_private

__all__ = ["CERTIFICATE", "KEY", "ROOTS", "SlotSource", "TlsSlots", "check_files"]

logger = logger_of("meshsdk.grpc")

_SLOTS = 64
# A slot that was let go may still be in use by a connection of grpc-core's that is being closed.
_REUSE_AFTER_SECONDS = 60.0
# grpc-core looks at its files for a moment longer, and complains where they are gone.
_LINGER_SECONDS = 3.0

CERTIFICATE, KEY, ROOTS = "certificate.pem", "key.pem", "roots.pem"

# What a slot holds: file names with where their contents come from.
SlotSource = tuple[tuple[str, PemSource], ...]


class _Slot(Struct):
    name: str
    source: SlotSource
    users: int = 0
    stamp: tuple[object, ...] | None = None
    version: int = 0
    problem: str = ""
    freed_at: float = 0.0


class TlsSlots:
    """Gives slots to certificates, and keeps their files current. From any thread.

    Args:
        folder: The relay's private folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._slots: dict[SlotSource, _Slot] = {}
        self._unused = {
            kind: [f"{kind}-{number}" for number in reversed(range(_SLOTS))] for kind in ("identity", "roots")
        }
        self._freed: dict[str, deque[_Slot]] = {"identity": deque(), "roots": deque()}

    def bootstrap_entries(self) -> dict[str, Any]:
        """The certificate_providers for the bootstrap that grpc-core reads."""
        entries: dict[str, Any] = {}
        for number in range(_SLOTS):
            identity, roots = f"identity-{number}", f"roots-{number}"
            entries[instance_name(identity)] = _file_watcher(
                certificate_file=str(self._folder / identity / CERTIFICATE),
                private_key_file=str(self._folder / identity / KEY),
            )
            entries[instance_name(roots)] = _file_watcher(ca_certificate_file=str(self._folder / roots / ROOTS))
        return entries

    def take(self, source: SlotSource) -> str:
        """The provider instance that holds these certificates; to be given back with `release`.

        Raises:
            ResourceError: All slots are in use.
        """
        with self._lock:
            slot = self._slots.get(source)
            if slot is None:
                kind = "roots" if source[0][0] == ROOTS else "identity"
                slot = self._slots[source] = self._freed_with(kind, source) or _Slot(self._free_name(kind), source)
            slot.users += 1
            self._fill(slot)
            return instance_name(slot.name)

    def release(self, source: SlotSource) -> None:
        """One user less; the last one frees the slot and removes its files."""
        with self._lock:
            slot = self._slots[source]
            slot.users -= 1
            if not slot.users:
                del self._slots[source]
                slot.freed_at = time.monotonic()
                self._freed[slot.name.partition("-")[0]].append(slot)

    def refresh(self) -> None:
        """Look at all sources, put what is new in place, and remove what nobody needs any more."""
        with self._lock:
            for slot in self._slots.values():
                self._fill(slot)
            self._remove_freed(_LINGER_SECONDS)

    def clear(self) -> None:
        """Remove the files of all slots that were let go."""
        with self._lock:
            self._remove_freed(0.0)

    def problem(self, source: SlotSource) -> str:
        """Why a slot's files are not there or not current; empty where all is well."""
        with self._lock:
            slot = self._slots.get(source)
            return slot.problem if slot is not None else ""

    def _freed_with(self, kind: str, source: SlotSource) -> _Slot | None:
        """A slot that was let go and held the same: whoever still uses it wants nothing else."""
        slot = next((one for one in self._freed[kind] if one.source == source), None)
        if slot is not None:
            self._freed[kind].remove(slot)
            if not slot.version:
                slot.stamp = None  # Its files are gone.
        return slot

    def _free_name(self, kind: str) -> str:
        if self._unused[kind]:
            return self._unused[kind].pop()
        freed = self._freed[kind]
        if freed and time.monotonic() - freed[0].freed_at >= _REUSE_AFTER_SECONDS:
            return freed.popleft().name
        raise ResourceError("transport_socket", f"more than {_SLOTS} different certificates are in use over gRPC")

    def _fill(self, slot: _Slot) -> None:
        """Bring a slot's files up to date; what cannot be read or used leaves the last good ones in place."""
        try:
            stamp = tuple(file.stamp() for _, file in slot.source)
            if stamp == slot.stamp:
                return
            contents = {name: file.read() for name, file in slot.source}
            check_files(contents)
        except (OSError, ValueError) as error:
            if str(error) != slot.problem:
                slot.problem = str(error)
                kept = ", the last good ones stay" if slot.version else ""
                logger.error("certificates cannot be used%s: %s", kept, error)
            return
        slot.problem = ""
        self._put(slot, contents)
        slot.stamp = stamp

    def _put(self, slot: _Slot, contents: dict[str, bytes]) -> None:
        slot.version += 1
        folder = self._folder / f"{slot.name}.{slot.version}"
        folder.mkdir(mode=0o700)
        for name, content in contents.items():
            write_private(folder / name, content)
        link, fresh = self._folder / slot.name, self._folder / f"{slot.name}.new"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(folder.name)
        os.replace(fresh, link)
        # grpc-core may be reading the version before this one; the one before that is not needed any more.
        shutil.rmtree(self._folder / f"{slot.name}.{slot.version - 2}", ignore_errors=True)

    def _remove_freed(self, after_seconds: float) -> None:
        now = time.monotonic()
        for slot in (slot for freed in self._freed.values() for slot in freed):
            if slot.version and now - slot.freed_at >= after_seconds:
                self._remove_files(slot)
                slot.version = 0

    def _remove_files(self, slot: _Slot) -> None:
        (self._folder / slot.name).unlink(missing_ok=True)
        for version in (slot.version - 1, slot.version):
            shutil.rmtree(self._folder / f"{slot.name}.{version}", ignore_errors=True)


def instance_name(slot: str) -> str:
    """The certificate provider instance of a slot."""
    return f"meshsdk-{slot}"


def _file_watcher(**files: str) -> dict[str, Any]:
    return {"plugin_name": "file_watcher", "config": {**files, "refresh_interval": "1s"}}


def check_files(contents: Mapping[str, bytes]) -> None:
    """Refuse what gRPC could not use, such as a key that is not (yet) the certificate's.

    Args:
        contents: By file name: roots, or certificate and key, or all three.

    Raises:
        ValueError: It says what is wrong.
    """
    if ROOTS in contents:
        x509.load_pem_x509_certificates(contents[ROOTS])
    if CERTIFICATE not in contents:
        return
    chain = x509.load_pem_x509_certificates(contents[CERTIFICATE])
    key = serialization.load_pem_private_key(contents[KEY], password=None)
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != chain[0].public_key().public_bytes(*form):
        raise ValueError("the private key does not belong to the certificate")
