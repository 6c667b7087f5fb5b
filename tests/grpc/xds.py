"""xDS resources for tests, as the JSON that a folder takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

__all__ = ["cluster", "documents", "endpoints", "listener"]

TYPES = "type.googleapis.com/"
RATINGS = "ratings.default.svc.cluster.local:9080"


def listener(name: str, routes: Sequence[Any], filters: Sequence[Any] = (), **virtual_host: Any) -> dict[str, Any]:
    """A client listener with inline routes."""
    router = {"name": "router", "typed_config": {"@type": f"{TYPES}envoy.extensions.filters.http.router.v3.Router"}}
    manager = {
        "@type": f"{TYPES}envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x",
        "route_config": {
            "name": f"routes of {name}",
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": list(routes), **virtual_host}],
        },
        "http_filters": [*filters, router],
    }
    return {
        "@type": f"{TYPES}envoy.config.listener.v3.Listener",
        "name": name,
        "api_listener": {"api_listener": manager},
    }


def cluster(name: str, **fields: Any) -> dict[str, Any]:
    """An EDS cluster."""
    return {
        "@type": f"{TYPES}envoy.config.cluster.v3.Cluster",
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": {"ads": {}}},
        **fields,
    }


def endpoints(name: str, localities: Sequence[Sequence[Any]], **fields: Any) -> dict[str, Any]:
    """A ClusterLoadAssignment; each list of ports is a priority of its own unless it says so."""
    made = []
    for number, one in enumerate(localities):
        locality: dict[str, Any] = {"locality": {"zone": f"zone-{number}"}, "priority": number}
        ports: Any = one
        if isinstance(one, dict):
            locality.update({key: value for key, value in one.items() if key != "ports"})
            ports = one["ports"]
        locality["lb_endpoints"] = [_endpoint(port) for port in ports]
        made.append(locality)
    return {
        "@type": f"{TYPES}envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": name,
        "endpoints": made,
        **fields,
    }


def _endpoint(port: Any) -> dict[str, Any]:
    more = {} if isinstance(port, int) else {key: value for key, value in port.items() if key != "port"}
    number = port if isinstance(port, int) else port["port"]
    address = {"socket_address": {"address": "127.0.0.1", "port_value": number}}
    return {"endpoint": {"address": address}, **more}


def documents(*resources: Any) -> str:
    """Resources as one YAML text."""
    return "\n---\n".join(map(json.dumps, resources))
