"""/clusters, /server_info, /ready, /certs and /stats in Envoy's formats.

Sources: envoy.admin.v3 (Clusters, ServerInfo, Certificates), Envoy docs, operations/admin, and what a real Envoy shows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format

from ..balancing import Cluster, Endpoint
from ..balancing.circuit_breaker import CircuitBreaker
from ..bootstrap import Bootstrap
from ..control import Control
from ..errors import IdentityError
from ..exchange import Directory
from ..security import Identity
from ..xds import Status
from .envoy_dump import fill_node
from .recent import Recent

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["certs", "clusters_json", "clusters_text", "server_info", "stats_text"]

_GAUGE = 1
# Thresholds are uint32; no limit is the highest of them.
_NO_LIMIT = (1 << 32) - 1


def clusters_json(directory: Directory, recent: Recent) -> dict[str, Any]:
    """What /clusters?format=json shows."""
    from envoy.admin.v3 import clusters_pb2

    told = clusters_pb2.Clusters()
    for name, cluster in directory.clusters.items():
        status = told.cluster_statuses.add(
            name=name, observability_name=name, added_via_api=True, eds_service_name=_service_name(cluster)
        )
        for priority, endpoint in cluster:
            _fill_host(status.host_statuses.add(), endpoint, priority, recent)
        for breaker, of_routing in ((cluster.breaker, 0), (cluster.high_breaker, 1)):
            limits = {limit: int(value) for limit, value in _limits(breaker)}
            status.circuit_breakers.thresholds.add(priority=of_routing, **{k: {"value": v} for k, v in limits.items()})
    shown: dict[str, Any] = json_format.MessageToDict(told, preserving_proto_field_name=True)
    return shown


def _service_name(cluster: Cluster) -> str:
    return str(getattr(cluster.config.discovery, "service_name", "") or "")


def _limits(breaker: CircuitBreaker) -> Iterator[tuple[str, float]]:
    for name, value in (
        ("max_connections", breaker.max_connections),
        ("max_pending_requests", breaker.max_pending),
        ("max_requests", breaker.max_requests),
        ("max_retries", breaker.max_retries),
    ):
        yield name, min(value, _NO_LIMIT)


def _stats_of(endpoint: Endpoint, recent: Recent) -> list[tuple[str, int, bool]]:
    """Name, value, and whether it goes up and down; in Envoy's order."""
    use = recent.of_endpoint(endpoint)
    requests, errors = use.requests, use.errors
    return [
        ("rq_active", endpoint.active_requests, True),
        ("rq_error", errors, False),
        ("rq_success", requests - errors, False),
        ("rq_total", requests, False),
    ]


def _fill_host(host: Any, endpoint: Endpoint, priority: int, recent: Recent) -> None:
    address = endpoint.address
    if address.port:
        host.address.socket_address.address = address.host
        host.address.socket_address.port_value = address.port
    else:
        host.address.pipe.path = str(address)
    for name, value, is_gauge in _stats_of(endpoint, recent):
        host.stats.add(name=name, value=value, type=_GAUGE if is_gauge else 0)
    health = host.health_status
    health.failed_outlier_check = endpoint.is_ejected
    health.failed_active_health_check = endpoint.fails_checks
    # Envoy counts what EDS says nothing of as healthy, and says so.
    health.eds_health_status = endpoint.config.health.value or 1
    host.weight, host.priority, host.hostname = endpoint.weight, priority, endpoint.config.hostname
    locality = endpoint.locality
    host.locality.region, host.locality.zone = locality.region, locality.zone
    host.locality.sub_zone = locality.sub_zone


def clusters_text(directory: Directory, recent: Recent) -> str:
    """What /clusters shows."""
    lines = []
    for name, cluster in directory.clusters.items():
        lines.append(f"{name}::observability_name::{name}")
        for of_routing, breaker in (("default", cluster.breaker), ("high", cluster.high_breaker)):
            lines += [f"{name}::{of_routing}_priority::{limit}::{value:.0f}" for limit, value in _limits(breaker)]
        lines.append(f"{name}::added_via_api::true")
        service = _service_name(cluster)
        if service:
            lines.append(f"{name}::eds_service_name::{service}")
        for priority, endpoint in cluster:
            where, locality = f"{name}::{endpoint.name}", endpoint.locality
            lines += [f"{where}::{stat}::{value}" for stat, value, _ in _stats_of(endpoint, recent)]
            lines += [
                f"{where}::hostname::{endpoint.config.hostname}",
                f"{where}::health_flags::{_health_flags(endpoint)}",
                f"{where}::weight::{endpoint.weight}",
                f"{where}::region::{locality.region}",
                f"{where}::zone::{locality.zone}",
                f"{where}::sub_zone::{locality.sub_zone}",
                f"{where}::priority::{priority}",
            ]
    return "".join(f"{line}\n" for line in lines)


def _health_flags(endpoint: Endpoint) -> str:
    """As Envoy writes them (source/common/upstream/host_utility.cc)."""
    flags = []
    if endpoint.fails_checks:
        flags.append("/failed_active_hc")
    if endpoint.is_ejected:
        flags.append("/failed_outlier_check")
    eds = {"UNHEALTHY": "/failed_eds_health", "TIMEOUT": "/failed_eds_health", "DEGRADED": "/degraded_eds_health"}
    eds["DRAINING"] = "/eds_status_draining"
    found = eds.get(endpoint.config.health.name)
    return "".join([*flags, found] if found else flags) or "healthy"


def server_info(bootstrap: Bootstrap, started_at: float, *, is_ready: bool) -> dict[str, Any]:
    """What /server_info shows."""
    from envoy.admin.v3 import server_info_pb2

    from ..version import VERSION

    told = server_info_pb2.ServerInfo(version=f"meshsdk/{VERSION}")
    told.state = server_info_pb2.ServerInfo.LIVE if is_ready else server_info_pb2.ServerInfo.PRE_INITIALIZING
    uptime = int(time.time() - started_at)
    told.uptime_current_epoch.seconds = told.uptime_all_epochs.seconds = uptime
    told.command_line_options.SetInParent()
    fill_node(told.node, bootstrap)
    shown: dict[str, Any] = json_format.MessageToDict(told, preserving_proto_field_name=True)
    return {"state": "LIVE" if is_ready else "PRE_INITIALIZING", **shown}


def certs(identity: Identity | None) -> dict[str, Any]:
    """What /certs shows: of an identity that was used already, for looking must not wait for one."""
    if identity is None or getattr(identity, "expires_at", None) is None:
        return {"certificates": []}
    try:
        credentials = identity.credentials()
    except IdentityError:
        return {"certificates": []}
    from cryptography import x509

    roots = x509.load_pem_x509_certificates(credentials.roots)
    chain = x509.load_pem_x509_certificates(credentials.certificate)
    shown = {"ca_cert": [_certificate(one) for one in roots], "cert_chain": [_certificate(one) for one in chain]}
    return {"certificates": [shown]}


def _certificate(certificate: x509.Certificate) -> dict[str, Any]:
    until = certificate.not_valid_after_utc
    return {
        "path": "<inline>",
        "serial_number": f"{certificate.serial_number:x}",
        "subject_alt_names": _names(certificate),
        "days_until_expiration": str(max(0, (until - datetime.now(UTC)).days)),
        "valid_from": _time(certificate.not_valid_before_utc),
        "expiration_time": _time(until),
    }


def _time(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def _names(certificate: x509.Certificate) -> list[dict[str, str]]:
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    kinds: tuple[tuple[str, Any], ...] = (
        ("uri", x509.UniformResourceIdentifier),
        ("dns", x509.DNSName),
        ("ip_address", x509.IPAddress),
    )
    return [{kind: str(value)} for kind, made in kinds for value in names.get_values_for_type(made)]


def stats_text(control: Control, started_at: float) -> str:
    """What /stats shows: gauges of clusters, of the source of configuration, and of the process."""
    directory = control.directory
    stats: dict[str, int] = {
        "cluster_manager.active_clusters": len(directory.clusters),
        "control_plane.connected_state": int(control.source is not None and control.source.is_connected),
        "server.live": 1,
        "server.uptime": int(time.time() - started_at),
        **{f"xds.resources.{status.value.lower()}": control.cache.count(status) for status in Status},
    }
    for name, cluster in directory.clusters.items():
        stats.update({f"cluster.{name}.{stat}": value for stat, value in cluster_gauges(cluster)})
    return "".join(f"{name}: {value}\n" for name, value in sorted(stats.items()))


def cluster_gauges(cluster: Cluster) -> Iterator[tuple[str, int]]:
    """A cluster's gauges, by Envoy's names (Envoy docs, upstream/cluster_manager/cluster_stats)."""
    total, healthy, ejected = cluster.census()
    breaker, high = cluster.breaker, cluster.high_breaker
    yield "membership_total", total
    yield "membership_healthy", healthy
    yield "outlier_detection.ejections_active", ejected
    yield "upstream_rq_active", breaker.requests + high.requests
    yield "upstream_rq_pending_active", breaker.pending + high.pending
    yield "upstream_cx_active", breaker.connections + high.connections
