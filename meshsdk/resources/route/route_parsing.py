"""RouteConfiguration: protobuf to data, with the checks that reach across fields. Actions are in `action_parsing`.

Checks of single fields are Envoy's own rules (`constraints`). What is refused here is what Envoy's route
configuration refuses when it loads (source/common/router/config_impl.cc): duplicate domains, two rewrites on one
route, a weighted split that weighs nothing.
"""

from __future__ import annotations

from typing import Any

from ...errors import ResourceError
from .. import constraints, protos
from ..filters.rate_limit_rules import parse_rules_of
from ..filters.registry import parse_filter_settings
from ..header_mutations import parse_request_headers, parse_response_headers
from ..matching import parse_match
from ..notes import Notes
from ..tracing import parse_operation, parse_route_tracing
from ..values import struct_as_dict
from .action_parsing import parse_action, parse_mirrors, parse_retry
from .route import Route, RouteConfiguration, VirtualHost

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
        require_tls=message.require_tls != protos.route_components_pb2.VirtualHost.NONE,
        spares_internal=message.require_tls == protos.route_components_pb2.VirtualHost.EXTERNAL_ONLY,
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
        tracing=parse_route_tracing(message, where, notes),
        operation=parse_operation(message),
    )
