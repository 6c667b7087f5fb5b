"""xDS resources written as YAML: documents with an "@type"."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pool, json_format, symbol_database

from ..errors import ConfigError, ResourceError
from ..resources import RESOURCE_TYPES, ResourceType, decode, resource_name
from .documents import Document
from .kinds import UnreadablePolicy, did_you_mean

__all__ = ["RawResource", "import_types", "pack_raw", "parse_raw"]

RawResource = tuple[ResourceType, str, bytes]


def parse_raw(document: Document, warnings: list[str]) -> RawResource:
    """A document that is an xDS resource.

    Raises:
        UnreadablePolicy: It is, or may be, the listener of a server.
        ConfigError: It is of a type that is not served, has an unknown field, or breaks a validation rule.
    """
    try:
        return _parse(document, warnings)
    except ConfigError as error:
        if _may_be_of_server(document):
            raise UnreadablePolicy(error.where, error.problem) from error
        raise


_SERVED = [kind.type_url for kind in ResourceType if kind is not ResourceType.SECRET]

# Without one of these, a server that needs it has no policy: nobody gets in.
_NEEDED = (ResourceType.CLUSTER.type_url, ResourceType.ENDPOINTS.type_url, ResourceType.ROUTE_CONFIGURATION.type_url)


def _may_be_of_server(document: Document) -> bool:
    is_of_client = "api_listener" in document.data or "apiListener" in document.data
    return not is_of_client and document.data["@type"] not in _NEEDED


def pack_raw(data: Mapping[Any, Any], where: str) -> tuple[ResourceType, bytes]:
    """The type and the bytes of an xDS resource in the shape of JSON, whether or not a client would take it.

    Raises:
        ConfigError: It is of a type that is not served, or has an unknown field.
    """
    body = dict(data)
    type_url = str(body.pop("@type", ""))
    kind = RESOURCE_TYPES.get(type_url)
    # Whatever a folder has is served to anybody.
    if kind is None or kind is ResourceType.SECRET:
        near = did_you_mean(type_url, RESOURCE_TYPES, 0.9)
        raise ConfigError(f"{where}.@type", f"must be one of {_SERVED}, is {type_url!r}{near}")
    message = symbol_database.Default().GetSymbol(type_url.rpartition("/")[2])()
    import_types(body)
    try:
        json_format.ParseDict(body, message, descriptor_pool=descriptor_pool.Default(), max_recursion_depth=100)
    except (json_format.ParseError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(where, " ".join(str(error).split())) from error
    return kind, message.SerializeToString(deterministic=True)


def _parse(document: Document, warnings: list[str]) -> RawResource:
    kind, packed = pack_raw(document.data, document.where)
    body = document.data
    try:
        resource = decode(kind, packed)
    except ResourceError as error:
        if kind is not ResourceType.LISTENER or "api_listener" in body or "apiListener" in body:
            raise ConfigError(f"{document.where}: {error.field}", error.problem) from error
        # A server of this process could not use this listener, but an Envoy may.
        warnings.append(f"{document.where}: {error.field}: {error.problem}; it is served to Envoys only")
    else:
        warnings.extend(f"{document.where}: {note}" for note in resource.notes)
    name = resource_name(kind, packed)
    if not name:
        raise ConfigError(f"{document.where}.name", "must be set: nobody could ask for it")
    return kind, name, packed


def import_types(value: Any) -> None:
    """Make the message types known that Any fields of the document name: xds-protos registers them on import."""
    if isinstance(value, dict):
        type_url = value.get("@type")
        if isinstance(type_url, str):
            _import_type(type_url.rpartition("/")[2])
        for entry in value.values():
            import_types(entry)
    elif isinstance(value, list):
        for entry in value:
            import_types(entry)


# Message types that raw resources may hold, by package. Nothing outside this list is ever imported.
_MODULES = {
    "envoy.config.trace.v3": "datadog dynamic_ot lightstep opentelemetry skywalking zipkin",
    "envoy.extensions.access_loggers.file.v3": "file",
    "envoy.extensions.access_loggers.filters.cel.v3": "cel",
    "envoy.extensions.access_loggers.grpc.v3": "als",
    "envoy.extensions.access_loggers.open_telemetry.v3": "logs_service",
    "envoy.extensions.access_loggers.stream.v3": "stream",
    "envoy.extensions.clusters.aggregate.v3": "cluster",
    "envoy.extensions.filters.http.adaptive_concurrency.v3": "adaptive_concurrency",
    "envoy.extensions.filters.http.admission_control.v3": "admission_control",
    "envoy.extensions.filters.http.buffer.v3": "buffer",
    "envoy.extensions.filters.http.cors.v3": "cors",
    "envoy.extensions.filters.http.csrf.v3": "csrf",
    "envoy.extensions.filters.http.ext_authz.v3": "ext_authz",
    "envoy.extensions.filters.http.fault.v3": "fault",
    "envoy.extensions.filters.http.grpc_stats.v3": "config",
    "envoy.extensions.filters.http.header_mutation.v3": "header_mutation",
    "envoy.extensions.filters.http.jwt_authn.v3": "config",
    "envoy.extensions.filters.http.local_ratelimit.v3": "local_rate_limit",
    "envoy.extensions.filters.http.ratelimit.v3": "rate_limit",
    "envoy.extensions.filters.http.rbac.v3": "rbac",
    "envoy.extensions.filters.http.router.v3": "router",
    "envoy.extensions.filters.http.set_filter_state.v3": "set_filter_state",
    "envoy.extensions.filters.http.stateful_session.v3": "stateful_session",
    "envoy.extensions.filters.listener.http_inspector.v3": "http_inspector",
    "envoy.extensions.filters.listener.original_dst.v3": "original_dst",
    "envoy.extensions.filters.listener.proxy_protocol.v3": "proxy_protocol",
    "envoy.extensions.filters.listener.tls_inspector.v3": "tls_inspector",
    "envoy.extensions.filters.network.http_connection_manager.v3": "http_connection_manager",
    "envoy.extensions.filters.network.tcp_proxy.v3": "tcp_proxy",
    "envoy.extensions.formatter.metadata.v3": "metadata",
    "envoy.extensions.formatter.req_without_query.v3": "req_without_query",
    "envoy.extensions.http.stateful_session.cookie.v3": "cookie",
    "envoy.extensions.http.stateful_session.header.v3": "header",
    "envoy.extensions.internal_redirect.allow_listed_routes.v3": "allow_listed_routes_config",
    "envoy.extensions.internal_redirect.previous_routes.v3": "previous_routes_config",
    "envoy.extensions.internal_redirect.safe_cross_scheme.v3": "safe_cross_scheme_config",
    "envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3": "client_side_weighted_round_robin",
    "envoy.extensions.load_balancing_policies.least_request.v3": "least_request",
    "envoy.extensions.load_balancing_policies.maglev.v3": "maglev",
    "envoy.extensions.load_balancing_policies.override_host.v3": "override_host",
    "envoy.extensions.load_balancing_policies.pick_first.v3": "pick_first",
    "envoy.extensions.load_balancing_policies.random.v3": "random",
    "envoy.extensions.load_balancing_policies.ring_hash.v3": "ring_hash",
    "envoy.extensions.load_balancing_policies.round_robin.v3": "round_robin",
    "envoy.extensions.load_balancing_policies.subset.v3": "subset",
    "envoy.extensions.load_balancing_policies.wrr_locality.v3": "wrr_locality",
    "envoy.extensions.matching.common_inputs.network.v3": "network_inputs",
    "envoy.extensions.matching.common_inputs.ssl.v3": "ssl_inputs",
    "envoy.extensions.matching.input_matchers.consistent_hashing.v3": "consistent_hashing",
    "envoy.extensions.matching.input_matchers.ip.v3": "ip",
    "envoy.extensions.matching.input_matchers.metadata.v3": "metadata",
    "envoy.extensions.matching.input_matchers.runtime_fraction.v3": "runtime_fraction",
    "envoy.extensions.path.match.uri_template.v3": "uri_template_match",
    "envoy.extensions.path.rewrite.uri_template.v3": "uri_template_rewrite",
    "envoy.extensions.rbac.matchers.upstream_ip_port.v3": "upstream_ip_port_matcher",
    "envoy.extensions.rbac.principals.mtls_authenticated.v3": "mtls_authenticated",
    "envoy.extensions.request_id.uuid.v3": "uuid",
    "envoy.extensions.retry.host.omit_canary_hosts.v3": "omit_canary_hosts",
    "envoy.extensions.retry.host.omit_host_metadata.v3": "omit_host_metadata_config",
    "envoy.extensions.retry.host.previous_hosts.v3": "previous_hosts",
    "envoy.extensions.retry.priority.previous_priorities.v3": "previous_priorities_config",
    "envoy.extensions.transport_sockets.raw_buffer.v3": "raw_buffer",
    "envoy.extensions.transport_sockets.tls.v3": "tls tls_spiffe_validator_config",
    "envoy.extensions.upstreams.http.v3": "http_protocol_options",
    "envoy.config.rbac.v3": "rbac",
    "envoy.config.route.v3": "route_components",
    "envoy.type.matcher.v3": "http_inputs",
    "xds.type.matcher.v3": "cel http_inputs ip",
}


def _import_type(full_name: str) -> None:
    package = full_name.rpartition(".")[0]
    for module in _MODULES.get(package, "").split():
        importlib.import_module(f"{package}.{module}_pb2")
