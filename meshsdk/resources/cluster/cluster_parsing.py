"""Cluster: protobuf to data."""

from __future__ import annotations

from typing import Any

import re2
from msgspec.structs import replace

from ...errors import ResourceError
from ...xdstp import normalised
from .. import constraints, protos
from ..config_source import sourced_name
from ..notes import Notes
from ..tls import is_mesh_mutual, parse_transport_socket
from ..values import config_type, frozen, optional, seconds, struct_as_dict, unpack
from .cluster import (
    OVERRIDABLE,
    AggregateDiscovery,
    CircuitBreakers,
    Cluster,
    Discovery,
    DnsDiscovery,
    EdsDiscovery,
    HttpProtocol,
    LoadReporting,
    OriginalDiscovery,
    StaticDiscovery,
    TcpKeepalive,
    Thresholds,
    TlsMatch,
)
from .endpoints import Address, EndpointConfig, Endpoints, HealthStatus, LocalityEndpoints, parse_endpoints
from .health import parse_health_check, parse_outlier_detection
from .lb_policy_parsing import parse_lb_policy

__all__ = ["parse_cluster"]

_CLUSTER_FIELDS = frozenset(
    "name alt_stat_name type cluster_type eds_cluster_config connect_timeout lb_policy load_assignment"
    " typed_extension_protocol_options dns_refresh_rate dns_failure_refresh_rate dns_lookup_family"
    " least_request_lb_config round_robin_lb_config ring_hash_lb_config maglev_lb_config lb_subset_config"
    " common_lb_config transport_socket metadata http2_protocol_options load_balancing_policy circuit_breakers"
    " max_requests_per_connection common_http_protocol_options per_connection_buffer_limit_bytes outlier_detection"
    " health_checks upstream_connection_options close_connections_on_host_health_failure"
    " wait_for_warm_on_init transport_socket_matches lrs_server lrs_report_endpoint_metrics filters"
    # Where look-ups of names are spread and sent: the system's resolver does them here.
    " dns_jitter typed_dns_resolver_config".split()
)
# update_merge_window only puts changes of health and weight off; here they are merged as they come.
_COMMON_LB_FIELDS = frozenset(
    "healthy_panic_threshold locality_weighted_lb_config zone_aware_lb_config consistent_hashing_lb_config"
    " update_merge_window ignore_new_hosts_until_first_hc close_connections_on_host_set_change"
    " override_host_status".split()
)
_THRESHOLD_FIELDS = frozenset(
    "priority max_connections max_pending_requests max_requests max_retries retry_budget track_remaining".split()
)
# Among connections of bytes; those of HTTP tell each other by headers.
_METADATA_EXCHANGE = "envoy.tcp.metadataexchange.config.MetadataExchange"
_AGGREGATE = "envoy.extensions.clusters.aggregate.v3.ClusterConfig"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def parse_cluster(message: Any, *, of_sidecar: bool = False) -> Cluster:
    """A validated Cluster.

    Args:
        message: The Cluster.
        of_sidecar: Also such as only an Envoy takes: ORIGINAL_DST, and STATIC without anybody in it.

    Raises:
        ResourceError: A rule does not hold.
    """
    where = "Cluster"
    constraints.check(message)
    notes = Notes()
    notes.unless_acted_on(message, where, _CLUSTER_FIELDS)
    common = message.common_lb_config
    _note_parts(message, where, notes)
    discovery = _parse_discovery(message, where, notes, of_sidecar=of_sidecar)
    parsed = parse_lb_policy(message, where, notes)
    connect_timeout = seconds(message, "connect_timeout")
    panic = common.healthy_panic_threshold.value if common.HasField("healthy_panic_threshold") else 50.0
    protocol, options = _parse_protocol(message, where, notes)
    idle_timeout = _idle_timeout(message, options)
    return Cluster(
        name=normalised(message.name),
        discovery=discovery,
        lb_policy=parsed.policy,
        connect_timeout_seconds=5.0 if connect_timeout is None else connect_timeout,
        healthy_panic_threshold=panic,
        locality_weighted=parsed.locality_weighted,
        fail_traffic_on_panic=parsed.fail_traffic_on_panic,
        protocol=protocol,
        tls=parse_transport_socket(message.transport_socket, f"{where}.transport_socket", notes)
        if message.HasField("transport_socket")
        else None,
        tls_matches=_parse_tls_matches(message, where, notes, of_sidecar=of_sidecar),
        circuit_breakers=_parse_circuit_breakers(message.circuit_breakers, f"{where}.circuit_breakers", notes),
        max_requests_per_connection=optional(message, "max_requests_per_connection")
        or optional(options.common_http_protocol_options, "max_requests_per_connection"),
        idle_timeout_seconds=idle_timeout,
        metadata={name: struct_as_dict(struct) for name, struct in message.metadata.filter_metadata.items()},
        outlier_detection=optional(
            message, "outlier_detection", lambda o: parse_outlier_detection(o, f"{where}.outlier_detection", notes)
        ),
        health_checks=tuple(
            parse_health_check(check, f"{where}.health_checks[{index}]", notes)
            for index, check in enumerate(message.health_checks)
        ),
        max_connection_seconds=_common_http(message, options, "max_connection_duration") or None,
        max_stream_duration_seconds=_common_http(message, options, "max_stream_duration") or None,
        max_concurrent_streams=_max_concurrent_streams(message, options),
        tcp_keepalive=_parse_keepalive(message),
        ignore_new_hosts_until_first_hc=common.ignore_new_hosts_until_first_hc,
        close_connections_on_host_set_change=common.close_connections_on_host_set_change,
        close_connections_on_health_failure=message.close_connections_on_host_health_failure,
        override_host_status=_override_host_status(common),
        load_reporting=_parse_load_reporting(message, where, notes),
        notes=tuple(notes),
    )


# What a load report of an endpoint's may have (xds.data.orca.v3.OrcaLoadReport), by itself and in maps.
_METRICS = frozenset("cpu_utilization mem_utilization application_utilization eps rps_fractional".split())
_METRIC_MAPS = ("named_metrics.", "utilization.", "request_cost.")


def _parse_load_reporting(message: Any, where: str, notes: Notes) -> LoadReporting | None:
    """gRFC A27: reports go to the server that the cluster comes from. gRFC A85: metrics that are not known are left."""
    if not message.HasField("lrs_server"):
        return None
    if message.lrs_server.WhichOneof("config_source_specifier") != "self":
        notes.add(f"{where}.lrs_server", "load is reported to the cluster's own management server alone (self)")
        return None
    names = list(message.lrs_report_endpoint_metrics)
    known = [name for name in names if name in _METRICS or (name.startswith(_METRIC_MAPS) and not name.endswith("."))]
    for name in names:
        if name not in known:
            notes.add(f"{where}.lrs_report_endpoint_metrics", f"{name[:100]!r} is not known")
    return LoadReporting(tuple(dict.fromkeys(known)))


# Where nobody says anything of TLS, endpoints choose among this and plaintext (pilot/pkg/networking/core/
# cluster_tls.go).
_AUTOMATIC = "tlsMode-istio"


def _parse_tls_matches(message: Any, where: str, notes: Notes, *, of_sidecar: bool) -> tuple[TlsMatch, ...]:
    found = []
    for index, match in enumerate(message.transport_socket_matches):
        path = f"{where}.transport_socket_matches[{index}].transport_socket"
        tls = parse_transport_socket(match.transport_socket, path, notes)
        is_automatic = of_sidecar and match.name == _AUTOMATIC and tls is not None and is_mesh_mutual(tls)
        criteria = tuple((key, frozen(value)) for key, value in struct_as_dict(match.match).items())
        found.append(TlsMatch(criteria, tls, is_automatic))
    return tuple(found)


def _note_parts(message: Any, where: str, notes: Notes) -> None:
    """What is not acted on of a cluster's balancing, and of its network filters."""
    for index, network_filter in enumerate(message.filters):
        if config_type(network_filter.typed_config) != _METADATA_EXCHANGE:
            notes.add(f"{where}.filters[{index}]", f"{network_filter.name!r} is not acted on")
    common = message.common_lb_config
    notes.unless_acted_on(common, f"{where}.common_lb_config", _COMMON_LB_FIELDS)
    if common.HasField("zone_aware_lb_config"):
        notes.unless_acted_on(
            common.zone_aware_lb_config,
            f"{where}.common_lb_config.zone_aware_lb_config",
            frozenset({"fail_traffic_on_panic"}),
        )


def with_grpc_rules(message: Any, cluster: Cluster, *, has_identity: bool) -> Cluster:
    """A cluster as a server of gRPC's profile means it, which says nothing of what Envoy does without being told.

    gRPC uses no endpoint that is called unhealthy and knows no panic (gRFC A27), so istiod tells proxyless clients of
    pods that are not ready without a threshold. Where a cluster has settings for Envoy's balancing that gRPC does not
    read (common_lb_config beyond gRFC A55's override_host_status, active health checks), it is Envoy's.

    Of a host outside the cluster, which is to be looked up, istiod sends no endpoints: its own name leads there.

    Nor does istiod tell them of auto mTLS: gRPC could not reach sidecars in PERMISSIVE (pilot/pkg/networking/grpcgen/
    cds.go, applyTLS). It does mark the endpoints that take mutual TLS, unless a DestinationRule says otherwise
    (pilot/pkg/xds/endpoints/mtls_checker.go); a process that has an identity speaks it to them, as a sidecar would.
    """
    common = message.common_lb_config
    is_envoys = message.HasField("common_lb_config") and {field.name for field, _ in common.ListFields()} != {
        "override_host_status"
    }
    if is_envoys or message.health_checks:
        return cluster
    statuses = cluster.override_host_status if message.HasField("common_lb_config") else _OVERRIDABLE_BY_GRPC
    return replace(
        cluster,
        only_healthy=True,
        healthy_panic_threshold=0.0,
        override_host_status=statuses,
        fallback=_by_its_name(cluster),
        auto_mutual=has_identity and not _says_how_to_connect(message),
    )


def _says_how_to_connect(message: Any) -> bool:
    return bool(message.HasField("transport_socket") or message.transport_socket_matches)


# istiod's names of clusters (model.BuildSubsetKey), without a subset.
_OUTSIDE = re2.compile(r"outbound\|([1-9][0-9]{0,4})\|\|([a-z0-9]([-.a-z0-9]*[a-z0-9])?)")
_MAX_PORT = 65535


def _by_its_name(cluster: Cluster) -> DnsDiscovery | None:
    """The host that a cluster is named after; None of a service of Kubernetes, whose endpoints are all told."""
    named = _OUTSIDE.fullmatch(cluster.name)
    if named is None or not isinstance(cluster.discovery, EdsDiscovery):
        return None
    port, host = int(named[1]), named[2]
    if port > _MAX_PORT or ".svc." in host:
        return None
    endpoint = EndpointConfig(Address(host, port), hostname=host)
    return DnsDiscovery(Endpoints(cluster.name, (LocalityEndpoints((endpoint,)),)), logical=True)


def _common_http(message: Any, options: Any, field: str) -> float | None:
    """A duration of the cluster's common HTTP options, which stand in HttpProtocolOptions or, older, in the cluster."""
    value = seconds(options.common_http_protocol_options, field)
    return seconds(message.common_http_protocol_options, field) if value is None else value


def _idle_timeout(message: Any, options: Any) -> float | None:
    """HttpProtocolOptions.idle_timeout: one hour where unset, and zero disables it."""
    idle = _common_http(message, options, "idle_timeout")
    return 3600.0 if idle is None else idle or None


def _max_concurrent_streams(message: Any, options: Any) -> int | None:
    http2 = options.explicit_http_config.http2_protocol_options
    limit = optional(http2, "max_concurrent_streams")
    if limit is None:
        limit = optional(options.auto_config.http2_protocol_options, "max_concurrent_streams")
    return optional(message.http2_protocol_options, "max_concurrent_streams") if limit is None else limit


def _parse_keepalive(message: Any) -> TcpKeepalive | None:
    options = message.upstream_connection_options
    if not options.HasField("tcp_keepalive"):
        return None
    keepalive = options.tcp_keepalive
    return TcpKeepalive(
        optional(keepalive, "keepalive_probes"),
        optional(keepalive, "keepalive_time"),
        optional(keepalive, "keepalive_interval"),
    )


def _override_host_status(common: Any) -> frozenset[HealthStatus]:
    if not common.HasField("override_host_status"):
        return OVERRIDABLE
    known = {status.value for status in HealthStatus}
    return frozenset(HealthStatus(one) for one in common.override_host_status.statuses if one in known)


def _parse_discovery(message: Any, where: str, notes: Notes, *, of_sidecar: bool) -> Discovery:
    if message.WhichOneof("cluster_discovery_type") == "cluster_type":
        return _parse_cluster_type(message.cluster_type, f"{where}.cluster_type")
    kinds = protos.cluster_pb2.Cluster
    if message.type == kinds.EDS:
        return _parse_eds(message, where)
    if message.type == kinds.STATIC and of_sidecar and not message.HasField("load_assignment"):
        # istiod's BlackHoleCluster.
        return StaticDiscovery(Endpoints(message.name))
    if message.type == kinds.STATIC:
        return StaticDiscovery(_inline_endpoints(message, where, notes, host_names=False))
    if message.type in (kinds.STRICT_DNS, kinds.LOGICAL_DNS):
        return _parse_dns(message, where, notes)
    if of_sidecar:
        return OriginalDiscovery()
    raise ResourceError(f"{where}.type", "ORIGINAL_DST needs a redirected connection, which a library does not have")


def _parse_cluster_type(message: Any, where: str) -> AggregateDiscovery:
    if not message.typed_config.type_url.endswith(_AGGREGATE):
        raise ResourceError(f"{where}.typed_config", f"{message.name!r} is a cluster type that meshsdk does not know")
    config = unpack(message.typed_config, protos.aggregate_pb2.ClusterConfig, f"{where}.typed_config")
    return AggregateDiscovery(tuple(map(normalised, config.clusters)))


def _parse_eds(message: Any, where: str) -> EdsDiscovery:
    service_name = message.eds_cluster_config.service_name
    if not service_name and message.name.startswith("xdstp:"):
        raise ResourceError(f"{where}.eds_cluster_config.service_name", "must be set for a cluster of an xdstp name")
    source, path = message.eds_cluster_config.eds_config, f"{where}.eds_cluster_config.eds_config"
    return EdsDiscovery(sourced_name(source, service_name or message.name, path))


def _inline_endpoints(message: Any, where: str, notes: Notes, *, host_names: bool) -> Endpoints:
    if not message.HasField("load_assignment"):
        raise ResourceError(f"{where}.load_assignment", "must be set for a cluster of this type")
    endpoints = parse_endpoints(
        message.load_assignment, f"{where}.load_assignment", host_names=host_names, checked=True
    )
    for note in endpoints.notes:
        where_noted, _, text = note.rpartition(": ")
        notes.add(where_noted, text)
    return endpoints


# gRFC A55.
_OVERRIDABLE_BY_GRPC = frozenset([HealthStatus.UNKNOWN, HealthStatus.HEALTHY])

_FAMILIES = {0: "AUTO", 1: "V4_ONLY", 2: "V6_ONLY", 3: "V4_PREFERRED", 4: "ALL"}


def _parse_dns(message: Any, where: str, notes: Notes) -> DnsDiscovery:
    endpoints = _inline_endpoints(message, where, notes, host_names=True)
    logical = message.type == protos.cluster_pb2.Cluster.LOGICAL_DNS
    if logical and len(endpoints) != 1:
        raise ResourceError(f"{where}.load_assignment", "LOGICAL_DNS takes exactly one endpoint")
    refresh = seconds(message, "dns_refresh_rate") or 5.0
    failure = message.dns_failure_refresh_rate
    return DnsDiscovery(
        endpoints=endpoints,
        logical=logical,
        refresh_seconds=refresh,
        failure_refresh_seconds=seconds(failure, "base_interval") or refresh,
        family=_FAMILIES[message.dns_lookup_family],
    )


def _parse_protocol(message: Any, where: str, notes: Notes) -> tuple[HttpProtocol, Any]:
    """What is spoken, and the HttpProtocolOptions that say so (empty where there are none)."""
    options = protos.http_protocol_options_pb2.HttpProtocolOptions()
    if _HTTP_OPTIONS not in message.typed_extension_protocol_options:
        return (HttpProtocol.HTTP2 if message.HasField("http2_protocol_options") else HttpProtocol.HTTP1), options
    path = f"{where}.typed_extension_protocol_options"
    options = unpack(
        message.typed_extension_protocol_options[_HTTP_OPTIONS],
        protos.http_protocol_options_pb2.HttpProtocolOptions,
        path,
    )
    kind = options.WhichOneof("upstream_protocol_options")
    if kind == "auto_config":
        return HttpProtocol.NEGOTIATED, options
    if kind == "explicit_http_config":
        which = options.explicit_http_config.WhichOneof("protocol_config")
        if which == "http3_protocol_options":
            raise ResourceError(f"{path}.explicit_http_config", "HTTP/3 is refused; use HTTP/2 or HTTP/1.1")
        return (HttpProtocol.HTTP2 if which == "http2_protocol_options" else HttpProtocol.HTTP1), options
    # use_downstream_protocol_config: the caller speaks httpx, which asks for HTTP/1.1 unless ALPN says otherwise.
    return HttpProtocol.NEGOTIATED, options


def _parse_circuit_breakers(message: Any, where: str, notes: Notes) -> CircuitBreakers:
    """The first thresholds of each routing priority count; what is not set has Envoy's defaults."""
    by_priority: dict[int, Thresholds] = {}
    for index, thresholds in enumerate(message.thresholds):
        notes.unless_acted_on(thresholds, f"{where}.thresholds[{index}]", _THRESHOLD_FIELDS)
        by_priority.setdefault(thresholds.priority, _parse_thresholds(thresholds))
    per_host = [optional(thresholds, "max_connections") for thresholds in message.per_host_thresholds]
    return CircuitBreakers(
        default=by_priority.get(0, Thresholds()),
        high=by_priority.get(1, Thresholds()),
        max_connections_per_host=next((limit for limit in per_host if limit is not None), None),
    )


def _parse_thresholds(message: Any) -> Thresholds:
    limits: dict[str, Any] = {
        name: value
        for name in ("max_connections", "max_pending_requests", "max_requests", "max_retries")
        if (value := optional(message, name)) is not None
    }
    if not message.HasField("retry_budget"):
        return Thresholds(**limits)
    budget = message.retry_budget
    least = optional(budget, "min_retry_concurrency")
    return Thresholds(
        **limits,
        retry_budget_percent=budget.budget_percent.value if budget.HasField("budget_percent") else 20.0,
        min_retry_concurrency=3 if least is None else least,
    )
