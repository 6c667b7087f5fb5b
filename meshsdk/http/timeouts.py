"""httpx's four timeouts (httpx docs, advanced/timeouts), in seconds; None is no limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .shapes import Request

__all__ = ["Timeouts", "is_below", "timeouts_of"]


class Timeouts(NamedTuple):
    """How long each kind of wait may take."""

    connect: float | None = None
    read: float | None = None
    write: float | None = None
    pool: float | None = None


NO_TIMEOUTS = Timeouts()


def timeouts_of(request: Request) -> Timeouts:
    """The timeouts that the client put into the request."""
    given: Mapping[str, Any] | None = request.extensions.get("timeout")
    if given is None:
        return NO_TIMEOUTS
    get = given.get
    return Timeouts(get("connect"), get("read"), get("write"), get("pool"))


def is_below(seconds: float, limit: float | None) -> bool:
    """Whether a time is shorter than a limit, of which None is none."""
    return limit is None or seconds < limit
