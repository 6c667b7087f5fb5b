"""Credentials that are fetched, and fetched anew before they expire.

Renewal begins at half of a certificate's life, give or take a tenth, so that a fleet that started together does not
renew together (Istio: SECRET_GRACE_PERIOD_RATIO 0.5 with jitter). A failure is tried again with growing pauses.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from ..errors import IdentityError
from ..security import Credentials
from .background import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, BackgroundIdentity

__all__ = ["RenewedIdentity"]

_RENEW_AT = 0.5
_JITTER = 0.1


class RenewedIdentity(BackgroundIdentity):
    """Keeps what `fetch` gives fresh.

    Args:
        fetch: Gives credentials, or raises IdentityError.
        source: What it is called in messages.
    """

    def __init__(self, fetch: Callable[[], Credentials], source: str) -> None:
        self._fetch = fetch
        super().__init__(source)

    def run(self) -> None:
        """See `BackgroundIdentity`."""
        pause = FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            try:
                fetched = self._fetch()
            except IdentityError as error:
                self._fail(str(error))
                self._stopping.wait(pause * random.uniform(0.5, 1.5))
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
                continue
            pause = FIRST_PAUSE_SECONDS
            self._succeed(fetched)
            self._stopping.wait(_seconds_to_renewal(fetched))


def _seconds_to_renewal(fetched: Credentials) -> float:
    life = fetched.expires_at - fetched.issued_at
    at = fetched.issued_at + life * (_RENEW_AT + random.uniform(-_JITTER, _JITTER))
    return max(1.0, at - time.time())
