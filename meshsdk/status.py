"""What a process knows of the mesh, as plain data (`Mesh.status`)."""

from __future__ import annotations

from typing import Any

from .exchange import Directory
from .xds import ResourceCache, Status

__all__ = ["clusters_of", "resources_of"]


def resources_of(cache: ResourceCache) -> list[dict[str, Any]]:
    """Every resource with its version, and what is wrong with it."""
    return [
        {
            "type": kind.type_url,
            "name": name,
            "status": entry.status.value,
            "version": entry.version,
            "error": entry.error,
            "notes": list(getattr(entry.resource, "notes", ())),
        }
        for kind, name, entry in cache
        if entry.status is not Status.DOES_NOT_EXIST or entry.resource is not None
    ]


def clusters_of(directory: Directory) -> dict[str, list[dict[str, Any]]]:
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
