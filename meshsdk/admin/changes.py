"""What has changed in the configuration of late, and what was refused.

All on the control thread, but for `recent` and `find`.
"""

from __future__ import annotations

import time
from collections import deque
from typing import NamedTuple

from ..xds import ResourceCache, Status

__all__ = ["Change", "Changes"]

_MAX_CHANGES = 100
# Together, of what they hold of resources that are gone.
_MAX_BYTES = 8 << 20


class Change(NamedTuple):
    """One resource became another.

    Attributes:
        at: When that was seen, in seconds since the epoch.
        before, after: As bytes; empty where there is none.
        error: Why an update was refused; then nothing changed.
    """

    number: int
    at: float
    type_url: str
    name: str
    version: str
    before: bytes
    after: bytes
    error: str

    @property
    def what(self) -> str:
        """In a word."""
        if self.error:
            return "rejected"
        if not self.before:
            return "added"
        return "changed" if self.after else "removed"


class _Seen(NamedTuple):
    packed: bytes
    version: str
    error: str


class Changes:
    """A bounded ring of changes.

    Attributes:
        last: The number of the newest.
        updated_at: When each resource came, by type URL and name; in seconds since the epoch.
    """

    def __init__(self) -> None:
        self._ring: deque[Change] = deque(maxlen=_MAX_CHANGES)
        self._bytes = 0
        self._seen: dict[tuple[str, str], _Seen] = {}
        self._seen_changes = -1
        self.updated_at: dict[tuple[str, str], float] = {}
        self.last = 0

    def look(self, cache: ResourceCache) -> None:
        """See what has changed since the last look."""
        if cache.changes == self._seen_changes:
            return
        self._seen_changes = cache.changes
        now = time.time()
        there = set()
        for kind, name, entry in cache:
            key = (kind.type_url, name)
            there.add(key)
            error = entry.error if entry.status is Status.NACKED else ""
            before = self._seen.get(key)
            if before is None and not entry.packed and not error:
                continue
            if before is None or before.packed != entry.packed or before.error != error:
                self._note(key, before, _Seen(entry.packed, entry.version, error), now)
        for key in self._seen.keys() - there:
            self._note(key, self._seen[key], None, now)

    def _note(self, key: tuple[str, str], before: _Seen | None, after: _Seen | None, now: float) -> None:
        had = before.packed if before is not None else b""
        has = after.packed if after is not None else b""
        error = after.error if after is not None else ""
        if had != has or error:
            self.last += 1
            version = after.version if after is not None else ""
            self._add(Change(self.last, now, *key, version, had, has, error))
        if has:
            self.updated_at[key] = now
        else:
            self.updated_at.pop(key, None)
        if after is not None:
            self._seen[key] = after
        else:
            del self._seen[key]

    def _add(self, change: Change) -> None:
        if len(self._ring) == _MAX_CHANGES:
            self._bytes -= len(self._ring[0].before)
        self._ring.append(change)
        self._bytes += len(change.before)
        while self._bytes > _MAX_BYTES and len(self._ring) > 1:
            self._bytes -= len(self._ring.popleft().before)

    def recent(self) -> list[Change]:
        """The newest first."""
        return list(self._ring)[::-1]

    def find(self, number: int) -> Change | None:
        """One of them, where it is not forgotten yet."""
        return next((one for one in self.recent() if one.number == number), None)
