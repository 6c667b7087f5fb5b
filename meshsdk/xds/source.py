"""Where resources come from, as discovery sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ..resources import ResourceType

__all__ = ["Source", "Wanted"]

Wanted = Mapping[ResourceType, frozenset[str]]


class Source(Protocol):
    """Fills a `ResourceCache` with what is wanted. All methods are called on the control thread."""

    def subscribe(self, wanted: Wanted) -> None:
        """From now on, keep exactly these resources current in the cache."""

    def close(self) -> None:
        """Let go of everything. Nothing is written to the cache after this."""

    @property
    def is_connected(self) -> bool:
        """Whether it hears of changes."""

    @property
    def failures(self) -> int:
        """How often a connection could not be had, or ended."""

    @property
    def problem(self) -> str:
        """Why resources may not be current, such as a server that is away; empty where all is well."""
