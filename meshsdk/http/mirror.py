"""How copies of requests are carried out beside the requests themselves: bounded, and never in their way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from ..log_lines import logger_of
from .timeouts import Timeouts

__all__ = ["MAX_MIRRORS", "MIRROR_TIMEOUTS", "MirrorThreads"]

logger = logger_of("meshsdk.http")

# Copies under way at once in one client. A slow shadow must not pile up memory; beyond this, requests go without.
MAX_MIRRORS = 256

# The route's own timeout bounds a copy, too; these hold where it has none.
MIRROR_TIMEOUTS = Timeouts(connect=5.0, read=15.0, write=15.0, pool=1.0)

_THREADS = 8


class MirrorThreads:
    """The threads on which a sync client sends copies; none before the first."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._under_way = 0
        self._is_closed = False

    def submit(self, send: Callable[[], None]) -> None:
        """Have a copy sent; it is left out where too many are under way."""
        with self._lock:
            if self._is_closed or self._under_way >= MAX_MIRRORS:
                return
            self._under_way += 1
            if self._executor is None:
                self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="meshsdk-mirror")
            executor = self._executor

        def run() -> None:
            try:
                send()
            except Exception:
                logger.exception("a copy of a request could not be sent")
            finally:
                with self._lock:
                    self._under_way -= 1

        executor.submit(run)

    def close(self) -> None:
        """Send no more; those under way fail as their connections are closed."""
        with self._lock:
            self._is_closed = True
            executor = self._executor
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)
