"""VirtualServices to routes, as istiod makes them (istio/istio pilot/pkg/networking/core/route/route.go)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3 import route_components_pb2 as pb
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from envoy.extensions.retry.priority.previous_priorities.v3 import previous_priorities_config_pb2

from .byte_routes import byte_destinations
from .client import Client
from .durations import set_seconds
from .http_rules import (
    Destination,
    HeaderOperations,
    HttpFault,
    HttpMatch,
    HttpRedirect,
    HttpRetry,
    HttpRoute,
    StringMatch,
    VirtualService,
    holds_for,
    is_internal_header,
)
from .names import cluster_name, original_name
from .protocols import BYTES
from .traffic_policy import ConsistentHash, DestinationRule
from .world import Port

__all__ = ["RouteInputs", "has_routes", "make_routes", "tell_grpc_of_timeouts"]

FAULT_FILTER = "envoy.filters.http.fault"

# Of a host that no rule is about.
_DEFAULT_ROUTE = "default"

# route.go, GetDestinationCluster: of a destination that is no host.
_UNKNOWN_CLUSTER = "UnknownService"

# istio/istio pilot/pkg/networking/core/route/retry/retry.go, newRetryPolicy: what is retried where nothing says so.
DEFAULT_RETRY_ON = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"
_HOST_SELECTION_ATTEMPTS = 5


class RouteInputs(NamedTuple):
    """All that the routes of a host depend on, at one port.

    Attributes:
        host: A service's, that of one of its pods, or one that is none and that rules are about.
        rules: That hold for it; the first one that has a route for the port has it.
        destination_rules: Of the hosts that requests may go to.
        external_names: Of those that are names of other services.
        looked_up: Those that are reached where the host itself is looked up.
        service: Of a pod's host: whose pod it is.
    """

    host: str
    port: Port
    rules: Sequence[VirtualService]
    destination_rules: Mapping[str, DestinationRule]
    external_names: Mapping[str, str]
    client: Client
    default_retry: HttpRetry
    looked_up: frozenset[str] = frozenset()
    service: str = ""

    @property
    def default_host(self) -> str:
        """Where requests go that no rule is about."""
        return self.service or self.host


def make_routes(inputs: RouteInputs) -> list[pb.Route]:
    """The routes of a host: of the first rule that has any for the port, or the one to the service itself."""
    if inputs.port.protocol in BYTES:
        # Rules about requests are not for it, and nothing in it is a request to try again.
        route = pb.Route(name=_DEFAULT_ROUTE)
        route.match.prefix = "/"
        destinations = byte_destinations(inputs.client, inputs.rules, inputs.default_host, inputs.port)
        _apply_destinations(inputs, route.route, destinations)
        _apply_timeout(route.route, None)
        return [route]
    for rule in inputs.rules:
        held = [*_held_matches(inputs.client, rule, inputs.port)]
        if held:
            return [_make_route(inputs, route, match) for route, match in held]
    return [_default_route(inputs)]


def tell_grpc_of_timeouts(routes: Iterable[pb.Route]) -> None:
    """gRPC knows a stream's longest duration in place of a timeout (route.go, setTimeout).

    To Envoy, and to us, that would be another timeout: one that holds while the request is sent, and ends it as `DT`.
    """
    for route in routes:
        if route.name != _DEFAULT_ROUTE and route.HasField("route"):
            route.route.ClearField("max_grpc_timeout")
            route.route.max_stream_duration.max_stream_duration.CopyFrom(route.route.timeout)


def has_routes(client: Client, rule: VirtualService, port: Port) -> bool:
    """Whether a rule has anything for a client at a port."""
    return any(True for _ in _held_matches(client, rule, port))


def _held_matches(client: Client, rule: VirtualService, port: Port) -> Iterator[tuple[HttpRoute, HttpMatch]]:
    for route in rule.routes:
        for match in route.matches or (HttpMatch(),):
            if holds_for(client, match, port.number):
                yield route, match


def _default_route(inputs: RouteInputs) -> pb.Route:
    route = pb.Route(name=_DEFAULT_ROUTE)
    route.match.prefix = "/"
    route.route.cluster = _cluster_of(inputs, Destination(inputs.default_host))
    rule = inputs.destination_rules.get(inputs.default_host)
    key = rule.hash_for(None, "", default_port=inputs.port.number) if rule is not None else None
    _apply_hash(route.route, [key])
    _apply_timeout(route.route, None)
    route.route.retry_policy.CopyFrom(_make_retry(inputs.default_retry, is_hashed=False))
    return route


def _make_route(inputs: RouteInputs, rule: HttpRoute, match: HttpMatch) -> pb.Route:
    name = f"{rule.name}.{match.name}" if match.name else rule.name
    route = pb.Route(name=name, match=_make_match(match))
    if rule.redirect is not None:
        _apply_redirect(route.redirect, rule.redirect, inputs.port)
    elif rule.direct_status is not None:
        route.direct_response.status = rule.direct_status
        if isinstance(rule.direct_body, bytes):
            route.direct_response.body.inline_bytes = rule.direct_body
        elif rule.direct_body:
            route.direct_response.body.inline_string = rule.direct_body
    else:
        _apply_forward(inputs, route.route, rule)
    _apply_headers(route, rule.request_headers, rule.response_headers)
    if len(rule.destinations) == 1:
        only = rule.destinations[0]
        _apply_headers(route, only.request_headers, only.response_headers)
    if rule.fault is not None:
        route.typed_per_filter_config[FAULT_FILTER].Pack(_make_fault(rule.fault))
    return route


def _make_match(match: HttpMatch) -> pb.RouteMatch:
    result = pb.RouteMatch()
    uri = match.uri
    if uri is None:
        result.prefix = "/"
    elif uri.kind == "exact":
        result.path = uri.value
    elif uri.kind == "path_separated_prefix" and uri.value != "/":
        result.path_separated_prefix = uri.value.removesuffix("/")
    elif uri.kind in ("prefix", "path_separated_prefix"):
        result.prefix = uri.value
    else:
        result.safe_regex.regex = uri.value
    if match.ignore_uri_case:
        result.case_sensitive.value = False
    pseudo = ((":scheme", match.scheme), (":method", match.method), (":authority", match.authority))
    for name, string in pseudo:
        if string is not None:
            _add_header_match(result, name, string)
    for name, value in match.headers.items():
        _add_header_match(result, name, value)
    for name, value in match.without_headers.items():
        header = _add_header_match(result, name, value)
        header.invert_match = True
        # route.go, translateHeaderMatch: "not v1" also holds for a request without the header.
        header.treat_missing_header_as_empty = value is not None
    for name, value in match.query_params.items():
        parameter = result.query_parameters.add(name=name)
        if value is None:
            parameter.present_match = True
        else:
            _set_string(parameter.string_match, value)
    return result


def _add_header_match(match: pb.RouteMatch, name: str, value: StringMatch | None) -> pb.HeaderMatcher:
    header = match.headers.add(name=name)
    if value is None:
        header.present_match = True
    else:
        _set_string(header.string_match, value)
    return header


def _set_string(target: object, match: StringMatch) -> None:
    if match.kind == "regex":
        target.safe_regex.regex = match.value  # type: ignore[attr-defined]
    else:
        setattr(target, match.kind, match.value)


def _apply_forward(inputs: RouteInputs, action: pb.RouteAction, rule: HttpRoute) -> None:
    if rule.missing_cluster_status == 500:
        action.cluster_not_found_response_code = pb.RouteAction.INTERNAL_SERVER_ERROR
    _apply_destinations(inputs, action, rule.destinations)
    is_split = len(rule.destinations) > 1
    keys = [_hash_of(inputs, one) for one in rule.destinations if one.weight or not is_split]
    _apply_hash(action, keys)
    _apply_timeout(action, rule.timeout_seconds)
    retry = rule.retry if rule.retry is not None else inputs.default_retry
    if retry.attempts:
        # route.go: of several destinations each hashes in its own way, and a retry may go elsewhere.
        is_hashed = not is_split and keys[0] is not None
        action.retry_policy.CopyFrom(_make_retry(retry, is_hashed=is_hashed))
    if rule.rewrite_uri:
        action.prefix_rewrite = rule.rewrite_uri
    if rule.rewrite_regex is not None:
        action.regex_rewrite.pattern.regex, action.regex_rewrite.substitution = rule.rewrite_regex
    authority = rule.rewrite_authority or rule.request_headers.authority
    if not authority and len(rule.destinations) == 1:
        authority = rule.destinations[0].request_headers.authority
    if authority:
        action.host_rewrite_literal = authority
    for destination, percent in rule.mirrors:
        mirror = action.request_mirror_policies.add(cluster=_cluster_of(inputs, destination))
        mirror.runtime_fraction.default_value.numerator = int(percent * 10_000)
        mirror.runtime_fraction.default_value.denominator = 2  # MILLION
        mirror.disable_shadow_host_suffix_append = True


def _apply_destinations(inputs: RouteInputs, action: pb.RouteAction, destinations: Sequence[Destination]) -> None:
    if len(destinations) == 1:
        action.cluster = _cluster_of(inputs, destinations[0])
        return
    for destination in destinations:
        if not destination.weight:
            continue
        weighted = action.weighted_clusters.clusters.add(name=_cluster_of(inputs, destination))
        weighted.weight.value = destination.weight
        _apply_headers(weighted, destination.request_headers, destination.response_headers)
        if destination.request_headers.authority:
            weighted.host_rewrite_literal = destination.request_headers.authority


def _hash_of(inputs: RouteInputs, destination: Destination) -> ConsistentHash | None:
    rule = inputs.destination_rules.get(destination.host)
    return rule.hash_for(destination.port, destination.subset) if rule is not None else None


def _apply_hash(action: pb.RouteAction, keys: Iterable[ConsistentHash | None]) -> None:
    """What requests are hashed by, from the DestinationRules of where they may go.

    istio/istio pilot/pkg/networking/core/route/route.go, ConsistentHashToHashPolicy.
    """
    for key in keys:
        if key is None:
            continue
        policy = pb.RouteAction.HashPolicy()
        if key.header:
            policy.header.header_name = key.header
        elif key.cookie:
            policy.cookie.name, policy.cookie.path = key.cookie, key.cookie_path
            if key.cookie_ttl_seconds is not None:
                set_seconds(policy.cookie.ttl, key.cookie_ttl_seconds)
        elif key.query_parameter:
            policy.query_parameter.name = key.query_parameter
        elif key.source_ip:
            policy.connection_properties.source_ip = True
        else:
            continue
        action.hash_policy.append(policy)


def _cluster_of(inputs: RouteInputs, destination: Destination) -> str:
    """route.go, GetDestinationCluster: without a port, the one that was asked for; a service's name is that service."""
    host = destination.host
    if not host:
        return _UNKNOWN_CLUSTER
    host = inputs.external_names.get(host, host)
    name = cluster_name(destination.port or inputs.port.number, destination.subset, host)
    return original_name(inputs.host, inputs.port.number, name) if host in inputs.looked_up else name


def _apply_timeout(action: pb.RouteAction, seconds: float | None) -> None:
    """Istio's default is no timeout, which Envoy writes as 0; what gRPC callers announce holds within it."""
    for field in (action.timeout, action.max_grpc_timeout):
        set_seconds(field, seconds or 0.0)
        field.SetInParent()


def _make_retry(retry: HttpRetry, *, is_hashed: bool) -> pb.RetryPolicy:
    """retry.go, ConvertPolicy: where requests are hashed, a retry stays with its host."""
    conditions, codes = [], []
    for word in (retry.retry_on or DEFAULT_RETRY_ON).split(","):
        word = word.strip()
        # retry.go, parseRetryOn: a number stands for a retriable status code.
        if word.isdecimal():
            codes.append(int(word))
        elif word:
            conditions.append(word)
    if codes and "retriable-status-codes" not in conditions:
        conditions.append("retriable-status-codes")
    policy = pb.RetryPolicy(retry_on=",".join(conditions), retriable_status_codes=codes)
    policy.num_retries.value = retry.attempts
    if retry.per_try_timeout_seconds:
        set_seconds(policy.per_try_timeout, retry.per_try_timeout_seconds)
    if retry.ignores_previous_hosts if retry.ignores_previous_hosts is not None else not is_hashed:
        predicate = policy.retry_host_predicate.add(name="envoy.retry_host_predicates.previous_hosts")
        predicate.typed_config.Pack(previous_hosts_pb2.PreviousHostsPredicate())
    if retry.uses_remote_localities:
        policy.retry_priority.name = "envoy.retry_priorities.previous_priorities"
        policy.retry_priority.typed_config.Pack(
            previous_priorities_config_pb2.PreviousPrioritiesConfig(update_frequency=2)
        )
    if retry.backoff_seconds:
        set_seconds(policy.retry_back_off.base_interval, retry.backoff_seconds)
    policy.host_selection_retry_max_attempts = _HOST_SELECTION_ATTEMPTS
    return policy


# What need not stand in a URL.
_DEFAULT_PORTS = {"http": 80, "https": 443}


def _apply_redirect(action: pb.RedirectAction, redirect: HttpRedirect, port: Port) -> None:
    codes = {301: 0, 302: 1, 303: 2, 307: 3, 308: 4}
    action.response_code = codes[redirect.code]
    if redirect.prefix_rewrite:
        action.prefix_rewrite = redirect.prefix_rewrite
    elif redirect.uri:
        action.path_redirect = redirect.uri
    if redirect.authority:
        action.host_redirect = redirect.authority
    if redirect.scheme:
        action.scheme_redirect = redirect.scheme
    number = port.number if redirect.keeps_request_port else redirect.port
    if number is not None and number != _DEFAULT_PORTS.get(redirect.scheme or "http"):
        action.port_redirect = number


def _apply_headers(target: object, request: HeaderOperations, response: HeaderOperations) -> None:
    """Onto a Route or a ClusterWeight."""
    for direction, operations in (("request", request), ("response", response)):
        to_add = getattr(target, f"{direction}_headers_to_add")
        to_add.extend(_additions(operations.set, base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD))
        to_add.extend(_additions(operations.add, base_pb2.HeaderValueOption.APPEND_IF_EXISTS_OR_ADD))
        kept = [name for name in operations.remove if not is_internal_header(name)]
        getattr(target, f"{direction}_headers_to_remove").extend(kept)


def _additions(headers: Mapping[str, str], action: int) -> Iterable[base_pb2.HeaderValueOption]:
    for name, value in headers.items():
        if is_internal_header(name):
            continue  # The host is rewritten; the others are not changed by headers.
        option = base_pb2.HeaderValueOption(append_action=action)
        option.header.key, option.header.value = name, value
        yield option


def _make_fault(fault: HttpFault) -> fault_pb2.HTTPFault:
    result = fault_pb2.HTTPFault()
    if fault.delay_seconds:
        set_seconds(result.delay.fixed_delay, fault.delay_seconds)
        result.delay.percentage.numerator = int(fault.delay_percent * 10_000)
        result.delay.percentage.denominator = 2  # MILLION
    if fault.abort_status or fault.abort_grpc_status is not None:
        if fault.abort_grpc_status is not None:
            result.abort.grpc_status = fault.abort_grpc_status
        else:
            result.abort.http_status = fault.abort_status
        result.abort.percentage.numerator = int(fault.abort_percent * 10_000)
        result.abort.percentage.denominator = 2
    return result
