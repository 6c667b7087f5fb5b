"""Moments as Envoy writes them unless told otherwise: UTC, with milliseconds."""

from __future__ import annotations

import time
from typing import NamedTuple

__all__ = ["MILLISECONDS", "Second", "iso_time", "second_of"]

# What stands behind a second.
MILLISECONDS = tuple(f".{number:03d}Z" for number in range(1000))


class Second(NamedTuple):
    """A second, and how it is written: the same for all its requests."""

    number: int
    text: str


_last = Second(0, "")


def second_of(number: int) -> Second:
    """A second since the epoch. Threads that find out the same one agree."""
    global _last
    known = _last
    if known.number != number:
        known = _last = Second(number, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(number)))
    return known


def iso_time(moment: float) -> str:
    """Of seconds since the epoch."""
    number = int(moment)
    return second_of(number).text + MILLISECONDS[int((moment - number) * 1000)]
