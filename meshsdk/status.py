"""What a process knows of the mesh, as plain data (`Mesh.status`)."""

from __future__ import annotations

import time
from collections.abc import Sequence

from .exchange import Directory
from .load_reporter import LoadReporters
from .mesh_status import EndpointStatus, MeshStatus, ResourceStatus
from .xds import ResourceCache, Source, Status

__all__ = ["clusters_of", "resources_of", "status_of"]


def status_of(
    directory: Directory,
    cache: ResourceCache,
    source: Source | None,
    loads: LoadReporters | None,
    notes: Sequence[str],
    failures: int,
) -> MeshStatus:
    """All of it. On the control thread.

    Args:
        loads: Who reports load, if anybody.
        notes: Of the bootstrap.
        failures: Of the control thread.
    """
    status: MeshStatus = {
        "version": directory.version,
        "problem": source.problem if source is not None else "",
        "notes": list(notes),
        "failures": failures,
        "resources": resources_of(cache),
        "clusters": clusters_of(directory),
    }
    kept = getattr(source, "kept_status", None)  # Of a `LastGoodSource`.
    if kept is not None:
        status["last_good"] = kept()
    if loads is not None:
        status["load_reports"] = loads.status()
    return status


def resources_of(cache: ResourceCache) -> list[ResourceStatus]:
    """Every resource with its version, and what is wrong with it."""
    now = time.time()
    return [
        {
            "type": kind.type_url,
            "name": name,
            "status": entry.status.value,
            "version": entry.version,
            "error": entry.error,
            "notes": list(getattr(entry.resource, "notes", ())),
            # Since a server last said so, of what was kept by a process before this one; None of all else.
            "kept_seconds": max(now - entry.kept_at, 0.0) if entry.kept_at else None,
        }
        for kind, name, entry in cache
        if entry.status is not Status.DOES_NOT_EXIST or entry.resource is not None
    ]


def clusters_of(directory: Directory) -> dict[str, list[EndpointStatus]]:
    """Every cluster with its endpoints and their health."""
    return {
        name: [
            {
                "address": str(endpoint.address),
                "priority": priority,
                "health": endpoint.health.name,
                "is_ejected": endpoint.is_ejected,
                "weight": endpoint.weight,
                "locality": "/".join(
                    part
                    for part in (endpoint.locality.region, endpoint.locality.zone, endpoint.locality.sub_zone)
                    if part
                ),
                "active_requests": endpoint.active_requests,
            }
            for priority, endpoint in cluster
        ]
        for name, cluster in directory.clusters.items()
    }
