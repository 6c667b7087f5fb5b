"""Writes what is to be kept, on a thread of its own: nobody who answers requests waits for a disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from ..log_lines import logger_of
from ..resources.inline_secrets import inline_secret
from .store import Key, Record, Refused, Store

__all__ = ["Keeper"]

logger = logger_of("meshsdk.last_good")

# Between two writes; what costs much is done seldom.
_SECONDS_BETWEEN = 5.0
_SHARE_OF_TIME = 0.02
_AT_ONCE = 50
_MAX_TOLD = 100


class Keeper:
    """Collects changes and writes them.

    Args:
        store: Where to.
        max_age_seconds: What is older is left out.
        seconds_between: Pause between two writes, at the least.

    Attributes:
        saved_at: When it was last written by this process, in seconds since the epoch; 0 is never.
        count, bytes: What the file held then.
        problem: Why it is not written, or not as a whole.
        not_kept: Resources that hold a secret, and where in them; the first hundred.
    """

    def __init__(self, store: Store, max_age_seconds: float, seconds_between: float = _SECONDS_BETWEEN) -> None:
        self.store = store
        self.max_age_seconds = max_age_seconds
        self._seconds_between = seconds_between
        self._condition = threading.Condition()
        self._pending: dict[Key, Record | None] = {}
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self.saved_at = 0.0
        self.count = self.bytes = 0
        self.problem = ""
        self.not_kept: dict[str, str] = {}

    def keep(self, changes: Mapping[Key, Record | None]) -> None:
        """Have these written soon; None takes one out. Never blocks for long."""
        with self._condition:
            self._pending.update(changes)
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(target=self._run, name="meshsdk-last-good", daemon=True)
                self._thread.start()
            self._condition.notify()

    def close(self, timeout_seconds: float = 3.0) -> None:
        """Write what is to be written still, and wait for that."""
        with self._condition:
            self._is_closed = True
            self._condition.notify()
            thread = self._thread
        if thread is not None:
            thread.join(timeout_seconds)

    def _run(self) -> None:
        earliest = 0.0
        while True:
            with self._condition:
                while not self._is_closed and (not self._pending or time.monotonic() < earliest):
                    self._condition.wait(max(earliest - time.monotonic(), 0.01) if self._pending else None)
                if not self._pending:
                    return
                changes, self._pending = self._pending, {}
            began = time.monotonic()
            if not self._save(changes):
                with self._condition:
                    if self._is_closed:
                        return
                    self._pending = {**changes, **self._pending}
            ended = time.monotonic()
            earliest = ended + max(self._seconds_between, (ended - began) / _SHARE_OF_TIME)

    def _save(self, changes: dict[Key, Record | None]) -> bool:
        try:
            allowed = {}
            for place, (key, record) in enumerate(changes.items(), 1):
                allowed[key] = self._without_secrets(record)
                if place % _AT_ONCE == 0:
                    time.sleep(0.001)  # A mesh of thousands takes a second of the interpreter, which others want, too.
            self.count, self.bytes, problem = self.store.update(allowed, self.max_age_seconds)
        except (OSError, Refused) as error:
            self._tell(f"the last known good configuration is not kept: {error}")
            return False
        except Exception:
            logger.exception("the last known good configuration is not kept")
            self.problem = "it could not be written; see the log"
            return True  # The same again would end the same.
        self.saved_at = time.time()
        self._tell(problem)
        return True

    def _tell(self, problem: str) -> None:
        if problem and problem != self.problem:
            logger.warning("%s", problem)
        self.problem = problem

    def _without_secrets(self, record: Record | None) -> Record | None:
        if record is None or not record.packed:
            return record
        shown = f"{record.type_url.rpartition('.')[2]} {record.name}"
        where = inline_secret(record.type_url, record.packed)
        if not where:
            self.not_kept.pop(shown, None)
            return record
        if shown not in self.not_kept and len(self.not_kept) < _MAX_TOLD:
            self.not_kept[shown] = where
            logger.warning("%s is not kept on disk, since it holds a secret or may hold one: %s", shown, where)
        return None
