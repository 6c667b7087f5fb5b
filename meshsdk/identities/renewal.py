"""Credentials that are fetched, and fetched anew before they expire.

Renewal begins at half of a certificate's life, give or take a tenth, so that a fleet that started together does not
renew together (Istio: SECRET_GRACE_PERIOD_RATIO 0.5 with jitter). A failure is tried again with growing pauses.

What credentials are made of besides, such as roots in a file, may change at any time. It is looked at all the while;
where the new roots do not vouch for the certificate any more, that is renewed at once.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from ..errors import IdentityError
from ..log_lines import logger_of
from ..security import Credentials
from ..security.second_look import vouches
from .background import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, BackgroundIdentity

__all__ = ["RenewedIdentity"]

_RENEW_AT = 0.5
_JITTER = 0.1
_LOOK_SECONDS = 1.0

logger = logger_of("meshsdk.identity")


class RenewedIdentity(BackgroundIdentity):
    """Keeps what `fetch` gives fresh.

    Args:
        fetch: Gives credentials, or raises IdentityError.
        source: What it is called in messages.
        follow: From credentials to those that take their place without being fetched, or the same; or raises
            IdentityError.
    """

    def __init__(
        self,
        fetch: Callable[[], Credentials],
        source: str,
        follow: Callable[[Credentials], Credentials] = lambda credentials: credentials,
    ) -> None:
        self._fetch = fetch
        self._follow = follow
        self._problem_of_following = ""
        super().__init__(source)

    def run(self) -> None:
        """See `BackgroundIdentity`."""
        pause = FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            try:
                fetched = self._fetch()
            except IdentityError as error:
                self._fail(str(error))
                self._wait(pause * random.uniform(0.5, 1.5))
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
                continue
            pause = FIRST_PAUSE_SECONDS
            self._succeed(fetched)
            self._wait(_seconds_to_renewal(fetched))

    def _wait(self, seconds: float) -> None:
        """Wait, and look meanwhile whether something has changed; end early where that asks for a renewal."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            if self._stopping.wait(min(left, _LOOK_SECONDS)) or self._look():
                return

    def _look(self) -> bool:
        """Take up what has changed; whether the certificate must be renewed for it."""
        current = self._current
        if current is None:
            return False
        try:
            followed = self._follow(current)
        except IdentityError as error:
            if str(error) != self._problem_of_following:
                self._problem_of_following = str(error)
                self._fail(str(error))
            return False
        if self._problem_of_following:
            if self._problem == self._problem_of_following:
                self._problem = ""
            self._problem_of_following = ""
        if followed is current:
            return False
        self._current = followed
        logger.info("%s: there are new roots", self.source)
        return not vouches(followed.roots, followed.certificate)


def _seconds_to_renewal(fetched: Credentials) -> float:
    life = fetched.expires_at - fetched.issued_at
    at = fetched.issued_at + life * (_RENEW_AT + random.uniform(-_JITTER, _JITTER))
    return max(1.0, at - time.time())
