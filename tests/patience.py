"""How long tests wait for what comes at once on a machine that has nothing else to do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import httpx

__all__ = ["PATIENCE", "eventually", "have_patience"]

# Below pytest's own limit for a test. It guards, and nothing takes so long: a run that passes is none the slower.
PATIENCE = 60.0


T = TypeVar("T")


def eventually(holds: Callable[[], T], problem: str = "it did not come to hold", *, seconds: float = PATIENCE) -> T:
    """Wait until something holds; what it was. A test is no slower for it than what it waits for.

    Args:
        holds: Looked at a hundred times a second.
        problem: What is said where it does not.
        seconds: After which it is given up.
    """
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, problem
        time.sleep(0.01)
    return found


def have_patience() -> None:
    """Clients that were given no timeouts have httpx's five seconds otherwise, which a handshake may take."""
    defaults = httpx.Client().timeout
    from httpx._config import DEFAULT_TIMEOUT_CONFIG

    assert defaults == DEFAULT_TIMEOUT_CONFIG
    for name in ("connect", "read", "write", "pool"):
        setattr(DEFAULT_TIMEOUT_CONFIG, name, PATIENCE)
