"""Configurations that were in use, to explain requests by."""

from __future__ import annotations

import time
from datetime import datetime

from ..exchange import Directory

__all__ = ["History"]

_MAX_KEPT = 64
# Routes that they do not share, some two kilobytes each.
_MAX_ROUTES = 20_000


class History:
    """A bounded number of them. Where there are more, the one that was in use for the shortest time is forgotten.

    Directories share what did not change from one to the next.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[float, Directory]] = []
        self._routes: list[int] = []

    def keep(self, directory: Directory) -> None:
        """This one is in use from now on. On the control thread."""
        now = time.time()
        kept = self._kept
        if kept and kept[-1][1].version == directory.version:
            return
        routes = [*self._routes, _own_routes(directory, kept[-1][1] if kept else None)]
        kept = [*kept, (now, directory)]
        while len(kept) > 1 and (len(kept) > _MAX_KEPT or sum(routes) > _MAX_ROUTES):
            shortest = min(range(len(kept) - 1), key=lambda place: kept[place + 1][0] - kept[place][0])
            del kept[shortest], routes[shortest]
        self._routes = routes
        # Readers have the list that they have found.
        self._kept = kept

    def find(self, at: float) -> Directory:
        """See `explaining.Past`."""
        found = None
        kept = self._kept
        for since, directory in kept:
            if since > at:
                break
            found = directory
        if found is None:
            oldest = datetime.fromtimestamp(kept[0][0]).isoformat(" ", "seconds") if kept else "now"
            raise LookupError(f"nothing is kept of so long ago; configurations are kept since {oldest}")
        return found


def _own_routes(directory: Directory, before: Directory | None) -> int:
    """How many routes it does not share with the one before it."""
    known = before.targets if before is not None else {}
    return sum(
        len(target.table.routes)
        for name, target in directory.targets.items()
        if target.table is not None and known.get(name) is not target
    )
