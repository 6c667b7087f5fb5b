"""Certificates that change while connections are open."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from .http.runtime import HasCertificates

__all__ = ["RotationWatch"]

# How often it is looked whether certificates have changed.
_SECONDS = 2.0


class RotationWatch:
    """Has those that hold certificates look at them now and then, as long as there are some.

    Args:
        call_later: Runs a callback on the control thread after some seconds; from any thread.
    """

    def __init__(self, call_later: Callable[[float, Callable[[], None]], None]) -> None:
        self._call_later = call_later
        self._holders: weakref.WeakSet[HasCertificates] = weakref.WeakSet()
        self._is_looking = False

    def add(self, holder: HasCertificates) -> None:
        """From now on `holder` is asked to look. From any thread."""
        self._holders.add(holder)
        if not self._is_looking:
            self._is_looking = True
            self._call_later(_SECONDS, self._look)

    def _look(self) -> None:
        holders = list(self._holders)
        self._is_looking = bool(holders)
        try:
            for holder in holders:
                holder._look_at_certificates()
        finally:
            if holders:
                self._call_later(_SECONDS, self._look)
