"""Connections of event loops, broken off."""

from __future__ import annotations

import contextlib
from typing import Any

__all__ = ["break_off"]


def break_off(transport: Any) -> None:
    """Abort a transport, whatever it has been through.

    asyncio's of TLS raises where it was closed twice before, in Python 3.11 as Debian 12 has it (3.11.2).
    """
    with contextlib.suppress(AttributeError):
        transport.abort()
