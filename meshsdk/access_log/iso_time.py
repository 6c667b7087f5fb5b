"""Moments as Envoy writes them unless told otherwise: UTC, with milliseconds."""

from __future__ import annotations

import time

__all__ = ["MILLISECONDS", "Second", "iso_time", "second_of"]

# What stands behind a second.
MILLISECONDS = tuple(f".{number:03d}Z" for number in range(1000))


# A second, and how it is written: the same for all its requests.
Second = tuple[int, str]

_last: Second = (0, "")


def second_of(number: int) -> Second:
    """A second since the epoch. Threads that find out the same one agree."""
    global _last
    known = _last
    if known[0] != number:
        known = _last = number, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(number))
    return known


def iso_time(moment: float) -> str:
    """Of seconds since the epoch."""
    number = int(moment)
    return second_of(number)[1] + MILLISECONDS[int((moment - number) * 1000)]
