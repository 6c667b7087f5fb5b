"""VirtualServices to virtual hosts, as istiod makes them (istio/istio pilot/pkg/networking/core/route/route.go)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3 import route_components_pb2 as pb
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from envoy.extensions.retry.priority.previous_priorities.v3 import previous_priorities_config_pb2

from .clusters import policy_for
from .names import cluster_name
from .world import (
    Destination,
    HeaderOperations,
    HttpFault,
    HttpMatch,
    HttpRedirect,
    HttpRetry,
    HttpRoute,
    Port,
    Service,
    StringMatch,
    VirtualService,
    World,
    is_internal_header,
)

__all__ = ["make_virtual_host"]

FAULT_FILTER = "envoy.filters.http.fault"

# Protocols of ports that a sidecar passes on as they are (Istio docs, protocol-selection).
_BYTES = frozenset(["TCP", "TLS", "HTTPS", "MONGO", "MYSQL", "REDIS"])

# istio/istio pilot/pkg/networking/core/route/retry/retry.go, newRetryPolicy: what is retried where nothing says so.
DEFAULT_RETRY_ON = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"
DEFAULT_RETRY = HttpRetry(attempts=2)
_HOST_SELECTION_ATTEMPTS = 5


def make_virtual_host(world: World, service: Service, port: Port, domains: list[str]) -> pb.VirtualHost:
    """The virtual host of one port of a service."""
    name = f"{service.host}:{port.number}"
    virtual_host = pb.VirtualHost(name=name, domains=domains, include_request_attempt_count=True)
    if port.protocol in _BYTES:
        # Rules about requests are not for it, and nothing in it is a request to try again.
        route = virtual_host.routes.add(name="default")
        route.match.prefix = "/"
        route.route.cluster = cluster_name(port.number, "", service.host)
        _apply_timeout(route.route, None)
        return virtual_host
    rule = rule_of(world, service.host)
    if rule is None:
        virtual_host.routes.append(_default_route(world, service, port))
        return virtual_host
    for route in rule.routes:
        for match in route.matches or (HttpMatch(),):
            if match.port in (None, port.number):
                virtual_host.routes.append(_make_route(world, route, match, port))
    return virtual_host


def rule_of(world: World, host: str) -> VirtualService | None:
    """The VirtualService of a host: its own, or the longest wildcard that covers it."""
    best: tuple[int, VirtualService] | None = None
    for rule in world.virtual_services:
        for candidate in rule.hosts:
            if candidate == host:
                return rule
            covers = candidate.startswith("*") and host.endswith(candidate[1:])
            if covers and (best is None or len(candidate) > best[0]):
                best = (len(candidate), rule)
    return best[1] if best is not None else None


def _default_route(world: World, service: Service, port: Port) -> pb.Route:
    destination = Destination(service.host, port=port.number)
    route = pb.Route(name="default")
    route.match.prefix = "/"
    route.route.cluster = cluster_name(port.number, "", destination.host)
    _apply_hash(world, route.route, [destination], port)
    _apply_timeout(route.route, None)
    route.route.retry_policy.CopyFrom(_make_retry(DEFAULT_RETRY, is_hashed=bool(route.route.hash_policy)))
    return route


def _make_route(world: World, rule: HttpRoute, match: HttpMatch, port: Port) -> pb.Route:
    route = pb.Route(name=rule.name, match=_make_match(match))
    if rule.redirect is not None:
        _apply_redirect(route.redirect, rule.redirect, port)
    elif rule.direct_status is not None:
        route.direct_response.status = rule.direct_status
        if rule.direct_body:
            route.direct_response.body.inline_string = rule.direct_body
    else:
        _apply_forward(world, route.route, rule, port)
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
    elif uri.kind == "prefix":
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


def _apply_forward(world: World, action: pb.RouteAction, rule: HttpRoute, port: Port) -> None:
    if len(rule.destinations) == 1:
        action.cluster = _cluster_of(world, rule.destinations[0], port)
    else:
        for destination in rule.destinations:
            if not destination.weight:
                continue
            weighted = action.weighted_clusters.clusters.add(name=_cluster_of(world, destination, port))
            weighted.weight.value = destination.weight
            _apply_headers(weighted, destination.request_headers, destination.response_headers)
            if destination.request_headers.authority:
                weighted.host_rewrite_literal = destination.request_headers.authority
    _apply_hash(world, action, rule.destinations, port)
    _apply_timeout(action, rule.timeout_seconds)
    retry = rule.retry if rule.retry is not None else DEFAULT_RETRY
    if retry.attempts:
        # route.go: of several destinations each hashes in its own way, and a retry may go elsewhere.
        is_hashed = len(rule.destinations) == 1 and bool(action.hash_policy)
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
        mirror = action.request_mirror_policies.add(cluster=_cluster_of(world, destination, port))
        mirror.runtime_fraction.default_value.numerator = int(percent * 10_000)
        mirror.runtime_fraction.default_value.denominator = 2  # MILLION
        mirror.disable_shadow_host_suffix_append = True


def _apply_hash(world: World, action: pb.RouteAction, destinations: Sequence[Destination], port: Port) -> None:
    """What requests are hashed by, from the DestinationRules of where they may go.

    istio/istio pilot/pkg/networking/core/route/route.go, consistentHashToHashPolicy.
    """
    for destination in destinations:
        number = destination.port or port.number
        key = policy_for(world, destination.host, number, destination.subset).consistent_hash
        if key is None:
            continue
        policy = pb.RouteAction.HashPolicy()
        if key.header:
            policy.header.header_name = key.header
        elif key.cookie:
            policy.cookie.name, policy.cookie.path = key.cookie, key.cookie_path
            if key.cookie_ttl_seconds is not None:
                policy.cookie.ttl.FromMilliseconds(int(key.cookie_ttl_seconds * 1000))
        elif key.query_parameter:
            policy.query_parameter.name = key.query_parameter
        elif key.source_ip:
            policy.connection_properties.source_ip = True
        else:
            continue
        if policy not in action.hash_policy:
            action.hash_policy.append(policy)


def _cluster_of(world: World, destination: Destination, port: Port) -> str:
    """route.go, GetDestinationCluster: without a port, the service's only one, or the one that was asked for."""
    number = destination.port
    if number is None:
        service = world.services.get(destination.host)
        number = service.ports[0].number if service is not None and len(service.ports) == 1 else port.number
    return cluster_name(number, destination.subset, destination.host)


def _apply_timeout(action: pb.RouteAction, seconds: float | None) -> None:
    """Istio's default is no timeout, which Envoy writes as 0."""
    action.timeout.FromMilliseconds(int((seconds or 0.0) * 1000))
    if not action.timeout.ListFields():
        action.timeout.SetInParent()


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
        policy.per_try_timeout.FromMilliseconds(int(retry.per_try_timeout_seconds * 1000))
    if retry.ignores_previous_hosts if retry.ignores_previous_hosts is not None else not is_hashed:
        predicate = policy.retry_host_predicate.add(name="envoy.retry_host_predicates.previous_hosts")
        predicate.typed_config.Pack(previous_hosts_pb2.PreviousHostsPredicate())
    if retry.uses_remote_localities:
        policy.retry_priority.name = "envoy.retry_priorities.previous_priorities"
        policy.retry_priority.typed_config.Pack(
            previous_priorities_config_pb2.PreviousPrioritiesConfig(update_frequency=2)
        )
    if retry.backoff_seconds:
        policy.retry_back_off.base_interval.FromMilliseconds(int(retry.backoff_seconds * 1000))
    policy.host_selection_retry_max_attempts = _HOST_SELECTION_ATTEMPTS
    return policy


# What need not stand in a URL.
_DEFAULT_PORTS = {"http": 80, "https": 443}


def _apply_redirect(action: pb.RedirectAction, redirect: HttpRedirect, port: Port) -> None:
    codes = {301: 0, 302: 1, 303: 2, 307: 3, 308: 4}
    action.response_code = codes[redirect.code]
    if redirect.uri:
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
        result.delay.fixed_delay.FromMilliseconds(int(fault.delay_seconds * 1000))
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
