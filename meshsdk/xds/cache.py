"""What is known of each resource that was asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from enum import Enum

from msgspec import Struct

from ..resources import Resource, ResourceType
from .packed import PackedResources

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


ResourceKey = tuple[ResourceType, str]


class CachedResource(Struct, frozen=True):
    """One resource and how it came to be so.

    Attributes:
        resource: The last good one, also where `status` is NACKED; None where there never was one.
        version: The version that the source gave the last good one.
        error: Why the last update was refused, or why there is no resource.
        packed: The last good one as bytes, to notice that an update changes nothing.
        was_there: There was one, and the source has deleted it.
    """

    status: Status
    resource: Resource | None = None
    version: str = ""
    error: str = ""
    packed: bytes = b""
    was_there: bool = False

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

    def get(self, kind: ResourceType, name: str) -> CachedResource | None:
        """What is known of a resource, or None where it was never asked for."""
        return self._entries.get((kind, name))

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
        self._changed.add((kind, "*"))

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

    def reject(self, kind: ResourceType, name: str, error: str) -> None:
        """A bad resource came; the last good one, where there is one, stays."""
        self.rejections[kind] += 1
        self.heard_at = time.time()
        old = self._entries.get((kind, name), CachedResource(Status.REQUESTED))
        self._set(kind, name, CachedResource(Status.NACKED, old.resource, old.version, error, old.packed))

    def remove(self, kind: ResourceType, name: str, status: Status, error: str) -> None:
        """The resource does not exist, or did not come in time."""
        old = self._entries.get((kind, name))
        was_there = old is not None and (old.resource is not None or old.was_there)
        self._set(kind, name, CachedResource(status, error=error, was_there=was_there))

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
