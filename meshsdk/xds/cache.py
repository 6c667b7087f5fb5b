"""What is known of each resource that was asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from enum import Enum

from msgspec import Struct
from msgspec.structs import replace

from ..resources import Resource, ResourceType, Secret
from .packed import PackedResources

__all__ = ["ANY_LISTENER", "DOES_NOT_EXIST_SECONDS", "CachedResource", "ResourceCache", "ResourceKey", "Status"]

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

# Stands for all resources of a type among those that have changed; none has this name.
ANY = "*"
ANY_LISTENER = (ResourceType.LISTENER, ANY)


class CachedResource(Struct, frozen=True, gc=False):
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
        updated_at: Since when the last good one is as it is, in seconds since the epoch; 0 is never.
        failed_version, failed_at: Of the update that was refused, where the last one was.
        kept_at: Where it is known from before this process began (`last_good`) and no server has said anything of it
            since: when one last did. 0 otherwise.
    """

    status: Status
    resource: Resource | None = None
    version: str = ""
    error: str = ""
    packed: bytes = b""
    was_there: bool = False
    is_missing: bool = False
    is_dropped: bool = False
    updated_at: float = 0.0
    failed_version: str = ""
    failed_at: float = 0.0
    kept_at: float = 0.0

    @property
    def is_settled(self) -> bool:
        """Whether nothing more is to be waited for: the resource is there, or known not to be usable."""
        return self.status is not Status.REQUESTED or self.resource is not None


_REQUESTED = CachedResource(Status.REQUESTED)


class ResourceCache:
    """Resources by type and name. Control thread only, but for the attributes, which any thread may read.

    Attributes:
        changes: Counts every change of what is known, so that a reader can tell whether it has seen the latest.
        counts: How many resources there are, by type and status.
        updates, rejections: How many have come that were good and changed something, and that were bad, by type.
        heard_at: When one last came, in seconds since the epoch; 0 is never.
        fleeting: Those that may be used for a time only (`Lifetimes`).
        kept: How many are known from before this process began (`CachedResource.kept_at`).
        watcher: Told of each that is put here, on the control thread; None is nobody.
        packed: Resources of the types that are subscribed to as a whole. Control thread only.
    """

    def __init__(self) -> None:
        self.packed: dict[ResourceType, PackedResources] = {}
        self._entries: dict[ResourceKey, CachedResource] = {}
        self.changes = 0
        self._changed: set[ResourceKey] = set()
        # They have all of their keys from the start: who reads them meets no change of their size.
        self.counts = {(kind, status): 0 for kind in ResourceType for status in Status}
        self.updates = dict.fromkeys(ResourceType, 0)
        self.rejections = dict.fromkeys(ResourceType, 0)
        self.heard_at = 0.0
        self.kept = 0
        self.fleeting: set[ResourceKey] = set()
        self.watcher: Callable[[ResourceKey], None] | None = None

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

    def touch(self, kind: ResourceType) -> None:
        """Whatever of a type is looked for may be found otherwise than before."""
        self.changes += 1
        self._changed.add((kind, ANY))

    def request(self, kind: ResourceType, name: str) -> None:
        """The resource is asked for, and nothing is known of it yet. So nothing that is decided can change by it."""
        if (kind, name) not in self._entries:
            self._put(kind, name, _REQUESTED)

    def accept(self, kind: ResourceType, name: str, resource: Resource, version: str, packed: bytes) -> None:
        """A good resource came."""
        self.updates[kind] += 1
        self.heard_at = now = time.time()
        self._set(kind, name, CachedResource(Status.ACKED, resource, version, "", packed, updated_at=now))

    def accept_unchanged(self, kind: ResourceType, name: str, version: str) -> None:
        """The resource came again, byte for byte the same; only its version is news."""
        entry = self._entries[(kind, name)]
        self.heard_at = now = time.time()
        came_at = now if entry.kept_at else entry.updated_at
        same = CachedResource(Status.ACKED, entry.resource, version, "", entry.packed, updated_at=came_at)
        self._put(kind, name, same)

    def restore(
        self, kind: ResourceType, name: str, resource: Resource, version: str, packed: bytes, kept_at: float
    ) -> None:
        """The resource as it was at a time before this process began. It stays asked for."""
        kept = CachedResource(Status.REQUESTED, resource, version, "", packed, updated_at=kept_at, kept_at=kept_at)
        self._set(kind, name, kept)

    def reject(self, kind: ResourceType, name: str, error: str, version: str = "", *, drops: bool = False) -> None:
        """A bad resource came; the last good one, where there is one, stays unless that `drops` it."""
        self.rejections[kind] += 1
        self.heard_at = time.time()
        self._set(kind, name, self._blamed(kind, name, Status.NACKED, error, drops=drops, version=version))

    def blame(
        self, kind: ResourceType, name: str, error: str, *, drops: bool = False, is_missing: bool = False
    ) -> None:
        """The source says that it cannot send the resource; the last good one stays unless that `drops` it."""
        entry = self._blamed(kind, name, Status.RECEIVED_ERROR, error, drops=drops)
        self._set(kind, name, replace(entry, is_missing=is_missing and entry.resource is None))

    def remove(self, kind: ResourceType, name: str, status: Status, error: str, kept_at: float = 0.0) -> None:
        """The resource does not exist, or did not come in time."""
        old = self._entries.get((kind, name))
        was_there = old is not None and (old.resource is not None or old.was_there)
        is_missing = status is Status.DOES_NOT_EXIST
        gone = CachedResource(status, error=error, was_there=was_there, is_missing=is_missing, kept_at=kept_at)
        self._set(kind, name, gone)

    def keep_deleted(self, kind: ResourceType, name: str, error: str) -> None:
        """The source has deleted the resource, and it stays in use."""
        self._put(kind, name, replace(self._entries[(kind, name)], status=Status.DOES_NOT_EXIST, error=error))

    def _blamed(
        self, kind: ResourceType, name: str, status: Status, error: str, *, drops: bool, version: str = ""
    ) -> CachedResource:
        old, now = self._entries.get((kind, name), CachedResource(Status.REQUESTED)), time.time()
        if drops or old.resource is None:
            is_dropped = old.is_dropped or (drops and old.resource is not None)
            old = CachedResource(status, was_there=old.was_there, is_dropped=is_dropped)
        return replace(old, status=status, error=error, failed_version=version, failed_at=now)

    def forget(self, kind: ResourceType, name: str) -> None:
        """The resource is no longer asked for."""
        entry = self._entries.pop((kind, name), None)
        if entry is not None:
            self.counts[kind, entry.status] -= 1
            self.kept -= entry.kept_at > 0

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
            self.kept -= known.kept_at > 0
        self.counts[kind, entry.status] += 1
        self.kept += entry.kept_at > 0
        self._entries[(kind, name)] = entry
        if self.watcher is not None:
            self.watcher((kind, name))
