"""What is known of each resource that was asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from enum import Enum

from msgspec import Struct
from msgspec.structs import replace

from ..resources import Resource, ResourceType, Secret

__all__ = ["DOES_NOT_EXIST_SECONDS", "CachedResource", "ResourceCache", "ResourceKey", "Status"]

# Envoy docs, xds_protocol, "Knowing when a requested resource does not exist": 15 seconds.
DOES_NOT_EXIST_SECONDS = 15.0


class Status(Enum):
    """The client's view of a resource (envoy.admin.v3.ClientResourceStatus)."""

    REQUESTED = "REQUESTED"
    ACKED = "ACKED"
    NACKED = "NACKED"
    DOES_NOT_EXIST = "DOES_NOT_EXIST"
    TIMEOUT = "TIMEOUT"
    RECEIVED_ERROR = "RECEIVED_ERROR"


ResourceKey = tuple[ResourceType, str]


class CachedResource(Struct, frozen=True):
    """One resource and how it came to be so.

    Attributes:
        resource: The last good one, also where it was refused or deleted since and that is not to count (gRFC A88);
            None where there never was one, or it is not to be used any more.
        version: The version that the source gave the last good one.
        error: Why the last update was refused, or why there is no resource, or should be none.
        packed: The last good one as bytes, to notice that an update changes nothing.
        was_there: There was one, and the source has deleted it.
        is_missing: The source is known not to have it.
        is_dropped: There was a good one, and what has come since says that it must not be used.
    """

    status: Status
    resource: Resource | None = None
    version: str = ""
    error: str = ""
    packed: bytes = b""
    was_there: bool = False
    is_missing: bool = False
    is_dropped: bool = False

    @property
    def is_settled(self) -> bool:
        """Whether nothing more is to be waited for: the resource is there, or known not to be usable."""
        return self.status is not Status.REQUESTED


class ResourceCache:
    """Resources by type and name. Control thread only, but for the attributes, which any thread may read.

    Attributes:
        changes: Counts every change, so that a reader can tell whether it has seen the latest.
        counts: How many resources there are, by type and status.
        updates, rejections: How many have come that were good and changed something, and that were bad, by type.
        heard_at: When one last came, in seconds since the epoch; 0 is never.
    """

    def __init__(self) -> None:
        self._entries: dict[ResourceKey, CachedResource] = {}
        self.changes = 0
        self._changed: set[ResourceKey] = set()
        # They have all of their keys from the start: who reads them meets no change of their size.
        self.counts = {(kind, status): 0 for kind in ResourceType for status in Status}
        self.updates = dict.fromkeys(ResourceType, 0)
        self.rejections = dict.fromkeys(ResourceType, 0)
        self.heard_at = 0.0

    def get(self, kind: ResourceType, name: str) -> CachedResource | None:
        """What is known of a resource, or None where it was never asked for."""
        return self._entries.get((kind, name))

    def secret(self, name: str) -> tuple[Secret | None, str]:
        """A secret that was asked for, and why it is none or an old one. From any thread."""
        entry = self._entries.get((ResourceType.SECRET, name))
        if entry is None or not isinstance(entry.resource, Secret):
            return None, entry.error if entry is not None and entry.error else "has not come yet"
        return entry.resource, entry.error

    def take_changed(self) -> set[ResourceKey]:
        """Which resources have changed since this was last asked."""
        changed, self._changed = self._changed, set()
        return changed

    def count(self, status: Status) -> int:
        """How many resources have a status, of whatever type. From any thread."""
        return sum(self.counts[kind, status] for kind in ResourceType)

    def request(self, kind: ResourceType, name: str) -> None:
        """The resource is asked for, and nothing is known of it yet."""
        if (kind, name) not in self._entries:
            self._set(kind, name, CachedResource(Status.REQUESTED))

    def accept(self, kind: ResourceType, name: str, resource: Resource, version: str, packed: bytes) -> None:
        """A good resource came."""
        self.updates[kind] += 1
        self.heard_at = time.time()
        self._set(kind, name, CachedResource(Status.ACKED, resource, version, "", packed))

    def accept_unchanged(self, kind: ResourceType, name: str, version: str) -> None:
        """The resource came again, byte for byte the same; only its version is news."""
        entry = self._entries[(kind, name)]
        self.heard_at = time.time()
        self._put(kind, name, CachedResource(Status.ACKED, entry.resource, version, "", entry.packed))

    def reject(self, kind: ResourceType, name: str, error: str, *, drops: bool = False) -> None:
        """A bad resource came; the last good one, where there is one, stays unless that `drops` it."""
        self.rejections[kind] += 1
        self.heard_at = time.time()
        self._set(kind, name, self._blamed(kind, name, Status.NACKED, error, drops=drops))

    def blame(
        self, kind: ResourceType, name: str, error: str, *, drops: bool = False, is_missing: bool = False
    ) -> None:
        """The source says that it cannot send the resource; the last good one stays unless that `drops` it."""
        entry = self._blamed(kind, name, Status.RECEIVED_ERROR, error, drops=drops)
        self._set(kind, name, replace(entry, is_missing=is_missing and entry.resource is None))

    def remove(self, kind: ResourceType, name: str, status: Status, error: str) -> None:
        """The resource does not exist, or did not come in time."""
        old = self._entries.get((kind, name))
        was_there = old is not None and (old.resource is not None or old.was_there)
        is_missing = status is Status.DOES_NOT_EXIST
        self._set(kind, name, CachedResource(status, error=error, was_there=was_there, is_missing=is_missing))

    def keep_deleted(self, kind: ResourceType, name: str, error: str) -> None:
        """The source has deleted the resource, and it stays in use."""
        self._put(kind, name, replace(self._entries[(kind, name)], status=Status.DOES_NOT_EXIST, error=error))

    def _blamed(self, kind: ResourceType, name: str, status: Status, error: str, *, drops: bool) -> CachedResource:
        old = self._entries.get((kind, name), CachedResource(Status.REQUESTED))
        if drops or old.resource is None:
            is_dropped = old.is_dropped or (drops and old.resource is not None)
            return CachedResource(status, error=error, was_there=old.was_there, is_dropped=is_dropped)
        return CachedResource(status, old.resource, old.version, error, old.packed)

    def forget(self, kind: ResourceType, name: str) -> None:
        """The resource is no longer asked for."""
        entry = self._entries.pop((kind, name), None)
        if entry is not None:
            self.counts[kind, entry.status] -= 1

    def __iter__(self) -> Iterator[tuple[ResourceType, str, CachedResource]]:
        return ((kind, name, entry) for (kind, name), entry in self._entries.items())

    def _set(self, kind: ResourceType, name: str, entry: CachedResource) -> None:
        self._put(kind, name, entry)
        self.changes += 1
        self._changed.add((kind, name))

    def _put(self, kind: ResourceType, name: str, entry: CachedResource) -> None:
        known = self._entries.get((kind, name))
        if known is not None:
            self.counts[kind, known.status] -= 1
        self.counts[kind, entry.status] += 1
        self._entries[(kind, name)] = entry
