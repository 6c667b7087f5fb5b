"""The event loops that applications run: asyncio's own, and the one that `uvicorn[standard]` brings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import uvloop

__all__ = ["LOOPS", "make_loop"]

LOOPS = ("asyncio", "uvloop")


def make_loop(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes a loop, for asyncio.Runner."""
    return uvloop.new_event_loop if name == "uvloop" else asyncio.new_event_loop
