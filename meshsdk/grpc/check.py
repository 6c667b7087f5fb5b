"""What gRPC channels would not carry out of a set of resources, before any call is made (`meshsdk check`)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import ResourceError
from ..resources import Cluster, HttpProtocol, Listener, ResourceType, RouteConfiguration, decode
from ..routing import RouteTable

__all__ = ["notes_of"]

Packed = Mapping[tuple[ResourceType, str], bytes]


def notes_of(resources: Packed) -> list[str]:
    """Notes about listeners that lead to clusters that speak HTTP/2, as gRPC servers do, and about those clusters."""
    clusters: dict[str, Cluster] = _decoded(resources, ResourceType.CLUSTER)
    grpc_clusters = {name for name, cluster in clusters.items() if cluster.protocol is HttpProtocol.HTTP2}
    if not grpc_clusters:
        return []
    routes: dict[str, RouteConfiguration] = _decoded(resources, ResourceType.ROUTE_CONFIGURATION)
    listeners: dict[str, Listener] = _decoded(resources, ResourceType.LISTENER)
    notes: dict[str, None] = {}
    for listener in listeners.values():
        found = listener.route_configuration or routes.get(listener.route_name)
        if found is not None and not grpc_clusters.isdisjoint(found.cluster_names):
            notes.update(dict.fromkeys(_of_listener(listener, found, clusters)))
    return list(notes)


def _decoded(resources: Packed, wanted: ResourceType) -> dict[str, Any]:
    found = {}
    for (kind, name), packed in resources.items():
        if kind is wanted:
            # What is wrong is said elsewhere.
            with contextlib.suppress(ResourceError):
                found[name] = decode(kind, packed)
    return found


def _of_listener(listener: Listener, routes: RouteConfiguration, clusters: Mapping[str, Cluster]) -> Iterator[str]:
    # Only where there is a service that speaks gRPC: it takes as long to load as a small folder to read.
    from .engine import limits_of_cluster, limits_of_routes

    for name in sorted(routes.cluster_names):
        if name in clusters:
            yield from limits_of_cluster(clusters[name])
    try:
        table = RouteTable(listener, routes)
    except ResourceError:
        return  # Said elsewhere.
    for virtual_host in routes.virtual_hosts:
        yield from limits_of_routes(table, virtual_host.domains[0])
