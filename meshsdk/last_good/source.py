"""A source whose resources are kept, and given again where it does not answer.

Theory of operation. All that comes into the cache is noted, and a moment later given to the keeper. A process that
starts asks its server; where that cannot be had, or says nothing for a while, what is wanted is taken from what was
kept. It stays asked for (`Status.REQUESTED`): when the server answers, each resource is replaced, or confirmed, or said
not to exist, by the very rules for one that was never there. No server is told a version of another process's.

What a server says not to exist is kept as well, of listeners: a host may have several names, of which the first that
exists is its own, and hosts outside the mesh have none.

Control thread only, but for `problem`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ..errors import ResourceError
from ..log_lines import logger_of
from ..resources import Resource, ResourceType
from ..xds import ControlLoop, ResourceCache, ResourceKey, Source, Status, Timer
from ..xds.source import Wanted
from .keeper import Keeper
from .store import Key, Record

__all__ = ["PATIENCE_SECONDS", "LastGoodSource"]

logger = logger_of("meshsdk.last_good")

# How long a server may take for its first word, where nothing else says that it is away.
PATIENCE_SECONDS = 2.0
_LOOK_SECONDS = 0.05
# A burst of changes is written as one.
_SETTLE_SECONDS = 1.0
# How often in its longest age what is in use is said to be so still.
_REFRESHES = 48
_MAX_REFRESH_SECONDS = 1800.0

Decode = Callable[[ResourceType, bytes], Resource]

_KEPT = frozenset(
    (ResourceType.LISTENER, ResourceType.ROUTE_CONFIGURATION, ResourceType.CLUSTER, ResourceType.ENDPOINTS)
)


class LastGoodSource:
    """Stands before another source; see `Source`.

    Args:
        source: That one.
        cache: Where it puts resources.
        loop: The control thread.
        keeper: Keeps them.
        decode: What the source makes of a packed resource.
        patience_seconds: How long the first answer may take.
        settle_seconds: How long changes are collected.
    """

    def __init__(
        self,
        source: Source,
        cache: ResourceCache,
        loop: ControlLoop,
        keeper: Keeper,
        decode: Decode,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        settle_seconds: float = _SETTLE_SECONDS,
    ) -> None:
        self._source = source
        self._cache = cache
        self._loop = loop
        # Sources with several servers tell which of them are there.
        self._is_connected_for: Callable[[str], bool] = getattr(
            source, "is_connected_for", lambda name: source.is_connected
        )
        self._cannot_be_had: Callable[[str], bool] = getattr(source, "cannot_be_had", lambda name: source.failures > 0)
        self._keeper = keeper
        self._decode = decode
        self._patience_seconds = patience_seconds
        self._settle_seconds = settle_seconds
        self._wanted: Wanted = {}
        # Until when the server has time to answer; None while it is there.
        self._due: float | None = None
        self._was_connected = False
        self._kept: dict[Key, Record] | None = None
        self._oldest = 0.0
        self._problem = ""
        self._noted: set[ResourceKey] = set()
        self._look_timer: Timer | None = None
        self._collect_timer: Timer | None = None
        self._refresh_timer: Timer | None = None
        cache.watcher = self._note
        self._refresh_seconds = min(keeper.max_age_seconds / _REFRESHES, _MAX_REFRESH_SECONDS)
        loop.post(self._schedule_refresh)

    @property
    def is_connected(self) -> bool:
        """See `Source.is_connected`."""
        return self._source.is_connected

    @property
    def failures(self) -> int:
        """See `Source.failures`."""
        return self._source.failures

    @property
    def problem(self) -> str:
        """See `Source.problem`; says as well from when the configuration in use is, or why none was taken."""
        problem = self._source.problem
        if not problem:
            return ""
        said = self._problem
        if self._oldest:
            said = f"in use is what was kept, {_ago(self._oldest)}" + (f"; {said}" if said else "")
        return f"{problem}; {said}" if said else problem

    def subscribe(self, wanted: Wanted) -> None:
        """See `Source.subscribe`."""
        self._wanted = wanted
        self._source.subscribe(wanted)
        self._look()

    def close(self) -> None:
        """See `Source.close`; what is not written yet is written."""
        for timer in (self._look_timer, self._collect_timer, self._refresh_timer):
            if timer is not None:
                timer.cancel()
        self._note_all()
        self._collect()
        self._cache.watcher = None
        self._source.close()
        self._keeper.close()

    def kept_status(self) -> dict[str, Any]:
        """What is kept, and what of it is in use, as `Mesh.status` says it. Control thread only."""
        kept_at = [entry.kept_at for _, _, entry in self._cache if entry.kept_at]
        keeper = self._keeper
        not_taken = "" if self._source.is_connected else self._problem
        return {
            "path": str(keeper.store.path),
            "in_use": len(kept_at),
            "age_seconds": max(time.time() - min(kept_at), 0.0) if kept_at else None,
            "max_age_seconds": keeper.max_age_seconds,
            "saved_at": keeper.saved_at or None,
            "resources": keeper.count,
            "bytes": keeper.bytes,
            "not_kept": dict(keeper.not_kept),
            "problem": "; ".join(filter(None, (not_taken, keeper.problem))),
        }

    # Taking what was kept.

    def _look(self) -> None:
        if self._look_timer is not None:
            self._look_timer.cancel()
            self._look_timer = None
        if self._source.is_connected:
            self._come_back()
            return
        missing = self._missing()
        if not missing:
            return
        now = self._loop.now()
        if self._due is None:
            self._due = now + self._patience_seconds
        if now < self._due:
            away = [] if self._was_connected else [key for key in missing if self._cannot_be_had(key[1])]
            self._take(away)
            if len(away) < len(missing):
                self._look_timer = self._loop.call_later(_LOOK_SECONDS, self._look)
        else:
            self._take(missing)

    def _come_back(self) -> None:
        """The server is there: what was kept is read anew the next time that it is away."""
        self._was_connected = True
        self._due = self._kept = None
        self._oldest, self._problem = 0.0, ""

    def _missing(self) -> list[ResourceKey]:
        return [
            (kind, name)
            for kind, names in self._wanted.items()
            if kind in _KEPT and self._cache.counts[kind, Status.REQUESTED]
            for name in names
            if (entry := self._cache.get(kind, name)) is not None
            and entry.status is Status.REQUESTED
            and entry.resource is None
            and not self._is_connected_for(name)
        ]

    def _take(self, missing: list[ResourceKey]) -> None:
        if missing and self._kept is None:
            self._kept, self._problem = self._keeper.store.read()
            if self._problem:
                logger.warning("%s", self._problem)
        for kind, name in missing:
            record = (self._kept or {}).get((kind.type_url, name))
            if record is not None:
                self._restore(kind, name, record)

    def _restore(self, kind: ResourceType, name: str, record: Record) -> None:
        age, longest = time.time() - record.heard_at, self._keeper.max_age_seconds
        if age > longest:
            self._refuse(
                f"{self._keeper.store.path} is not used: it was heard {_ago(record.heard_at)}, and cache_max_age is"
                f" {longest:g} s"
            )
            return
        if not record.packed:
            said = f"the management server had no such resource, {_ago(record.heard_at)}"
            self._cache.remove(kind, name, Status.DOES_NOT_EXIST, said, record.heard_at)
        else:
            try:
                resource = self._decode(kind, record.packed)
            except ResourceError as error:
                self._refuse(f"a resource that was kept is not used: {error}")
                return
            self._cache.restore(kind, name, resource, record.version, record.packed, record.heard_at)
        if not self._oldest:
            logger.warning("%s; what was kept is used, %s", self._source.problem or "no answer", _ago(record.heard_at))
        self._oldest = min(self._oldest or record.heard_at, record.heard_at)

    def _refuse(self, problem: str) -> None:
        if not self._problem:
            logger.warning("%s", problem)
            self._problem = problem

    # Keeping what comes.

    def _note(self, key: ResourceKey) -> None:
        if key[0] in _KEPT:
            self._noted.add(key)
            if self._collect_timer is None:
                self._collect_timer = self._loop.call_later(self._settle_seconds, self._collect)

    def _note_all(self) -> None:
        """What a server that is there does not change is as it has it now."""
        keys = ((kind, name) for kind, name, _ in self._cache if kind in _KEPT)
        self._noted.update(key for key in keys if self._is_connected_for(key[1]))

    def _schedule_refresh(self) -> None:
        self._refresh_timer = self._loop.call_later(self._refresh_seconds, self._refresh)

    def _refresh(self) -> None:
        self._note_all()
        self._collect()
        self._schedule_refresh()

    def _collect(self) -> None:
        self._collect_timer = None
        if self._source.is_connected:
            self._come_back()
        noted, self._noted = self._noted, set()
        changes: dict[Key, Record | None] = {}
        for kind, name in noted:
            entry = self._cache.get(kind, name)
            if entry is None or entry.kept_at:
                continue
            key = (kind.type_url, name)
            heard_at = time.time() if self._is_connected_for(name) else self._cache.heard_at
            if entry.status is Status.ACKED and (kind, name) not in self._cache.fleeting:
                changes[key] = Record(kind.type_url, name, entry.version, heard_at, entry.packed)
            elif entry.is_missing and entry.resource is None and kind is ResourceType.LISTENER:
                changes[key] = Record(kind.type_url, name, "", heard_at, b"")
            elif entry.status in (Status.ACKED, Status.TIMEOUT) or entry.is_missing or entry.is_dropped:
                changes[key] = None  # It may be used for a time only, is gone, or must not be used any more.
        if changes:
            self._keeper.keep(changes)


def _ago(heard_at: float) -> str:
    seconds = max(time.time() - heard_at, 0.0)
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} seconds ago"
