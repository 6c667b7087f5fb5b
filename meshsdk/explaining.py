"""`Mesh.explain`: a decision by the configuration as it stands, or as it stood."""

from __future__ import annotations

import dataclasses
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


def _port_of(scheme: str) -> int:
    return 443 if scheme == "https" else 80


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
        decision = decide(request, names, control.directory, control.unknown_hosts)
        is_unknown = decision.action in ("passthrough", "deny") and bool(decision.problem)
        hint = control.hint(url.host, url.port or _port_of(url.scheme)) if is_unknown else ""
        return dataclasses.replace(decision, problem=f"{decision.problem}; {hint}") if hint else decision
    if past is None:
        raise LookupError("nothing is kept of the past: give the Mesh an admin_port")
    directory = past.find(at.timestamp())
    if directory.find(names) is None:
        raise LookupError(f"nobody had asked for {target} by {at.isoformat()}")
    return decide(request, names, directory, control.unknown_hosts)
