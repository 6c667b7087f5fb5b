"""Clusters and their endpoints as grpc-core takes them.

All ways to find endpoints (EDS, static, DNS) come out as EDS, since discovery has found them already; endpoints stand
in the shares, tiers and health that meshsdk's balancing has worked out (`balancing.allocation`). Aggregates stay what
they are, as each of their clusters has its own TLS.

Sources: gRFC A27 (EDS), A32 (circuit breaking), A37 (aggregates), A42 (ring hash), A58 (client side weights), A62
(pick first).
"""

from __future__ import annotations

from collections.abc import Sequence

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.extensions.clusters.aggregate.v3 import cluster_pb2 as aggregate_pb2
from envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3 import (
    client_side_weighted_round_robin_pb2,
)
from envoy.extensions.load_balancing_policies.pick_first.v3 import pick_first_pb2
from envoy.extensions.load_balancing_policies.wrr_locality.v3 import wrr_locality_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2

from ...balancing import Cluster
from ...balancing.allocation import Tier, allocate, innermost
from ...balancing.endpoint import Endpoint
from ...resources import AggregateDiscovery, LbPolicy, ResourceType
from ...resources.cluster import ClientSideWeightedRoundRobin, Maglev, PickFirst, RingHash
from .names import resource_name

__all__ = ["passthrough_cluster", "unusable_cluster", "write_cluster", "write_endpoints"]

_NO_LIMIT = 0xFFFFFFFF
# Weights of localities are whole numbers whose sum must fit 32 bits (gRFC A27).
_WEIGHT_UNITS = 1_000_000
# grpc-core makes no larger rings, and refuses to be asked for them (gRFC A42: 8M; its default cap is 4096).
_MAX_RING_SIZE = 4096


def write_cluster(mesh: str, cluster: Cluster, tls: tls_pb2.UpstreamTlsContext | None) -> cluster_pb2.Cluster:
    """The Cluster resource.

    Args:
        mesh: Id of the Mesh.
        cluster: The living cluster.
        tls: Its TLS settings, where it has any.
    """
    message = cluster_pb2.Cluster(name=resource_name(ResourceType.CLUSTER, mesh, cluster.name))
    discovery = cluster.config.discovery
    if isinstance(discovery, AggregateDiscovery):
        names = [resource_name(ResourceType.CLUSTER, mesh, name) for name in discovery.clusters]
        message.cluster_type.name = "envoy.clusters.aggregate"
        message.cluster_type.typed_config.Pack(aggregate_pb2.ClusterConfig(clusters=names))
        message.lb_policy = cluster_pb2.Cluster.ROUND_ROBIN  # grpc-core refuses CLUSTER_PROVIDED.
        return message
    message.type = cluster_pb2.Cluster.EDS
    message.eds_cluster_config.eds_config.ads.SetInParent()
    message.eds_cluster_config.service_name = resource_name(ResourceType.ENDPOINTS, mesh, cluster.name)
    _write_policy(innermost(cluster.config.lb_policy), message)
    limit = cluster.config.circuit_breakers.default.max_requests
    thresholds = message.circuit_breakers.thresholds.add()
    thresholds.max_requests.value = _NO_LIMIT if limit is None else limit
    reporting = cluster.config.load_reporting
    if reporting is not None:
        message.lrs_server.self.SetInParent()
        message.lrs_report_endpoint_metrics.extend(reporting.metrics)
    if tls is not None:
        message.transport_socket.name = "envoy.transport_sockets.tls"
        message.transport_socket.typed_config.Pack(tls)
    return message


def unusable_cluster(mesh: str, name: str) -> tuple[cluster_pb2.Cluster, endpoint_pb2.ClusterLoadAssignment]:
    """A cluster that nobody is behind: calls fail at once, where a cluster that is missing is waited for."""
    endpoints = endpoint_pb2.ClusterLoadAssignment(cluster_name=resource_name(ResourceType.ENDPOINTS, mesh, name))
    message = cluster_pb2.Cluster(name=resource_name(ResourceType.CLUSTER, mesh, name), type=cluster_pb2.Cluster.EDS)
    message.eds_cluster_config.eds_config.ads.SetInParent()
    message.eds_cluster_config.service_name = endpoints.cluster_name
    return message, endpoints


def passthrough_cluster(mesh: str, name: str, host: str, port: int) -> cluster_pb2.Cluster:
    """A cluster of a host outside the mesh, as a sidecar's PassthroughCluster: its name is looked up by grpc-core."""
    message = cluster_pb2.Cluster(name=resource_name(ResourceType.CLUSTER, mesh, name))
    message.type = cluster_pb2.Cluster.LOGICAL_DNS
    endpoint = message.load_assignment.endpoints.add().lb_endpoints.add().endpoint
    endpoint.address.socket_address.address = host
    endpoint.address.socket_address.port_value = port
    message.circuit_breakers.thresholds.add().max_requests.value = _NO_LIMIT
    return message


def _write_policy(policy: LbPolicy, message: cluster_pb2.Cluster) -> None:
    """The policy, or round robin where grpc-core does not have it; `limits` says so."""
    if isinstance(policy, (RingHash, Maglev)):
        message.lb_policy = cluster_pb2.Cluster.RING_HASH
        if isinstance(policy, RingHash):
            config = message.ring_hash_lb_config
            config.minimum_ring_size.value = min(policy.minimum_ring_size, _MAX_RING_SIZE)
            config.maximum_ring_size.value = min(policy.maximum_ring_size, _MAX_RING_SIZE)
    elif isinstance(policy, PickFirst):
        entry = message.load_balancing_policy.policies.add().typed_extension_config
        entry.name = "pick_first"
        entry.typed_config.Pack(pick_first_pb2.PickFirst(shuffle_address_list=policy.shuffle))
    elif isinstance(policy, ClientSideWeightedRoundRobin):
        locality = wrr_locality_pb2.WrrLocality()
        inner = locality.endpoint_picking_policy.policies.add().typed_extension_config
        inner.name = "client_side_weighted_round_robin"
        inner.typed_config.Pack(_client_side_weights(policy))
        entry = message.load_balancing_policy.policies.add().typed_extension_config
        entry.name = "wrr_locality"
        entry.typed_config.Pack(locality)
    else:
        message.lb_policy = cluster_pb2.Cluster.ROUND_ROBIN


def _client_side_weights(
    policy: ClientSideWeightedRoundRobin,
) -> client_side_weighted_round_robin_pb2.ClientSideWeightedRoundRobin:
    message = client_side_weighted_round_robin_pb2.ClientSideWeightedRoundRobin()
    message.blackout_period.FromMilliseconds(round(policy.blackout_seconds * 1000))
    message.weight_expiration_period.FromMilliseconds(round(policy.expiration_seconds * 1000))
    message.weight_update_period.FromMilliseconds(round(policy.update_seconds * 1000))
    message.error_utilization_penalty.value = policy.error_utilization_penalty
    message.metric_names_for_computing_utilization.extend(policy.metric_names)
    return message


def write_endpoints(mesh: str, cluster: Cluster) -> endpoint_pb2.ClusterLoadAssignment:
    """The ClusterLoadAssignment resource: who gets traffic now, and who would get it next."""
    name = resource_name(ResourceType.ENDPOINTS, mesh, cluster.name)
    message = endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
    for priority, tier in enumerate(allocate(cluster)):
        _write_tier(priority, tier, message)
    kept = 1.0
    for category, share in cluster.endpoints_config.drop_categories if cluster.endpoints_config is not None else ():
        # Of what those before it let through.
        overload = message.policy.drop_overloads.add(category=category)
        overload.drop_percentage.numerator = round((1 - (1 - share) / kept) * 1_000_000) if kept else 0
        overload.drop_percentage.denominator = 2  # MILLION
        kept = 1 - share
    return message


def _write_tier(priority: int, tier: Tier, message: endpoint_pb2.ClusterLoadAssignment) -> None:
    total = sum(share.weight for share in tier)
    seen: dict[tuple[str, str, str], int] = {}
    for share in tier:
        endpoints = [one for one in share.endpoints if not one.address.is_unix]
        if not endpoints:
            continue
        place = (share.locality.region, share.locality.zone, share.locality.sub_zone)
        number = seen[place] = seen.get(place, 0) + 1
        locality = message.endpoints.add(priority=priority)
        locality.locality.region, locality.locality.zone, locality.locality.sub_zone = place
        if number > 1:
            # gRFC A27: a locality stands once in a priority.
            locality.locality.sub_zone += f"#{number}"
        locality.load_balancing_weight.value = max(1, round(share.weight / total * _WEIGHT_UNITS))
        _write_share(endpoints, locality)


def _write_share(endpoints: Sequence[Endpoint], locality: endpoint_pb2.LocalityLbEndpoints) -> None:
    for one in endpoints:
        entry = locality.lb_endpoints.add(health_status=1)  # HEALTHY: the others have been left out.
        entry.load_balancing_weight.value = one.weight
        entry.endpoint.hostname = one.config.hostname
        address = entry.endpoint.address.socket_address
        address.address, address.port_value = one.address.host, one.address.port
