"""RouteConfiguration: protobuf to data, with the checks that reach across fields.

Checks of single fields are Envoy's own rules (`constraints`). What is refused here is what Envoy's route
configuration refuses when it loads (source/common/router/config_impl.cc): duplicate domains, two rewrites on one
route, a weighted split that weighs nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from envoy.config.route.v3 import route_components_pb2

from ..errors import ResourceError
from . import constraints
from .fault import FAULT_FILTER_TYPE, Fault, parse_fault
from .matchers import parse_header_matcher, parse_query_parameter_matcher, parse_runtime_fraction
from .notes import Notes
from .retry_parsing import parse_retry_policy
from .route import (
    NO_MUTATIONS,
    Action,
    AppendAction,
    DirectResponse,
    ForwardAction,
    HeaderAddition,
    HeaderMutations,
    NonForwardingAction,
    PathMatch,
    PathMatchKind,
    Redirect,
    RegexRewrite,
    Route,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
    WeightedCluster,
)
from .values import checked_regex, optional, seconds

__all__ = ["parse_route_configuration"]

# Fields that are acted on, or that mean nothing to a client (names, statistics, server-side limits).
_CONFIGURATION_FIELDS = frozenset(
    "name virtual_hosts request_headers_to_add request_headers_to_remove response_headers_to_add"
    " response_headers_to_remove ignore_port_in_host_matching most_specific_header_mutations_wins validate_clusters"
    " max_direct_response_body_size_bytes metadata internal_only_headers".split()
)
_VIRTUAL_HOST_FIELDS = frozenset(
    "name domains routes request_headers_to_add request_headers_to_remove response_headers_to_add"
    " response_headers_to_remove retry_policy include_request_attempt_count include_attempt_count_in_response"
    " virtual_clusters typed_per_filter_config metadata".split()
)
_ROUTE_FIELDS = frozenset(
    "name match route redirect direct_response non_forwarding_action request_headers_to_add request_headers_to_remove"
    " response_headers_to_add response_headers_to_remove typed_per_filter_config metadata decorator"
    " stat_prefix".split()
)
_MATCH_FIELDS = frozenset(
    "prefix path safe_regex path_separated_prefix case_sensitive headers query_parameters runtime_fraction grpc".split()
)
_ACTION_FIELDS = frozenset(
    "cluster cluster_header weighted_clusters cluster_not_found_response_code prefix_rewrite regex_rewrite"
    " host_rewrite_literal auto_host_rewrite host_rewrite_header host_rewrite_path_regex append_x_forwarded_host"
    " timeout retry_policy".split()
)
_WEIGHTED_FIELDS = frozenset("clusters total_weight".split())
_WEIGHT_FIELDS = frozenset(
    "name weight request_headers_to_add request_headers_to_remove response_headers_to_add response_headers_to_remove"
    " host_rewrite_literal".split()
)


def parse_route_configuration(message: Any) -> RouteConfiguration:
    """A validated RouteConfiguration.

    Raises:
        ResourceError: A rule does not hold.
    """
    where = "RouteConfiguration"
    constraints.check(message)
    notes = Notes()
    if message.HasField("vhds"):
        raise ResourceError(f"{where}.vhds", "on-demand virtual hosts (VHDS) are refused; send virtual_hosts inline")
    notes.unless_acted_on(message, where, _CONFIGURATION_FIELDS)
    virtual_hosts = tuple(
        _parse_virtual_host(virtual_host, f"{where}.virtual_hosts[{index}]", notes)
        for index, virtual_host in enumerate(message.virtual_hosts)
    )
    _check_virtual_hosts(virtual_hosts, where)
    return RouteConfiguration(
        name=message.name,
        virtual_hosts=virtual_hosts,
        request_headers=_request_headers(message, where),
        response_headers=_response_headers(message, where),
        ignore_port_in_host_matching=message.ignore_port_in_host_matching,
        most_specific_header_mutations_wins=message.most_specific_header_mutations_wins,
        notes=tuple(notes),
    )


def _check_virtual_hosts(virtual_hosts: tuple[VirtualHost, ...], where: str) -> None:
    """Envoy: names are unique, and a domain stands in one virtual host only, whatever its case."""
    names: dict[str, int] = {}
    domains: dict[str, str] = {}
    for index, virtual_host in enumerate(virtual_hosts):
        path = f"{where}.virtual_hosts[{index}]"
        if virtual_host.name in names:
            raise ResourceError(
                f"{path}.name", f"{virtual_host.name!r} is also virtual_hosts[{names[virtual_host.name]}]"
            )
        names[virtual_host.name] = index
        for domain in virtual_host.domains:
            if domain in domains:
                raise ResourceError(f"{path}.domains", f"{domain!r} is also a domain of {domains[domain]!r}")
            domains[domain] = virtual_host.name


def _parse_virtual_host(message: Any, where: str, notes: Notes) -> VirtualHost:
    notes.unless_acted_on(message, where, _VIRTUAL_HOST_FIELDS)
    if message.HasField("matcher"):
        raise ResourceError(f"{where}.matcher", "match trees are refused; send routes")
    for domain in message.domains:
        if "*" in domain[1:-1] or (domain.startswith("*") and domain.endswith("*") and domain != "*"):
            raise ResourceError(f"{where}.domains", f"{domain!r}: a wildcard stands at one end only")
    return VirtualHost(
        name=message.name,
        domains=tuple(domain.lower() for domain in message.domains),
        routes=tuple(
            _parse_route(route, f"{where}.routes[{index}]", notes) for index, route in enumerate(message.routes)
        ),
        request_headers=_request_headers(message, where),
        response_headers=_response_headers(message, where),
        retry_policy=_parse_retry(message, where, notes),
        include_request_attempt_count=message.include_request_attempt_count,
        include_attempt_count_in_response=message.include_attempt_count_in_response,
        fault=_parse_per_filter_fault(message, where, notes),
    )


def _parse_route(message: Any, where: str, notes: Notes) -> Route:
    notes.unless_acted_on(message, where, _ROUTE_FIELDS)
    return Route(
        match=_parse_match(message.match, f"{where}.match", notes),
        action=_parse_action(message, where, notes),
        name=message.name,
        request_headers=_request_headers(message, where),
        response_headers=_response_headers(message, where),
        fault=_parse_per_filter_fault(message, where, notes),
    )


_PATH_KINDS = {kind.value: kind for kind in PathMatchKind}


def _parse_match(message: Any, where: str, notes: Notes) -> RouteMatch:
    for field in ("tls_context", "dynamic_metadata", "filter_state", "connect_matcher", "path_match_policy"):
        if message.DESCRIPTOR.fields_by_name[field].is_repeated:
            is_set = bool(getattr(message, field))
        else:
            is_set = message.HasField(field)
        if is_set:
            # A condition that is not evaluated would let the route match more than it may.
            raise ResourceError(f"{where}.{field}", "is a condition that meshsdk does not evaluate; it is refused")
    notes.unless_acted_on(message, where, _MATCH_FIELDS)
    which = message.WhichOneof("path_specifier")
    value = getattr(message, which)
    if which == "safe_regex":
        value = checked_regex(value.regex, f"{where}.safe_regex.regex")
    case_sensitive = optional(message, "case_sensitive")
    return RouteMatch(
        # RouteMatch.case_sensitive: "Ignored for safe_regex matching."
        path=PathMatch(_PATH_KINDS[which], value, which == "safe_regex" or case_sensitive is not False),
        headers=tuple(
            parse_header_matcher(header, f"{where}.headers[{index}]") for index, header in enumerate(message.headers)
        ),
        query_parameters=tuple(
            parse_query_parameter_matcher(parameter, f"{where}.query_parameters[{index}]")
            for index, parameter in enumerate(message.query_parameters)
        ),
        runtime_fraction=optional(
            message, "runtime_fraction", lambda f: parse_runtime_fraction(f, f"{where}.runtime_fraction", notes)
        ),
        grpc=message.HasField("grpc"),
    )


def _parse_action(message: Any, where: str, notes: Notes) -> Action:
    which = message.WhichOneof("action")
    if which == "route":
        return _parse_forward(message.route, f"{where}.route", notes)
    if which == "redirect":
        return _parse_redirect(message.redirect, f"{where}.redirect")
    if which == "direct_response":
        direct = message.direct_response
        return DirectResponse(direct.status, _parse_data_source(direct.body, f"{where}.direct_response.body"))
    if which == "non_forwarding_action":
        return NonForwardingAction()
    raise ResourceError(f"{where}.{which}", "is an action that meshsdk does not know")


def _parse_forward(message: Any, where: str, notes: Notes) -> ForwardAction:
    notes.unless_acted_on(message, where, _ACTION_FIELDS)
    if message.prefix_rewrite and message.HasField("regex_rewrite"):
        raise ResourceError(where, "only one of prefix_rewrite and regex_rewrite may be set")
    timeout = seconds(message, "timeout")
    not_found = route_components_pb2.RouteAction.ClusterNotFoundResponseCode
    statuses = {not_found.SERVICE_UNAVAILABLE: 503, not_found.NOT_FOUND: 404, not_found.INTERNAL_SERVER_ERROR: 500}
    clusters, cluster_header = _parse_cluster_specifier(message, where, notes)
    return ForwardAction(
        clusters=clusters,
        cluster_header=cluster_header,
        # RouteAction.timeout: 15 s where unset; zero disables it.
        timeout_seconds=15.0 if timeout is None else timeout or None,
        prefix_rewrite=message.prefix_rewrite,
        regex_rewrite=_parse_regex_rewrite(message, "regex_rewrite", where),
        host_rewrite=message.host_rewrite_literal,
        host_rewrite_header=message.host_rewrite_header.lower(),
        host_rewrite_regex=_parse_regex_rewrite(message, "host_rewrite_path_regex", where),
        auto_host_rewrite=message.auto_host_rewrite.value,
        append_x_forwarded_host=message.append_x_forwarded_host,
        retry_policy=_parse_retry(message, where, notes),
        cluster_not_found_status=statuses[message.cluster_not_found_response_code],
    )


def _parse_cluster_specifier(message: Any, where: str, notes: Notes) -> tuple[tuple[WeightedCluster, ...], str]:
    which = message.WhichOneof("cluster_specifier")
    if which == "cluster":
        return (WeightedCluster(message.cluster, 1),), ""
    if which == "cluster_header":
        return (), message.cluster_header.lower()
    if which == "weighted_clusters":
        return _parse_weighted_clusters(message.weighted_clusters, f"{where}.weighted_clusters", notes), ""
    raise ResourceError(f"{where}.{which}", "cluster specifier plugins are refused; name clusters")


def _parse_weighted_clusters(message: Any, where: str, notes: Notes) -> tuple[WeightedCluster, ...]:
    notes.unless_acted_on(message, where, _WEIGHTED_FIELDS)
    clusters = []
    for index, weighted in enumerate(message.clusters):
        path = f"{where}.clusters[{index}]"
        notes.unless_acted_on(weighted, path, _WEIGHT_FIELDS)
        if weighted.cluster_header or not weighted.name:
            raise ResourceError(f"{path}.name", "must be set; cluster_header in a split is refused")
        clusters.append(
            WeightedCluster(
                name=weighted.name,
                weight=optional(weighted, "weight") or 0,
                request_headers=_request_headers(weighted, path),
                response_headers=_response_headers(weighted, path),
                host_rewrite=weighted.host_rewrite_literal,
            )
        )
    total = sum(cluster.weight for cluster in clusters)
    if not 0 < total <= 0xFFFFFFFF:
        raise ResourceError(f"{where}.clusters", f"the sum of the weights must be between 1 and 2^32-1, is {total}")
    return tuple(clusters)


def _parse_redirect(message: Any, where: str) -> Redirect:
    status = {0: 301, 1: 302, 2: 303, 3: 307, 4: 308}[message.response_code]
    return Redirect(
        status=status,
        https=message.https_redirect,
        scheme=message.scheme_redirect,
        host=message.host_redirect,
        port=message.port_redirect,
        path=message.path_redirect,
        prefix_rewrite=message.prefix_rewrite,
        regex_rewrite=_parse_regex_rewrite(message, "regex_rewrite", where),
        strip_query=message.strip_query,
    )


def _parse_regex_rewrite(message: Any, field: str, where: str) -> RegexRewrite | None:
    if not message.HasField(field):
        return None
    rewrite = getattr(message, field)
    pattern = checked_regex(rewrite.pattern.regex, f"{where}.{field}.pattern.regex")
    return RegexRewrite(pattern, rewrite.substitution)


# Envoy: max_direct_response_body_size_bytes is 4 KiB by default; a library can carry more, but not without bound.
_MAX_DIRECT_RESPONSE_BYTES = 1 << 20


def _parse_data_source(message: Any, where: str) -> bytes:
    which = message.WhichOneof("specifier")
    if which is None:
        return b""
    if which == "inline_bytes":
        body = bytes(message.inline_bytes)
    elif which == "inline_string":
        body = message.inline_string.encode()
    elif which == "filename":
        try:
            body = Path(message.filename).read_bytes()
        except OSError as error:
            raise ResourceError(f"{where}.filename", f"cannot be read: {error}") from error
    else:
        raise ResourceError(f"{where}.{which}", "is refused; use inline_string, inline_bytes or filename")
    if len(body) > _MAX_DIRECT_RESPONSE_BYTES:
        raise ResourceError(where, f"is {len(body)} bytes long; at most {_MAX_DIRECT_RESPONSE_BYTES} are taken")
    return body


def _parse_retry(message: Any, where: str, notes: Notes) -> Any:
    return optional(message, "retry_policy", lambda policy: parse_retry_policy(policy, f"{where}.retry_policy", notes))


def _request_headers(message: Any, where: str) -> HeaderMutations:
    return _mutations(message.request_headers_to_add, message.request_headers_to_remove, f"{where}.request_headers")


def _response_headers(message: Any, where: str) -> HeaderMutations:
    return _mutations(message.response_headers_to_add, message.response_headers_to_remove, f"{where}.response_headers")


def _mutations(to_add: Any, to_remove: Any, where: str) -> HeaderMutations:
    if not to_add and not to_remove:
        return NO_MUTATIONS
    for index, name in enumerate(to_remove):
        if name.startswith(":") or name.lower() == "host":
            raise ResourceError(f"{where}_to_remove[{index}]", f"{name!r} may not be removed")
    return HeaderMutations(
        add=tuple(_parse_addition(option, f"{where}_to_add[{index}]") for index, option in enumerate(to_add)),
        remove=tuple(name.lower() for name in to_remove),
    )


def _parse_addition(option: Any, where: str) -> HeaderAddition:
    name = option.header.key.lower()
    if name.startswith(":") or name == "host":
        raise ResourceError(
            f"{where}.header.key", f"{option.header.key!r} may not be added; use a host or path rewrite"
        )
    action = AppendAction(option.append_action)
    # HeaderValueOption.append is deprecated and still taken: false means overwrite.
    if option.HasField("append"):
        action = (
            AppendAction.APPEND_IF_EXISTS_OR_ADD if option.append.value else AppendAction.OVERWRITE_IF_EXISTS_OR_ADD
        )
    value = option.header.value or option.header.raw_value.decode("latin-1")
    return HeaderAddition(name, value, action, option.keep_empty_value)


def _parse_per_filter_fault(message: Any, where: str, notes: Notes) -> Fault | None:
    """The fault settings among typed_per_filter_config; other filters' are noted."""
    fault = None
    for name, container in message.typed_per_filter_config.items():
        path = f"{where}.typed_per_filter_config[{name!r}]"
        if container.type_url.endswith(FAULT_FILTER_TYPE):
            fault = parse_fault(container, path, notes)
        else:
            notes.add(path, "is for a filter that meshsdk does not have")
    return fault
