"""Configurations that were in use, to explain requests by."""

from __future__ import annotations

import time
from datetime import datetime

from ..exchange import Directory

__all__ = ["History"]

_MAX_KEPT = 64


class History:
    """A bounded number of them. Where there are more, the one that was in use for the shortest time is forgotten.

    Directories share what did not change from one to the next.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[float, Directory]] = []

    def keep(self, directory: Directory) -> None:
        """This one is in use from now on. On the control thread."""
        now = time.time()
        kept = self._kept
        if kept and kept[-1][1].version == directory.version:
            return
        kept = [*kept, (now, directory)]
        if len(kept) > _MAX_KEPT:
            del kept[min(range(len(kept) - 1), key=lambda place: kept[place + 1][0] - kept[place][0])]
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
