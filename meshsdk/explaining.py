"""`Mesh.explain`: a decision by the configuration as it stands, or as it stood."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

import httpx

from .control import Control
from .decision import Decision, decide
from .exchange import Directory
from .readiness import listeners_of, wait_settled

__all__ = ["Past", "explain"]


class Past(Protocol):
    """What is kept of configurations that have passed."""

    def find(self, at: float) -> Directory:
        """That which was in use then, in seconds since the epoch.

        Raises:
            LookupError: Nothing is kept of so long ago.
        """


def explain(
    control: Control, request: httpx.Request, timeout: float, at: datetime | None, past: Past | None
) -> Decision:
    """See `Mesh.explain`."""
    url = request.url
    target = url.host if url.port is None else f"{url.host}:{url.port}"
    names = listeners_of(control, target, url.scheme)
    if at is None:
        if control.directory.find(names) is None:
            wait_settled(control, target, names, timeout)
        return decide(request, names, control.directory, control.unknown_hosts)
    if past is None:
        raise LookupError("nothing is kept of the past: give the Mesh an admin_port")
    directory = past.find(at.timestamp())
    if directory.find(names) is None:
        raise LookupError(f"nobody had asked for {target} by {at.isoformat()}")
    return decide(request, names, directory, control.unknown_hosts)
