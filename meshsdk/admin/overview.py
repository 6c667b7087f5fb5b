"""What the page shows, as data: the service graph, clusters, routes, resources and their changes, requests."""

from __future__ import annotations

import difflib
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

from ..balancing import Cluster, Endpoint
from ..decision import Decision, decide_again
from ..exchange import Directory, Exchange
from ..exchange.considered import Considered
from ..routing import CompiledRoute
from ..sensitive import is_sensitive, is_telling
from ..telemetry.cells import HISTOGRAM, HTTP
from ..telemetry.istio_metrics import REQUEST_LABELS, STANDARD_LABELS, IstioMetrics
from ..telemetry.label_overrides import meaning_of
from ..telemetry.workload import UNKNOWN
from ..xds import CachedResource
from .changes import Change
from .dumped import plain
from .envoy_pages import cluster_gauges
from .recent import Received, Recent, Sent
from .redaction import REDACTED, shown_error, shown_head, shown_reason, shown_url

__all__ = [
    "change_of",
    "clusters_of",
    "decision_of",
    "difference_of",
    "endpoints_of",
    "explanation_of",
    "graph_of",
    "headers_of",
    "process_of",
    "request_of",
    "resources_of",
    "routes_of",
]

_MAX_LISTED = 500
_MAX_LINES = 5000
_MAX_SHOWN_LINES = 400

# What configuration has taken away.
_UNKNOWN = dict.fromkeys(REQUEST_LABELS, UNKNOWN)


def process_of(metrics: IstioMetrics, started_at: float) -> dict[str, Any]:
    """Who this process is."""
    from ..version import VERSION

    own = metrics.own
    return {
        "pid": os.getpid(),
        "command": " ".join(os.path.basename(argument) for argument in sys.argv[:1]) or "python",
        "version": VERSION,
        "python": sys.version.split()[0],
        "workload": own.name,
        "namespace": own.namespace,
        "app": own.app,
        "uptime_seconds": int(time.time() - started_at),
    }


def graph_of(metrics: IstioMetrics) -> list[dict[str, Any]]:
    """The edges of the service graph that begin or end at this process, with what went along each since it began.

    `milliseconds` are the buckets of durations, by the metrics' bounds.
    """
    edges: dict[tuple[str, ...], dict[str, Any]] = {}
    for (kind, labels), numbers in metrics.cells.rows()[0].items():
        base, shown, names = meaning_of(kind, STANDARD_LABELS)
        if base != HTTP or 0 not in shown:
            continue
        told = {**_UNKNOWN, **dict(zip(names, labels, strict=False))}
        source, destination, principal, is_mutual = _ends(told)
        key = (told["reporter"], source["id"], destination["id"])
        edge = edges.get(key)
        if edge is None:
            edge = edges[key] = {
                "reporter": told["reporter"],
                "source": source,
                "destination": destination,
                "protocol": told["request_protocol"],
                "requests": 0,
                "errors": 0,
                "mutual": 0,
                "principal": "",
                "milliseconds": [0] * (HISTOGRAM - 1),
            }
        count = sum(numbers[1:HISTOGRAM])
        edge["requests"] += count
        edge["errors"] += count if _is_error(told) else 0
        edge["mutual"] += count if is_mutual else 0
        edge["principal"] = principal or edge["principal"]
        edge["milliseconds"] = [sum(pair) for pair in zip(edge["milliseconds"], numbers[1:HISTOGRAM], strict=True)]
    return list(edges.values())


def _ends(told: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str], str, bool]:
    """Source, destination, the peer's principal, and whether both have proven who they are."""
    source = _node(told["source_workload"], told["source_workload_namespace"], told["source_version"])
    workload = told["destination_workload"]
    service = told["destination_service_name"]
    if workload != UNKNOWN:
        destination = _node(workload, told["destination_workload_namespace"], told["destination_version"], service)
    else:
        name = service if service != UNKNOWN else told["destination_service"]
        destination = {**_node(name, told["destination_service_namespace"], ""), "kind": "service"}
        if name in ("PassthroughCluster", "BlackHoleCluster"):
            destination = {**_node(told["destination_service"], "", ""), "kind": "outside"}
    peer = "destination_principal" if told["reporter"] == "source" else "source_principal"
    principal = told[peer] if told[peer] != UNKNOWN else ""
    return source, destination, principal, bool(principal)


def _node(name: str, namespace: str, version: str, service: str = "") -> dict[str, str]:
    namespace = "" if namespace == UNKNOWN else namespace
    version = "" if version == UNKNOWN else version
    return {
        "id": f"{name}.{namespace}" if namespace else name,
        "name": name,
        "namespace": namespace,
        "version": version,
        "service": "" if service == UNKNOWN else service,
        "kind": "workload",
    }


def _is_error(told: Mapping[str, str]) -> bool:
    status, grpc_status = told["response_code"], told["grpc_response_status"]
    return status == "0" or status.startswith("5") or grpc_status not in ("", "0", UNKNOWN)


def clusters_of(directory: Directory, query: str, first: int, count: int) -> dict[str, Any]:
    """Some of the clusters whose names have a text in them; what is wrong with one comes first."""
    words = query.lower().split()
    found = [cluster for name, cluster in directory.clusters.items() if all(word in name.lower() for word in words)]
    shown = sorted(map(_cluster, found), key=lambda one: (not one["is_troubled"], one["name"]))
    return {
        "total": len(found),
        "troubled": sum(one["is_troubled"] for one in shown),
        "endpoints": sum(one["endpoints"] for one in shown),
        "clusters": shown[first : first + min(count, _MAX_LISTED)],
    }


def _cluster(cluster: Cluster) -> dict[str, Any]:
    gauges = dict(cluster_gauges(cluster))
    total, healthy = gauges["membership_total"], gauges["membership_healthy"]
    return {
        "name": cluster.name,
        "policy": type(cluster.config.lb_policy).__name__,
        "problem": cluster.problem,
        "is_troubled": bool(cluster.problem) or healthy < total or not total,
        "endpoints": total,
        "healthy": healthy,
        "ejected": gauges["outlier_detection.ejections_active"],
        "active": gauges["upstream_rq_active"],
        "pending": gauges["upstream_rq_pending_active"],
        "connections": gauges["upstream_cx_active"],
        "retries": cluster.breaker.retries + cluster.high_breaker.retries,
    }


def endpoints_of(cluster: Cluster, recent: Recent) -> list[dict[str, Any]]:
    """Some of a cluster's endpoints; those that are not healthy come first."""
    shown = [_endpoint(priority, endpoint, recent) for priority, endpoint in cluster]
    shown.sort(key=lambda one: (one["is_healthy"], one["priority"]))
    return shown[:_MAX_LISTED]


def _endpoint(priority: int, endpoint: Endpoint, recent: Recent) -> dict[str, Any]:
    use = recent.of_endpoint(endpoint)
    locality = endpoint.locality
    return {
        "address": endpoint.name,
        "priority": priority,
        "locality": "/".join(filter(None, (locality.region, locality.zone, locality.sub_zone))),
        "weight": endpoint.weight,
        "health": endpoint.health.name,
        "is_healthy": endpoint.is_healthy,
        "is_ejected": endpoint.is_ejected,
        "fails_checks": endpoint.fails_checks,
        "active": endpoint.active_requests,
        "requests": use.requests,
        "errors": use.errors,
        "principal": endpoint.principal,
    }


def routes_of(directory: Directory, recent: Recent, query: str, count: int) -> dict[str, Any]:
    """Some of the routes whose listener, host, path or cluster have a text in them, with their hits."""
    words = query.lower().split()
    shown: list[dict[str, Any]] = []
    total = 0
    for name, target in directory.targets.items():
        for route in _in_order(target.table.routes) if target.table is not None else ():
            one = _route(name, route)
            text = " ".join(map(str, one.values())).lower() if words else ""
            if not all(word in text for word in words):
                continue
            total += 1
            if total <= min(count, _MAX_LISTED):
                use = recent.of_route(name, route)
                shown.append({**one, "requests": use.requests, "errors": use.errors})
    return {"total": total, "routes": shown}


def _in_order(routes: Iterable[CompiledRoute]) -> list[CompiledRoute]:
    """A virtual host's routes as they are tried."""
    return sorted(routes, key=lambda route: (route.virtual_host.name, route.place))


def _route(listener: str, route: CompiledRoute) -> dict[str, Any]:
    match = route.path.match
    return {
        "listener": listener,
        "virtual_host": route.virtual_host.name,
        "place": route.place,
        "domains": list(route.virtual_host.domains[:3]),
        "name": route.name,
        "match": f"{match.kind.value} {match.value}",
        "conditions": len(route.conditions),
        "action": _action(route),
    }


def _action(route: CompiledRoute) -> str:
    if route.redirect is not None:
        return f"redirect {route.redirect.status}"
    if route.direct_response is not None:
        return f"answer {route.direct_response.status}"
    if route.forward is None:
        return "nothing"
    action = route.forward.action
    if not action.clusters:
        return ", ".join(one.cluster or f"by header {one.cluster_header}" for one in route.forward.destinations)
    total = sum(one.weight for one in action.clusters) or 1
    return ", ".join(
        f"{destination.cluster} {one.weight / total:.0%}"
        for one, destination in zip(action.clusters, route.forward.destinations, strict=True)
    )


def resources_of(
    entries: Iterable[tuple[str, str, CachedResource]],
    updated_at: Mapping[tuple[str, str], float],
    query: str,
    count: int,
) -> dict[str, Any]:
    """Some of the resources whose type, name or error have a text in them; what was rejected comes first."""
    words = query.lower().split()
    shown = []
    total = 0
    for type_url, name, entry in entries:
        kind = type_url.rpartition(".")[2]
        text = f"{kind} {name} {entry.status.name} {entry.error}".lower()
        if not all(word in text for word in words):
            continue
        total += 1
        shown.append(
            {
                "kind": kind,
                "type": type_url,
                "name": name,
                "status": entry.status.name,
                "version": entry.version,
                "error": shown_error(entry.error),
                "notes": list(getattr(entry.resource, "notes", ())),
                "updated_at": updated_at.get((type_url, name)),
            }
        )
    shown.sort(key=lambda one: (one["status"] != "NACKED", one["kind"], one["name"]))
    return {"total": total, "resources": shown[: min(count, _MAX_LISTED)]}


def change_of(change: Change) -> dict[str, Any]:
    """A change, without what it consists of."""
    return {
        "number": change.number,
        "at": change.at,
        "kind": change.type_url.rpartition(".")[2],
        "name": change.name,
        "what": change.what,
        "version": change.version,
        "error": shown_error(change.error),
    }


def difference_of(change: Change) -> list[str]:
    """The lines of a unified difference between what a resource was and what it is."""
    before, after = _lines(change.type_url, change.before), _lines(change.type_url, change.after)
    if max(len(before), len(after)) > _MAX_LINES:
        return [f"the resource is too large to be compared: {len(before)} lines before, {len(after)} after"]
    lines = list(difflib.unified_diff(before, after, "before", "after", lineterm=""))
    if len(lines) > _MAX_SHOWN_LINES:
        lines = [*lines[:_MAX_SHOWN_LINES], f"… and {len(lines) - _MAX_SHOWN_LINES} lines more"]
    return lines


def _lines(type_url: str, packed: bytes) -> list[str]:
    if not packed:
        return []
    return json.dumps(plain(type_url, packed), indent=2, sort_keys=True, ensure_ascii=False).split("\n")


def request_of(one: Sent | Received) -> dict[str, Any]:
    """A request in a line."""
    head = one.head
    line = {
        "number": one.number,
        "at": one.at,
        "side": "client" if isinstance(one, Sent) else "server",
        "method": head.method,
        "url": shown_url(head),
        "status": one.status,
        "grpc_status": one.grpc_status,
        "flags": one.flags,
        "milliseconds": one.milliseconds,
    }
    if isinstance(one, Received):
        return {**line, "principal": one.principal, "caller": one.caller}
    return {
        **line,
        "cluster": one.cluster,
        "endpoint": one.endpoint,
        "route": one.route,
        "attempts": one.attempts,
        "details": one.details,
    }


def explanation_of(one: Sent | Received) -> dict[str, Any] | None:
    """Why a request went where it did, by the configuration that it was decided with."""
    exchange = _exchange_of(one)
    if exchange is None or exchange.table is None:
        return None
    head = shown_head(exchange.head, _names_looked_at(exchange))
    return decision_of(decide_again(exchange.head, head, exchange.table, exchange.clusters))


def _exchange_of(one: Sent | Received) -> Exchange | Considered | None:
    return one.decided.exchange if isinstance(one, Sent) and one.decided is not None else None


def _names_looked_at(exchange: Exchange | Considered | None) -> frozenset[str]:
    """Of the headers that the routes of a request's virtual host look at."""
    index = exchange.table.routes_for(exchange.head) if exchange is not None and exchange.table is not None else None
    conditions = [one for route in index.routes for one in route.conditions] if index is not None else []
    return frozenset(str(getattr(one, "name", "")).lower() for one in conditions)


def headers_of(one: Sent | Received) -> list[tuple[str, str]]:
    """A request's headers, as they may be shown."""
    shown = shown_head(one.head, _names_looked_at(_exchange_of(one)))
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in shown.raw_headers]


def decision_of(decision: Decision) -> dict[str, Any]:
    """A decision, without secrets that the configuration adds."""
    shown = decision.to_dict()
    shown["skipped"] = [(name, [shown_reason(reason) for reason in reasons]) for name, reasons in shown["skipped"]]
    for cluster in shown["clusters"]:
        cluster["headers"] = [
            (name, REDACTED if is_sensitive(name) or is_telling(value) else value) for name, value in cluster["headers"]
        ]
    return shown
