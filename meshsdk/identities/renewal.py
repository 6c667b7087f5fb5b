"""Credentials that are fetched, and fetched anew before they expire.

Renewal begins at half of a certificate's life, give or take a tenth, so that a fleet that started together does not
renew together (Istio: SECRET_GRACE_PERIOD_RATIO 0.5 with jitter). A failure is tried again with growing pauses; until
it succeeds the old credentials stay, and `problem` and an error in the log say so.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

from ..errors import IdentityError
from ..security import Credentials
from .forks import reset_after_fork

__all__ = ["RenewedIdentity"]

logger = logging.getLogger("meshsdk.identity")

_RENEW_AT = 0.5
_JITTER = 0.1
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 30.0
_FIRST_WAIT_SECONDS = 15.0


class RenewedIdentity:
    """Keeps what `fetch` gives fresh, on a thread of its own that starts at first use.

    Args:
        fetch: Gives credentials, or raises IdentityError.
        source: What it is called in messages.
    """

    def __init__(self, fetch: Callable[[], Credentials], source: str) -> None:
        self._fetch = fetch
        self._source = source
        self.reset()
        reset_after_fork(self)

    def reset(self) -> None:
        """In a forked child: start afresh at the next use."""
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._current: Credentials | None = None
        self._problem = ""

    @property
    def problem(self) -> str:
        """See `security.Identity`."""
        return self._problem

    def credentials(self) -> Credentials:
        """See `security.Identity`."""
        current = self._current
        if current is not None:
            return current
        self._start()
        self._ready.wait(_FIRST_WAIT_SECONDS)
        current = self._current
        if current is None:
            raise IdentityError(f"no certificate from {self._source}: {self._problem or 'no answer yet'}")
        return current

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._stopping.is_set():
                self._thread = threading.Thread(target=self._run, name="meshsdk-identity", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            try:
                fetched = self._fetch()
            except IdentityError as error:
                self._fail(error)
                # Whoever waits for the first one learns why there is none.
                self._ready.set()
                self._stopping.wait(pause * random.uniform(0.5, 1.5))
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
                continue
            pause, self._problem, self._current = _FIRST_PAUSE_SECONDS, "", fetched
            self._ready.set()
            self._stopping.wait(self._seconds_to_renewal(fetched))

    def _seconds_to_renewal(self, fetched: Credentials) -> float:
        life = fetched.expires_at - fetched.issued_at
        at = fetched.issued_at + life * (_RENEW_AT + random.uniform(-_JITTER, _JITTER))
        return max(1.0, at - time.time())

    def _fail(self, error: IdentityError) -> None:
        if str(error) != self._problem:
            logger.error("no new certificate from %s, the last one stays in use: %s", self._source, error)
        self._problem = str(error)

    def close(self) -> None:
        """See `security.Identity`."""
        self._stopping.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(5)
