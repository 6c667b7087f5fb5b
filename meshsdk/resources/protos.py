"""The protobuf modules that resources are parsed from, each loaded when it is first asked for.

There are a hundred with what they import, and they take as long to load as the rest of meshsdk; a process that only
imports meshsdk, or has no use for a filter, need not wait for them.
"""

from __future__ import annotations

import importlib
from typing import Any

# Where each is. One of a name that another has too is given by its whole name.
_BALANCING = "envoy.extensions.load_balancing_policies"
_PLACES = {
    "accesslog_pb2": "envoy.config.accesslog.v3",
    "aggregate_pb2": "envoy.extensions.clusters.aggregate.v3.cluster_pb2",
    "allow_listed_routes_config_pb2": "envoy.extensions.internal_redirect.allow_listed_routes.v3",
    "als_pb2": "envoy.extensions.access_loggers.grpc.v3",
    "any_pb2": "google.protobuf",
    "base_pb2": "envoy.config.core.v3",
    "buffer_pb2": "envoy.extensions.filters.http.buffer.v3",
    "cel_filter_pb2": "envoy.extensions.access_loggers.filters.cel.v3.cel_pb2",
    "cel_pb2": "xds.type.matcher.v3",
    "client_side_weighted_round_robin_pb2": f"{_BALANCING}.client_side_weighted_round_robin.v3",
    "cluster_pb2": "envoy.config.cluster.v3",
    "consistent_hashing_pb2": "envoy.extensions.matching.input_matchers.consistent_hashing.v3",
    "cookie_pb2": "envoy.extensions.http.stateful_session.cookie.v3",
    "endpoint_pb2": "envoy.config.endpoint.v3",
    "fault_pb2": "envoy.extensions.filters.http.fault.v3",
    "file_pb2": "envoy.extensions.access_loggers.file.v3",
    "header_mutation_pb2": "envoy.extensions.filters.http.header_mutation.v3",
    "header_pb2": "envoy.extensions.http.stateful_session.header.v3",
    "http_connection_manager_pb2": "envoy.extensions.filters.network.http_connection_manager.v3",
    "http_protocol_options_pb2": "envoy.extensions.upstreams.http.v3",
    "ip_pb2": "envoy.extensions.matching.input_matchers.ip.v3",
    "json_format": "google.protobuf",
    "least_request_pb2": "envoy.extensions.load_balancing_policies.least_request.v3",
    "listener_pb2": "envoy.config.listener.v3",
    "local_rate_limit_pb2": "envoy.extensions.filters.http.local_ratelimit.v3",
    "maglev_pb2": "envoy.extensions.load_balancing_policies.maglev.v3",
    "metadata_pb2": "envoy.extensions.matching.input_matchers.metadata.v3",
    "omit_host_metadata_config_pb2": "envoy.extensions.retry.host.omit_host_metadata.v3",
    "otel_log_pb2": "envoy.extensions.access_loggers.open_telemetry.v3.logs_service_pb2",
    "override_host_pb2": "envoy.extensions.load_balancing_policies.override_host.v3",
    "pick_first_pb2": "envoy.extensions.load_balancing_policies.pick_first.v3",
    "previous_priorities_config_pb2": "envoy.extensions.retry.priority.previous_priorities.v3",
    "random_pb2": "envoy.extensions.load_balancing_policies.random.v3",
    "ring_hash_pb2": "envoy.extensions.load_balancing_policies.ring_hash.v3",
    "round_robin_pb2": "envoy.extensions.load_balancing_policies.round_robin.v3",
    "route_components_pb2": "envoy.config.route.v3",
    "route_pb2": "envoy.config.route.v3",
    "router_pb2": "envoy.extensions.filters.http.router.v3",
    "runtime_fraction_pb2": "envoy.extensions.matching.input_matchers.runtime_fraction.v3",
    "secret_pb2": "envoy.extensions.transport_sockets.tls.v3",
    "stateful_session_pb2": "envoy.extensions.filters.http.stateful_session.v3",
    "stream_pb2": "envoy.extensions.access_loggers.stream.v3",
    "subset_pb2": "envoy.extensions.load_balancing_policies.subset.v3",
    "syntax_pb2": "google.api.expr.v1alpha1",
    "timestamp_pb2": "google.protobuf",
    "tcp_proxy_pb2": "envoy.extensions.filters.network.tcp_proxy.v3",
    "typed_struct_pb2": "xds.type.v3",
    "tls_pb2": "envoy.extensions.transport_sockets.tls.v3",
    "tls_spiffe_validator_config_pb2": "envoy.extensions.transport_sockets.tls.v3",
    "unknown_fields": "google.protobuf",
    "uri_template_match_pb2": "envoy.extensions.path.match.uri_template.v3",
    "uri_template_rewrite_pb2": "envoy.extensions.path.rewrite.uri_template.v3",
    "uuid_pb2": "envoy.extensions.request_id.uuid.v3",
    "validate_pb2": "validate",
    "wrr_locality_pb2": "envoy.extensions.load_balancing_policies.wrr_locality.v3",
}


def __getattr__(name: str) -> Any:
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = place if place.endswith("_pb2") else f"{place}.{name}"
    loaded = globals()[name] = importlib.import_module(module)
    return loaded
