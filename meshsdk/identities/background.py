"""What identities with a thread of their own have in common: the first wait, the last good credentials, and alarms.

The thread starts at first use. Whoever asks waits for the first credentials and never again; what goes wrong later
leaves the last ones in use, and is told by `problem`, an error in the log and a counter.
"""

from __future__ import annotations

import threading

from ..errors import IdentityError
from ..log_lines import logger_of
from ..security import Credentials
from ..telemetry.lookup import identity_alarm, watch_identity
from .forks import reset_after_fork

__all__ = ["BackgroundIdentity"]

logger = logger_of("meshsdk.identity")

_FIRST_WAIT_SECONDS = 15.0
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 30.0


class BackgroundIdentity:
    """An identity that `run`, on a thread, keeps fresh.

    Args:
        source: What it is called in messages.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.reset()
        reset_after_fork(self)
        watch_identity(self)

    def reset(self) -> None:
        """In a forked child: start afresh at the next use."""
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._current: Credentials | None = None
        self._problem = ""

    def run(self) -> None:
        """Fetch credentials until `_stopping` is set: `_succeed` takes them, `_fail` says why there are none."""
        raise NotImplementedError

    def _keep_running(self) -> None:
        """What nobody thought of in an answer must not end renewal for good."""
        while not self._stopping.is_set():
            try:
                self.run()
            except Exception as error:  # noqa: BLE001 - it comes from files and other processes; see above.
                self._fail(f"{type(error).__name__}: {error}")
                self._stopping.wait(LONGEST_PAUSE_SECONDS)

    def interrupt(self) -> None:
        """End what `run` waits for."""

    @property
    def expires_at(self) -> float | None:
        """When the certificate in use ends, in seconds since the epoch; None while there is none."""
        current = self._current
        return current.expires_at if current is not None else None

    @property
    def problem(self) -> str:
        """See `security.Identity`."""
        return self._problem

    def credentials(self) -> Credentials:
        """See `security.Identity`."""
        current = self._current
        if current is not None:
            return current
        with self._lock:
            if self._thread is None and not self._stopping.is_set():
                self._thread = threading.Thread(target=self._keep_running, name="meshsdk-identity", daemon=True)
                self._thread.start()
        self._ready.wait(_FIRST_WAIT_SECONDS)
        current = self._current
        if current is None:
            raise IdentityError(f"no certificate from {self.source}: {self._problem or 'no answer yet'}")
        return current

    def _succeed(self, credentials: Credentials) -> None:
        self._problem, self._current = "", credentials
        self._ready.set()

    def _fail(self, problem: str) -> None:
        if problem != self._problem:
            if self._current is None:
                logger.error("no certificate from %s: %s", self.source, problem)
            else:
                logger.error("no new certificate from %s, the last one stays in use: %s", self.source, problem)
        self._problem = problem
        count = identity_alarm()
        if count is not None:
            count(self.source)
        # Whoever waits for the first one learns why there is none.
        self._ready.set()

    def close(self) -> None:
        """See `security.Identity`."""
        self._stopping.set()
        self.interrupt()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(5)
