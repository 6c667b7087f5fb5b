"""What a cluster does, as plain data under a few names."""

from __future__ import annotations

from typing import Any

from meshsdk.resources import (
    Address,
    Cluster,
    DnsDiscovery,
    EdsDiscovery,
    EndpointConfig,
    Endpoints,
    StaticDiscovery,
)

from .plain import plain
from .view import View

__all__ = ["cluster_facts"]

# An endpoint of which nothing is known that could choose among several TLS settings.
_UNMARKED = EndpointConfig(Address("192.0.2.9", 80))


def cluster_facts(view: View, name: str) -> dict[str, Any] | None:
    """What a view has for a cluster; None where it has none."""
    cluster = view.clusters.get(name)
    if cluster is None:
        return {"type": view.kinds[name], "refused": view.refused.get(name, "")} if name in view.kinds else None
    endpoints = _endpoints_of(view, cluster)
    facts: dict[str, Any] = {
        "type": cluster.kind.name,
        "lb_policy": plain(cluster.lb_policy),
        "connect_timeout": cluster.connect_timeout_seconds,
        "panic_threshold": cluster.healthy_panic_threshold,
        "locality_weighted": cluster.locality_weighted,
        "protocol": cluster.protocol.name,
        "circuit_breakers": plain(cluster.circuit_breakers),
        "outlier_detection": plain(cluster.outlier_detection),
        "max_requests_per_connection": cluster.max_requests_per_connection,
        "idle_timeout": cluster.idle_timeout_seconds,
        "max_connection_seconds": cluster.max_connection_seconds,
        "max_concurrent_streams": cluster.max_concurrent_streams,
        "tcp_keepalive": plain(cluster.tcp_keepalive),
        "health_checks": plain(cluster.health_checks),
        "tls": _tls_facts(cluster, _UNMARKED),
        "endpoints": _endpoint_facts(cluster, endpoints),
    }
    if isinstance(cluster.discovery, DnsDiscovery):
        facts["dns"] = [cluster.discovery.family, cluster.discovery.refresh_seconds]
    if endpoints is not None:
        facts["overprovisioning_factor"] = endpoints.overprovisioning_factor
        facts["drop_share"] = endpoints.drop_share
    return facts


def _endpoints_of(view: View, cluster: Cluster) -> Endpoints | None:
    match cluster.discovery:
        case EdsDiscovery(service_name=service_name):
            return view.endpoints.get(service_name)
        case StaticDiscovery(endpoints=endpoints) | DnsDiscovery(endpoints=endpoints):
            return endpoints
        case _:
            return None


def _endpoint_facts(cluster: Cluster, endpoints: Endpoints | None) -> list[Any]:
    """Every endpoint with what decides about it, in no order."""
    if endpoints is None:
        return []
    found = []
    for group in endpoints.localities:
        for one in group.endpoints:
            where = plain(group.locality)
            where.pop("")
            found.append(
                {
                    "address": str(one.address),
                    "health": "HEALTHY" if one.health.name == "UNKNOWN" else one.health.name,
                    "weight": one.weight,
                    "priority": group.priority,
                    "locality": "/".join(where.values()).rstrip("/"),
                    "locality_weight": group.weight if cluster.locality_weighted else None,
                    "tls": _tls_facts(cluster, one),
                }
            )
    return sorted(found, key=lambda one: (one["address"], one["priority"], one["locality"]))


def _tls_facts(cluster: Cluster, endpoint: EndpointConfig) -> Any:
    """TLS towards an endpoint, without the different ways in which the same may be said."""
    tls = cluster.tls_of(endpoint)
    if tls is None:
        return None
    facts = plain(tls)
    for matcher in facts["trust"]["san_matchers"] or ():
        # A matcher for names of any kind is the same as one for the kind of name that its value is.
        if matcher["kind"] is None:
            matcher["kind"] = "URI" if matcher["value"]["value"].startswith("spiffe://") else "DNS"
    trusted = facts["trust"]["trusted_ca"]
    if trusted is not None and trusted["path"] == "system":
        # Istio's agent puts the system's roots in place of a file of this name.
        facts["trust"]["trusted_ca"] = None
    return facts
