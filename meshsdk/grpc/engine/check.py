"""What gRPC channels would not carry out of a set of resources, before any call is made (`meshsdk check`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...errors import ResourceError
from ...resources import Cluster, HttpProtocol, Listener, ResourceType, RouteConfiguration, decode
from ...routing import RouteTable
from . import limits

__all__ = ["notes_of"]


def notes_of(resources: Mapping[tuple[ResourceType, str], bytes]) -> list[str]:
    """Notes about listeners that lead to clusters that speak HTTP/2, as gRPC servers do, and about those clusters."""
    decoded = {key: resource for key, packed in resources.items() if (resource := _decoded(key[0], packed)) is not None}
    notes: dict[str, None] = {}
    for (kind, _), listener in decoded.items():
        if kind is ResourceType.LISTENER:
            notes.update(dict.fromkeys(_of_listener(listener, decoded)))
    return list(notes)


def _decoded(kind: ResourceType, packed: bytes) -> Any:
    try:
        return decode(kind, packed)
    except ResourceError:
        return None  # Said elsewhere.


def _of_listener(listener: Listener, decoded: Mapping[tuple[ResourceType, str], Any]) -> Iterator[str]:
    routes: RouteConfiguration | None = listener.route_configuration or decoded.get(
        (ResourceType.ROUTE_CONFIGURATION, listener.route_name)
    )
    if routes is None:
        return
    found = [decoded.get((ResourceType.CLUSTER, name)) for name in sorted(routes.cluster_names)]
    clusters = [one for one in found if isinstance(one, Cluster)]
    if not any(one.protocol is HttpProtocol.HTTP2 for one in clusters):
        return
    for cluster in clusters:
        yield from limits.of_cluster(cluster)
    try:
        table = RouteTable(listener, routes)
    except ResourceError:
        return  # Said elsewhere.
    for virtual_host in routes.virtual_hosts:
        yield from limits.of_routes(table, virtual_host.domains[0])
