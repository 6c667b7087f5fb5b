"""Identities that have a thread start afresh in a forked child, at their next use."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["reset_after_fork"]


class Resettable(Protocol):
    """Something with a thread."""

    def reset(self) -> None:
        """Forget everything of the parent's."""


_living: weakref.WeakSet[Resettable] = weakref.WeakSet()


def reset_after_fork(one: Resettable) -> None:
    """Have `one` reset in every forked child, as long as it lives."""
    _living.add(one)


def _reset_all() -> None:
    for one in list(_living):
        one.reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all)
