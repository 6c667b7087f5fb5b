"""RouteConfiguration: protobuf to data, with the checks that reach across fields. Actions are in `action_parsing`.

Checks of single fields are Envoy's own rules (`constraints`). What is refused here is what Envoy's route
configuration refuses when it loads (source/common/router/config_impl.cc): duplicate domains, two rewrites on one
route, a weighted split that weighs nothing.
"""

from __future__ import annotations

from typing import Any

from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.path.match.uri_template.v3 import uri_template_match_pb2
from google.protobuf.unknown_fields import UnknownFieldSet

from ..errors import ResourceError
from . import constraints
from .action_parsing import parse_action, parse_mirrors, parse_retry
from .header_mutations import parse_request_headers, parse_response_headers
from .http_filters import parse_filter_settings
from .matchers import parse_header_matcher, parse_query_parameter_matcher, parse_runtime_fraction
from .notes import Notes
from .rate_limit_rules import parse_rules_of
from .route import PathMatch, PathMatchKind, Route, RouteConfiguration, RouteMatch, VirtualHost
from .uri_template import parse_uri_template
from .values import checked_regex, optional, struct_as_dict, unpack

__all__ = ["parse_route_configuration"]

# Fields that are acted on, or that mean nothing to a client (names, statistics, server-side limits).
_CONFIGURATION_FIELDS = frozenset(
    "name virtual_hosts request_headers_to_add request_headers_to_remove response_headers_to_add"
    " response_headers_to_remove ignore_port_in_host_matching most_specific_header_mutations_wins validate_clusters"
    " max_direct_response_body_size_bytes metadata internal_only_headers request_mirror_policies vhost_header"
    " ignore_path_parameters_in_path_matching typed_per_filter_config".split()
)
_VIRTUAL_HOST_FIELDS = frozenset(
    "name domains routes request_headers_to_add request_headers_to_remove response_headers_to_add"
    " response_headers_to_remove retry_policy include_request_attempt_count include_attempt_count_in_response"
    " include_is_timeout_retry_header virtual_clusters typed_per_filter_config metadata require_tls"
    " request_mirror_policies hedge_policy rate_limits".split()
)
_ROUTE_FIELDS = frozenset(
    "name match route redirect direct_response non_forwarding_action request_headers_to_add request_headers_to_remove"
    " response_headers_to_add response_headers_to_remove typed_per_filter_config metadata decorator"
    " stat_prefix tracing".split()
)
_MATCH_FIELDS = frozenset(
    "prefix path safe_regex path_separated_prefix path_match_policy connect_matcher case_sensitive headers"
    " query_parameters runtime_fraction grpc tls_context dynamic_metadata filter_state".split()
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
        request_headers=parse_request_headers(message, where),
        response_headers=parse_response_headers(message, where),
        internal_only_headers=tuple(message.internal_only_headers),
        ignore_port_in_host_matching=message.ignore_port_in_host_matching,
        ignore_path_parameters=message.ignore_path_parameters_in_path_matching,
        vhost_header=message.vhost_header.lower(),
        most_specific_header_mutations_wins=message.most_specific_header_mutations_wins,
        mirrors=parse_mirrors(message, where, notes),
        filters=parse_filter_settings(message, where, notes),
        notes=tuple(notes),
    )


def _check_virtual_hosts(virtual_hosts: tuple[VirtualHost, ...], where: str) -> None:
    """Envoy: names are unique, and a domain stands in one virtual host only, whatever its case. No name is none."""
    names: dict[str, int] = {}
    domains: dict[str, int] = {}
    for index, virtual_host in enumerate(virtual_hosts):
        path = f"{where}.virtual_hosts[{index}]"
        if virtual_host.name and virtual_host.name in names:
            raise ResourceError(
                f"{path}.name", f"{virtual_host.name!r} is also virtual_hosts[{names[virtual_host.name]}]"
            )
        names[virtual_host.name] = index
        for domain in virtual_host.domains:
            if domain in domains:
                other = virtual_hosts[domains[domain]].name or f"virtual_hosts[{domains[domain]}]"
                raise ResourceError(f"{path}.domains", f"{domain!r} is also a domain of {other!r}")
            domains[domain] = index


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
        request_headers=parse_request_headers(message, where),
        response_headers=parse_response_headers(message, where),
        retry_policy=parse_retry(message, where, notes),
        hedge_on_per_try_timeout=message.hedge_policy.hedge_on_per_try_timeout,
        include_request_attempt_count=message.include_request_attempt_count,
        include_attempt_count_in_response=message.include_attempt_count_in_response,
        include_is_timeout_retry_header=message.include_is_timeout_retry_header,
        require_tls=message.require_tls != route_components_pb2.VirtualHost.NONE,
        spares_internal=message.require_tls == route_components_pb2.VirtualHost.EXTERNAL_ONLY,
        mirrors=parse_mirrors(message, where, notes),
        rate_limits=parse_rules_of(message.rate_limits, f"{where}.rate_limits"),
        filters=parse_filter_settings(message, where, notes),
    )


def _parse_route(message: Any, where: str, notes: Notes) -> Route:
    notes.unless_acted_on(message, where, _ROUTE_FIELDS)
    match = parse_match(message.match, f"{where}.match", notes)
    return Route(
        match=match,
        action=parse_action(message, match.path, where, notes),
        name=message.name,
        request_headers=parse_request_headers(message, where),
        response_headers=parse_response_headers(message, where),
        filters=parse_filter_settings(message, where, notes),
        metadata={name: struct_as_dict(struct) for name, struct in message.metadata.filter_metadata.items()},
    )


def parse_match(message: Any, where: str, notes: Notes) -> RouteMatch:
    if len(UnknownFieldSet(message)):
        # A condition that is not evaluated would let the route match more than it may.
        raise ResourceError(where, "holds a condition newer than this meshsdk knows; it is refused")
    notes.unless_acted_on(message, where, _MATCH_FIELDS)
    return RouteMatch(
        path=_parse_path(message, where),
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
        never=_why_never(message, with_certificate=False),
        never_with_certificate=_why_never(message, with_certificate=True),
    )


_PATH_KINDS = {kind.value: kind for kind in PathMatchKind}


def _parse_path(message: Any, where: str) -> PathMatch:
    which = message.WhichOneof("path_specifier")
    if which == "safe_regex":
        # RouteMatch.case_sensitive: "Ignored for safe_regex matching."
        return PathMatch(
            PathMatchKind.REGEX, checked_regex(message.safe_regex.regex, f"{where}.safe_regex.regex"), True
        )
    if which == "path_match_policy":
        path = f"{where}.path_match_policy.typed_config"
        config = unpack(message.path_match_policy.typed_config, uri_template_match_pb2.UriTemplateMatchConfig, path)
        template = parse_uri_template(config.path_template, f"{path}.path_template")
        return PathMatch(PathMatchKind.TEMPLATE, template.text, True, template)
    if which == "connect_matcher":
        return PathMatch(PathMatchKind.CONNECT, "")
    case_sensitive = optional(message, "case_sensitive")
    return PathMatch(_PATH_KINDS[which], getattr(message, which), case_sensitive is not False)


def _why_never(message: Any, *, with_certificate: bool) -> str:
    """Why no request can match, with a verified client certificate or without one.

    There is no filter state, and no filter has said anything when a route is sought; an inverted metadata matcher holds
    for what is missing (Envoy: source/common/router/config_impl.cc, RouteEntryImplBase::matchRoute).
    """
    if message.filter_state:
        return "it asks for filter state, which there is none of"
    if any(not matcher.invert for matcher in message.dynamic_metadata):
        return "it asks for dynamic metadata, which there is none of yet"
    tls = message.tls_context
    asked = [value for value in (optional(tls, "presented"), optional(tls, "validated")) if value is not None]
    if any(value is not with_certificate for value in asked):
        return f"it is for requests {'with' if asked[0] else 'without'} a client certificate"
    return ""
