"""Services to clusters and endpoints, as istiod makes them (istio/istio pilot/pkg/networking/core/cluster*.go)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2
from envoy.config.core.v3 import protocol_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf.message import Message

from ..errors import ConfigError
from .client import Client
from .client_rules import ClientRules
from .cluster_tls import HTTP_OPTIONS, apply_tls, match_tls, mutual_tls, with_providers
from .durations import set_seconds
from .inbound import peer_mode
from .labels import has_labels
from .locality import EVERYWHERE, apply_locality, distribution_of, weighs_localities
from .names import cluster_name
from .protocols import HTTP2, UNTOLD
from .security_world import MeshConfig, PeerAuthentication
from .traffic_policy import (
    NO_POLICY,
    ClientTls,
    ConnectionPool,
    DestinationRule,
    LoadBalancer,
    LocalitySetting,
    OutlierDetection,
    TcpKeepalive,
    TlsMode,
    TrafficPolicy,
    Warmup,
)
from .workload_names import told_of_endpoint
from .world import NOT_SAYABLE, TLS_LABEL, EndpointEntry, MeshDefaults, Port, Resolution, Service, Workload

__all__ = ["ClusterInputs", "cluster_inputs", "for_grpc_core", "make_clusters"]

# Istio's defaults (mesh/v1alpha1/config.proto; pilot/pkg/networking/core/cluster_traffic_policy.go).
_CONNECT_TIMEOUT_SECONDS = 10.0
_NO_LIMIT = 0xFFFFFFFF
_DNS_REFRESH_SECONDS = 60
_RING_SIZE = 1024

_BALANCERS = {
    "": cluster_pb2.Cluster.LEAST_REQUEST,
    "UNSPECIFIED": cluster_pb2.Cluster.LEAST_REQUEST,
    "LEAST_REQUEST": cluster_pb2.Cluster.LEAST_REQUEST,
    "LEAST_CONN": cluster_pb2.Cluster.LEAST_REQUEST,
    "ROUND_ROBIN": cluster_pb2.Cluster.ROUND_ROBIN,
    "RANDOM": cluster_pb2.Cluster.RANDOM,
}


def for_grpc_core(cluster: Message) -> Message:
    """A cluster with what grpc-core takes: it knows ROUND_ROBIN and RING_HASH, and refuses the others."""
    assert isinstance(cluster, cluster_pb2.Cluster)
    adapted = cluster_pb2.Cluster()
    adapted.CopyFrom(cluster)
    if cluster.lb_policy in (cluster_pb2.Cluster.LEAST_REQUEST, cluster_pb2.Cluster.RANDOM):
        # As istiod does for gRPC clients (pilot/pkg/networking/grpcgen/cds.go).
        adapted.lb_policy = cluster_pb2.Cluster.ROUND_ROBIN
    with_providers(adapted)
    result: Message = adapted
    return result


class ClusterInputs(NamedTuple):
    """All that the clusters of a service depend on.

    Attributes:
        peers: The oldest first; those of other namespaces than the service's and the root have no say.
    """

    service: Service
    rule: DestinationRule | None
    client: Client
    defaults: MeshDefaults
    mesh: MeshConfig
    peers: Sequence[PeerAuthentication]


def cluster_inputs(
    services: Iterable[Service],
    rules: ClientRules,
    client: Client,
    defaults: MeshDefaults,
    mesh: MeshConfig,
    peers: Sequence[PeerAuthentication],
) -> Iterator[ClusterInputs]:
    """Of each service that has clusters."""
    of_namespace: dict[str, list[PeerAuthentication]] = {}
    for service in services:
        if service.resolution is Resolution.NONE or service.external_name:
            continue  # Istio sends those to their original destination; here such a host is passed through.
        rule = rules.of(service.host)
        if rule is not None and rule.is_broken:
            continue  # It may ask for TLS: requests fail until it can be read.
        namespace = service.namespace
        if namespace not in of_namespace:
            of_namespace[namespace] = [one for one in peers if one.namespace in (namespace, mesh.root_namespace)]
        yield ClusterInputs(service, rule, client, defaults, mesh, of_namespace[namespace])


def make_clusters(inputs: ClusterInputs, errors: list[ConfigError]) -> list[Message]:
    """Every cluster and ClusterLoadAssignment of a service: one of each port, and of each of its subsets.

    Args:
        inputs: What they are made of.
        errors: Where it is told that there are none, since xDS cannot say them.
    """
    service = inputs.service
    try:
        return [one for port in service.ports for one in _make_port(inputs, port)]
    except NOT_SAYABLE as error:
        errors.append(ConfigError(service.where or service.host, f"cannot be said in xDS: {error}"))
        return []


def _make_port(inputs: ClusterInputs, port: Port) -> Iterable[Message]:
    rule, entries = inputs.rule, inputs.service.endpoints.get(port.number, [])
    policy = rule.policy_for(port.number) if rule is not None else NO_POLICY
    mode = rule.tls_mode(port.number) if rule is not None else None
    yield from _make_cluster(inputs, port, "", entries, policy, mode)
    for subset in rule.subsets if rule is not None else ():
        # What is looked up has no labels, and istiod passes its subsets through as it does the whole.
        chosen = [entry for entry in entries if inputs.service.is_looked_up or has_labels(entry.labels, subset.labels)]
        assert rule is not None
        merged = rule.policy_for(port.number, subset.name)
        mode = rule.tls_mode(port.number, subset.name)
        yield from _make_cluster(inputs, port, subset.name, chosen, merged, mode)


def _make_cluster(
    inputs: ClusterInputs,
    port: Port,
    subset: str,
    entries: Sequence[EndpointEntry],
    policy: TrafficPolicy,
    mode: TlsMode | None,
) -> Iterable[Message]:
    service = inputs.service
    if service.resolution is not Resolution.STATIC and not entries:
        return  # There is nothing to look up (cluster_builder.go, buildCluster).
    name = cluster_name(port.number, subset, service.host)
    cluster = cluster_pb2.Cluster(name=name)
    if service.is_external:
        # cluster_builder.go: whoever is outside the mesh is not told who calls.
        cluster.metadata.filter_metadata["istio"]["external"] = True
    # Envoy's default of 50 does not suit small services: istiod switches panic off unless minHealthPercent is given.
    cluster.common_lb_config.healthy_panic_threshold.value = 0
    connect_seconds = inputs.defaults.connect_timeout_seconds or _CONNECT_TIMEOUT_SECONDS
    set_seconds(cluster.connect_timeout, connect_seconds)
    mutual = _auto_mutual(inputs, entries, mode) if policy.tls is None else frozenset()
    assignment = _make_assignment(inputs, name, entries, mutual, policy)
    match service.resolution:
        case Resolution.STATIC:
            cluster.type = cluster_pb2.Cluster.EDS
            cluster.eds_cluster_config.eds_config.ads.SetInParent()
            cluster.eds_cluster_config.eds_config.resource_api_version = 2  # V3
            cluster.eds_cluster_config.service_name = name
        case Resolution.DNS_ROUND_ROBIN:
            cluster.type = cluster_pb2.Cluster.LOGICAL_DNS
        case _:
            cluster.type = cluster_pb2.Cluster.STRICT_DNS
    if service.resolution is not Resolution.STATIC:
        cluster.load_assignment.CopyFrom(assignment)
        cluster.dns_refresh_rate.seconds = _DNS_REFRESH_SECONDS
        cluster.dns_lookup_family = cluster_pb2.Cluster.V4_ONLY
    _apply_policy(cluster, port, policy, inputs)
    setting = _locality_setting(inputs, policy)
    fails_over = policy.outlier_detection is not None or setting is distribution_of(service)
    if setting is not None and weighs_localities(setting, fails_over=fails_over):
        cluster.common_lb_config.locality_weighted_lb_config.SetInParent()
    if mutual:
        match_tls(cluster, mutual_tls(cluster, ClientTls(TlsMode.ISTIO_MUTUAL), service, inputs.mesh))
    yield cluster
    if service.resolution is Resolution.STATIC:
        yield assignment


def _auto_mutual(inputs: ClusterInputs, entries: Sequence[EndpointEntry], mode: TlsMode | None) -> frozenset[int]:
    """Places of the endpoints that mutual TLS is spoken with though no DestinationRule says so (Istio: auto mTLS).

    They say by a label that they can, and their PeerAuthentication does not switch it off. Where a rule says something
    of TLS, but not where it would hold for this port, they are marked by that (mtls_checker.go, checkMtlsEnabled).
    """
    if not inputs.mesh.enable_auto_mtls:
        return frozenset()
    if mode not in (None, TlsMode.ISTIO_MUTUAL):
        return frozenset()
    return frozenset(
        place
        for place, entry in enumerate(entries)
        if entry.labels.get(TLS_LABEL) == "istio" and (mode is not None or _peer_mode(inputs, entry) != "DISABLE")
    )


def _peer_mode(inputs: ClusterInputs, entry: EndpointEntry) -> str:
    workload = Workload(entry.address, inputs.service.namespace, entry.labels)
    return peer_mode(inputs.mesh, inputs.peers, workload, entry.port)


def _make_assignment(
    inputs: ClusterInputs,
    name: str,
    entries: Sequence[EndpointEntry],
    mutual: frozenset[int],
    policy: TrafficPolicy,
) -> endpoint_pb2.ClusterLoadAssignment:
    assignment = endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
    by_locality: dict[str, list[tuple[EndpointEntry, bool]]] = {}
    for place, entry in enumerate(entries):
        by_locality.setdefault(entry.locality, []).append((entry, place in mutual))
    for locality, members in by_locality.items():
        group = assignment.endpoints.add()
        region, _, rest = locality.partition("/")
        zone, _, sub_zone = rest.partition("/")
        group.locality.region, group.locality.zone, group.locality.sub_zone = region, zone, sub_zone
        # istiod: a locality weighs what its endpoints weigh together.
        group.load_balancing_weight.value = sum(member.weight or 1 for member, _ in members)
        for member, is_mutual in members:
            group.lb_endpoints.append(_make_endpoint(member, inputs.service.namespace, is_mutual=is_mutual))
    setting = _locality_setting(inputs, policy)
    if setting is not None:
        whose = [[member for member, _ in members] for members in by_locality.values()]
        fails_over = policy.outlier_detection is not None or setting is distribution_of(inputs.service)
        apply_locality(assignment, whose, inputs.client, setting, fails_over=fails_over)
    return assignment


def _locality_setting(inputs: ClusterInputs, policy: TrafficPolicy) -> LocalitySetting | None:
    """The rule's, the service's, or the mesh's; None where it is switched off, and where nobody knows who serves."""
    if inputs.service.is_looked_up:
        return None
    own = policy.load_balancer.locality if policy.load_balancer is not None else None
    setting = own or distribution_of(inputs.service) or inputs.defaults.locality or EVERYWHERE
    return setting if setting.is_enabled else None


def _make_endpoint(entry: EndpointEntry, namespace: str, *, is_mutual: bool) -> endpoint_components_pb2.LbEndpoint:
    endpoint = endpoint_components_pb2.LbEndpoint()
    told = told_of_endpoint(entry.workload, namespace, entry.labels)
    endpoint.metadata.filter_metadata["istio"]["workload"] = told
    if is_mutual:
        endpoint.metadata.filter_metadata["envoy.transport_socket_match"]["tlsMode"] = "istio"
    endpoint.load_balancing_weight.value = entry.weight or 1
    if not entry.is_ready:
        endpoint.health_status = 2  # UNHEALTHY
    address = endpoint.endpoint.address
    if entry.address.startswith("unix://"):
        address.pipe.path = entry.address.removeprefix("unix://")
    else:
        address.socket_address.address = entry.address
        address.socket_address.port_value = entry.port
    return endpoint


def _apply_policy(cluster: cluster_pb2.Cluster, port: Port, policy: TrafficPolicy, inputs: ClusterInputs) -> None:
    pool = policy.connection_pool or ConnectionPool()
    if pool.connect_timeout_seconds is not None:
        set_seconds(cluster.connect_timeout, pool.connect_timeout_seconds)
    _apply_balancer(cluster, policy.load_balancer or LoadBalancer())
    _apply_limits(cluster, pool)
    _apply_protocol(cluster, port, pool)
    if pool.keepalive is not None:
        _apply_keepalive(cluster, pool.keepalive)
    if policy.outlier_detection is not None:
        _apply_outlier(cluster, policy.outlier_detection)
    if policy.tls is not None:
        apply_tls(cluster, policy.tls, inputs.service, inputs.mesh)


def _apply_balancer(cluster: cluster_pb2.Cluster, balancer: LoadBalancer) -> None:
    hashing = balancer.consistent_hash
    if hashing is not None and hashing.is_maglev:
        cluster.lb_policy = cluster_pb2.Cluster.MAGLEV
        if hashing.maglev_table_size:
            cluster.maglev_lb_config.table_size.value = hashing.maglev_table_size
        return
    if hashing is not None:
        cluster.lb_policy = cluster_pb2.Cluster.RING_HASH
        # ConsistentHashLB.minimumRingSize: 1024 by default.
        size = hashing.minimum_ring_size or (None if hashing.is_ring else _RING_SIZE)
        if size:
            cluster.ring_hash_lb_config.minimum_ring_size.value = size
        return
    cluster.lb_policy = _BALANCERS.get(balancer.simple, cluster_pb2.Cluster.LEAST_REQUEST)
    if balancer.warmup is not None:
        _apply_warmup(cluster, balancer.warmup)


def _apply_warmup(cluster: cluster_pb2.Cluster, warmup: Warmup) -> None:
    if cluster.lb_policy == cluster_pb2.Cluster.ROUND_ROBIN:
        slow_start = cluster.round_robin_lb_config.slow_start_config
    elif cluster.lb_policy == cluster_pb2.Cluster.LEAST_REQUEST:
        slow_start = cluster.least_request_lb_config.slow_start_config
    else:
        return
    set_seconds(slow_start.slow_start_window, warmup.seconds)
    slow_start.aggression.default_value, slow_start.aggression.runtime_key = warmup.aggression, "("
    slow_start.min_weight_percent.value = warmup.minimum_percent


def _apply_limits(cluster: cluster_pb2.Cluster, pool: ConnectionPool) -> None:
    thresholds: circuit_breaker_pb2.CircuitBreakers.Thresholds = cluster.circuit_breakers.thresholds.add()
    for name, value in (
        ("max_connections", pool.max_connections),
        ("max_pending_requests", pool.pending_requests),
        ("max_requests", pool.max_requests),
        ("max_retries", pool.max_retries),
    ):
        # cluster_traffic_policy.go: 0 is not set, too.
        getattr(thresholds, name).value = value or _NO_LIMIT


def _apply_protocol(cluster: cluster_pb2.Cluster, port: Port, pool: ConnectionPool) -> None:
    options = http_protocol_options_pb2.HttpProtocolOptions()
    common: protocol_pb2.HttpProtocolOptions = options.common_http_protocol_options
    for name, seconds in (
        ("idle_timeout", pool.idle_timeout_seconds),
        ("max_connection_duration", pool.max_connection_seconds),
    ):
        if seconds is not None:
            set_seconds(getattr(common, name), seconds)
    if pool.max_requests_per_connection:
        common.max_requests_per_connection.value = pool.max_requests_per_connection
    if pool.uses_clients_protocol or (port.protocol == UNTOLD and not pool.use_http2):
        # cluster_builder.go, setUseDownstreamProtocol
        options.use_downstream_protocol_config.http_protocol_options.SetInParent()
        options.use_downstream_protocol_config.http2_protocol_options.SetInParent()
    elif port.protocol in HTTP2 or pool.use_http2:
        http2 = options.explicit_http_config.http2_protocol_options
        http2.SetInParent()
        if pool.max_concurrent_streams:
            http2.max_concurrent_streams.value = pool.max_concurrent_streams
    elif options.ListFields():
        options.explicit_http_config.http_protocol_options.SetInParent()
    if options.ListFields():
        cluster.typed_extension_protocol_options[HTTP_OPTIONS].Pack(options)


def _apply_keepalive(cluster: cluster_pb2.Cluster, keepalive: TcpKeepalive) -> None:
    target = cluster.upstream_connection_options.tcp_keepalive
    target.SetInParent()
    for name, value in (
        ("keepalive_probes", keepalive.probes),
        ("keepalive_time", keepalive.time_seconds),
        ("keepalive_interval", keepalive.interval_seconds),
    ):
        if value:
            getattr(target, name).value = int(value)


def _apply_outlier(cluster: cluster_pb2.Cluster, outlier: OutlierDetection) -> None:
    """pilot/pkg/networking/core/cluster_traffic_policy.go, applyOutlierDetection."""
    target = cluster.outlier_detection
    # Success-rate ejection is Envoy's default and not Istio's.
    target.enforcing_success_rate.value = 0
    if outlier.interval_seconds is not None:
        set_seconds(target.interval, outlier.interval_seconds)
    if outlier.base_ejection_seconds is not None:
        set_seconds(target.base_ejection_time, outlier.base_ejection_seconds)
    if outlier.max_ejection_percent:
        target.max_ejection_percent.value = outlier.max_ejection_percent
    if outlier.consecutive_5xx is not None:
        target.consecutive_5xx.value = outlier.consecutive_5xx
        target.enforcing_consecutive_5xx.value = 100 if outlier.consecutive_5xx else 0
    if outlier.consecutive_gateway_errors is not None:
        target.consecutive_gateway_failure.value = outlier.consecutive_gateway_errors
        target.enforcing_consecutive_gateway_failure.value = 100 if outlier.consecutive_gateway_errors else 0
    if outlier.split_local_origin:
        target.split_external_local_origin_errors = True
        if outlier.consecutive_local_origin_failures:
            target.consecutive_local_origin_failure.value = outlier.consecutive_local_origin_failures
            target.enforcing_consecutive_local_origin_failure.value = 100
        target.enforcing_local_origin_success_rate.value = 0
    cluster.common_lb_config.healthy_panic_threshold.value = outlier.min_health_percent or 0
