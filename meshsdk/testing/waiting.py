"""Whether the meshes of a test have what their control plane serves."""

from __future__ import annotations

import time
from collections.abc import Iterable

from ..errors import RequestError
from ..mesh import Mesh
from ..xds import Status
from .recorded import RecordedAds

__all__ = ["owed_by"]

_NOTHING: frozenset[str] = frozenset()


def owed_by(meshes: Iterable[Mesh], ads: RecordedAds, ends: float) -> str:
    """What the first of them waits for that waits; empty where what they were sent is in use.

    A request that is under way to the server is known by what the client wants and the server was not asked for.

    Args:
        meshes: Those that were closed meanwhile wait for nothing.
        ads: Their server.
        ends: By this time of the monotonic clock each must have said so.

    Raises:
        TimeoutError: A control thread does not answer.
    """
    for mesh in list(meshes):
        try:
            owed = _owed_by(mesh, ads, ends)
        except RequestError:
            continue  # It is closed.
        if owed:
            return owed
    return ""


def _owed_by(mesh: Mesh, ads: RecordedAds, ends: float) -> str:
    control = mesh._runtime
    if control.source is None:
        return ""
    seconds = max(1.0, ends - time.monotonic())
    # What comes in one batch is in use when the next one runs.
    control.call(lambda: None, seconds)
    known = control.call(lambda: [(kind.type_url, name, entry.status) for kind, name, entry in control.cache], seconds)
    client = control.bootstrap.node.id
    asked = ads.asked_for(client)
    for type_url, name, status in known:
        kind = type_url.rpartition(".")[2]
        if status is Status.REQUESTED or not asked.get(kind, _NOTHING) & {name, "*"}:
            return f"{client} waits for {kind} {name}" + (f": {control.problem}" if control.problem else "")
    return ""
