"""VirtualServices to virtual hosts, as istiod makes them (istio/istio pilot/pkg/networking/core/route/route.go)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3 import route_components_pb2 as pb
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from envoy.extensions.retry.priority.previous_priorities.v3 import previous_priorities_config_pb2

from ..errors import ConfigError
from .byte_routes import byte_destinations
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
    is_internal_header,
)
from .names import cluster_name, names_of
from .protocols import BYTES
from .scope import Scope
from .traffic_policy import ConsistentHash
from .world import NOT_SAYABLE, Port, Resolution, Service

__all__ = ["leads_elsewhere", "make_virtual_hosts"]

FAULT_FILTER = "envoy.filters.http.fault"

# Of a host that no rule is about.
_DEFAULT_ROUTE = "default"

# route.go, GetDestinationCluster: of a destination that is no host.
_UNKNOWN_CLUSTER = "UnknownService"

# VirtualServices of hosts that are no service hold for what is asked for there.
PORT_OF_OTHERS = 80

# istio/istio pilot/pkg/networking/core/route/retry/retry.go, newRetryPolicy: what is retried where nothing says so.
DEFAULT_RETRY_ON = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"
_HOST_SELECTION_ATTEMPTS = 5


def make_virtual_hosts(
    scope: Scope, number: int, errors: list[ConfigError], *, is_grpc_core: bool = False
) -> list[pb.VirtualHost]:
    """The virtual hosts of all that a client may call on a port, no domain twice.

    Args:
        scope: What there is for the client.
        number: The port.
        errors: Where it is told whose routes xDS cannot say.
        is_grpc_core: For gRPC's own client, which is told timeouts in its way, too.

    Source: istio/istio pilot/pkg/networking/core/httproute.go, BuildSidecarOutboundVirtualHosts.
    """
    entries = [
        (service, port)
        for service in scope.services.values()
        if (service.resolution is not Resolution.NONE or leads_elsewhere(scope, service, number))
        and scope.concrete(service) is service
        and not service.external_name
        and scope.imports(service.namespace, service.host, number)
        for port in service.ports
        if port.number == number
    ]
    full = {name for service, _ in entries for name in (service.host, f"{service.host}:{number}")}
    taken: set[str] = set()
    found = []
    for service, port in entries:
        names = names_of(
            service.host,
            *scope.aliases.get(service.host, ()),
            port=number,
            namespace=scope.client.namespace,
            domain=scope.world.domain,
            addresses=service.addresses,
        )
        # A short form is no one's who has it for a full name (dedupeDomains), with the port or without.
        own = (service.host, f"{service.host}:{number}")
        domains = [one for one in names if one not in taken and (one in own or one not in full)]
        taken.update(domains)
        if domains:
            name = f"{service.host}:{number}"
            found.append(_make_virtual_host(name, domains, partial(_routes_to, scope, service, port), errors))
    if is_grpc_core:
        _tell_grpc_of_timeouts(found)
    if number == PORT_OF_OTHERS:
        found += _virtual_hosts_of_others(scope, taken, errors)
    return found


def leads_elsewhere(scope: Scope, service: Service, number: int) -> bool:
    """Whether requests for hosts that are passed through, and have no cluster, go to others by a rule."""
    for port in (one for one in service.ports if one.number == number):
        for rule in scope.virtual_services_of(service.host):
            if _has_routes(scope, rule, port):
                return all(one.host != service.host for one in rule.every_destination())
    return False


def _tell_grpc_of_timeouts(virtual_hosts: Iterable[pb.VirtualHost]) -> None:
    """gRPC knows a stream's longest duration in place of a timeout (route.go, setTimeout).

    To Envoy, and to us, that would be another timeout: one that holds while the request is sent, and ends it as `DT`.
    """
    for virtual_host in virtual_hosts:
        for route in virtual_host.routes:
            if route.name != _DEFAULT_ROUTE and route.HasField("route"):
                route.route.ClearField("max_grpc_timeout")
                route.route.max_stream_duration.max_stream_duration.CopyFrom(route.route.timeout)


def _make_virtual_host(
    name: str, domains: Iterable[str], make_routes: Callable[[], Sequence[pb.Route]], errors: list[ConfigError]
) -> pb.VirtualHost:
    """One host. Where its routes cannot be said it has none, and refuses: unknown, it would be called past the mesh."""
    virtual_host = pb.VirtualHost(name=name, domains=domains, include_request_attempt_count=True)
    try:
        virtual_host.routes.extend(make_routes())
    except NOT_SAYABLE as error:
        errors.append(ConfigError(name, f"its routes cannot be said in xDS: {error}"))
    return virtual_host


def _virtual_hosts_of_others(scope: Scope, taken: set[str], errors: list[ConfigError]) -> Iterable[pb.VirtualHost]:
    """Hosts that no service has there (route.go, buildSidecarVirtualHostsForVirtualService)."""
    port = Port("http", PORT_OF_OTHERS)
    for host, rules in scope.hosts_of_rules.items():
        if host in taken:
            continue
        # By their full names alone (generateVirtualHostDomains is for services).
        domains = [one for one in (host, f"{host}:{port.number}") if one not in taken]
        rule = next((one for one in rules if _has_routes(scope, one, port)), None)
        if domains and rule is not None:
            yield _make_virtual_host(f"{host}:{port.number}", domains, partial(_routes_of, scope, rule, port), errors)


def _routes_to(scope: Scope, service: Service, port: Port) -> list[pb.Route]:
    """The routes of a service's port: of the first rule that has any for it, or the one to the service itself."""
    if port.protocol in BYTES:
        # Rules about requests are not for it, and nothing in it is a request to try again.
        route = pb.Route(name=_DEFAULT_ROUTE)
        route.match.prefix = "/"
        _apply_destinations(scope, route.route, byte_destinations(scope, service, port), port)
        _apply_timeout(route.route, None)
        return [route]
    for rule in scope.virtual_services_of(service.host):
        if _has_routes(scope, rule, port):
            return _routes_of(scope, rule, port)
    return [_default_route(scope, service, port)]


def _routes_of(scope: Scope, rule: VirtualService, port: Port) -> list[pb.Route]:
    """What of a VirtualService is for a port and for this client."""
    return [_make_route(scope, route, match, port) for route, match in _held_matches(scope, rule, port)]


def _has_routes(scope: Scope, rule: VirtualService, port: Port) -> bool:
    return any(True for _ in _held_matches(scope, rule, port))


def _held_matches(scope: Scope, rule: VirtualService, port: Port) -> Iterator[tuple[HttpRoute, HttpMatch]]:
    for route in rule.routes:
        for match in route.matches or (HttpMatch(),):
            if (
                match.port in (None, port.number)
                and scope.client.has(match.source_labels)
                and match.source_namespace in ("", scope.client.namespace)
            ):
                yield route, match


def _default_route(scope: Scope, service: Service, port: Port) -> pb.Route:
    route = pb.Route(name=_DEFAULT_ROUTE)
    route.match.prefix = "/"
    route.route.cluster = cluster_name(port.number, "", service.host)
    rule = scope.destination_rule(service.host)
    key = rule.hash_for(None, "", default_port=port.number) if rule is not None else None
    _apply_hash(route.route, [key])
    _apply_timeout(route.route, None)
    route.route.retry_policy.CopyFrom(_make_retry(scope.default_retry, is_hashed=False))
    return route


def _make_route(scope: Scope, rule: HttpRoute, match: HttpMatch, port: Port) -> pb.Route:
    name = f"{rule.name}.{match.name}" if match.name else rule.name
    route = pb.Route(name=name, match=_make_match(match))
    if rule.redirect is not None:
        _apply_redirect(route.redirect, rule.redirect, port)
    elif rule.direct_status is not None:
        route.direct_response.status = rule.direct_status
        if isinstance(rule.direct_body, bytes):
            route.direct_response.body.inline_bytes = rule.direct_body
        elif rule.direct_body:
            route.direct_response.body.inline_string = rule.direct_body
    else:
        _apply_forward(scope, route.route, rule, port)
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


def _apply_forward(scope: Scope, action: pb.RouteAction, rule: HttpRoute, port: Port) -> None:
    if rule.missing_cluster_status == 500:
        action.cluster_not_found_response_code = pb.RouteAction.INTERNAL_SERVER_ERROR
    _apply_destinations(scope, action, rule.destinations, port)
    is_split = len(rule.destinations) > 1
    keys = [_hash_of(scope, one) for one in rule.destinations if one.weight or not is_split]
    _apply_hash(action, keys)
    _apply_timeout(action, rule.timeout_seconds)
    retry = rule.retry if rule.retry is not None else scope.default_retry
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
        mirror = action.request_mirror_policies.add(cluster=_cluster_of(scope, destination, port))
        mirror.runtime_fraction.default_value.numerator = int(percent * 10_000)
        mirror.runtime_fraction.default_value.denominator = 2  # MILLION
        mirror.disable_shadow_host_suffix_append = True


def _apply_destinations(scope: Scope, action: pb.RouteAction, destinations: Sequence[Destination], port: Port) -> None:
    if len(destinations) == 1:
        action.cluster = _cluster_of(scope, destinations[0], port)
        return
    for destination in destinations:
        if not destination.weight:
            continue
        weighted = action.weighted_clusters.clusters.add(name=_cluster_of(scope, destination, port))
        weighted.weight.value = destination.weight
        _apply_headers(weighted, destination.request_headers, destination.response_headers)
        if destination.request_headers.authority:
            weighted.host_rewrite_literal = destination.request_headers.authority


def _hash_of(scope: Scope, destination: Destination) -> ConsistentHash | None:
    rule = scope.destination_rule(destination.host)
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


def _cluster_of(scope: Scope, destination: Destination, port: Port) -> str:
    """route.go, GetDestinationCluster: without a port, the one that was asked for; a service's name is that service."""
    host = destination.host
    if not host:
        return _UNKNOWN_CLUSTER
    service = scope.services.get(host)
    if service is not None and service.external_name:
        host = service.external_name
    return cluster_name(destination.port or port.number, destination.subset, host)


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
