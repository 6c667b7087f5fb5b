"""Role-based access control: who may do what (envoy.config.rbac.v3, envoy.extensions.filters.http.rbac.v3).

Permissions and principals are one tree of conditions here: they differ in what they may ask, not in how they are
joined. What is not known is refused where it stands, since a condition that is left out lets in or keeps out others.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as rbac_filter_pb2
from envoy.extensions.path.match.uri_template.v3 import uri_template_match_pb2
from envoy.extensions.rbac.matchers.upstream_ip_port.v3 import upstream_ip_port_matcher_pb2
from envoy.extensions.rbac.principals.mtls_authenticated.v3 import mtls_authenticated_pb2
from msgspec import Struct

from ...errors import ResourceError
from ..matching import (
    CelCondition,
    HeaderMatcher,
    MetadataMatcher,
    Network,
    StringMatcher,
    UriTemplate,
    parse_cidr,
    parse_condition,
    parse_header_matcher,
    parse_metadata_matcher,
    parse_string_matcher,
    parse_uri_template,
)
from ..notes import Notes
from ..tls import SanMatcher, parse_san_matcher
from ..values import unpack
from .rbac_matcher import Matcher, parse_matcher
from .set_filter_state import FilterStateIs, parse_filter_state_is
from .settings import FilterSetting

__all__ = [
    "AddressKind",
    "AllOf",
    "AnyOf",
    "Authenticated",
    "DestinationPortIs",
    "FromAddress",
    "HasName",
    "HeaderIs",
    "MetadataIs",
    "Not",
    "PathIs",
    "PathTemplateIs",
    "Rbac",
    "RbacAction",
    "RbacCondition",
    "RbacPolicy",
    "RbacRules",
    "ServerNameIs",
    "UpstreamIs",
    "parse_rbac",
    "parse_rbac_per_route",
]


class RbacAction(Enum):
    """What a match means (RBAC.Action)."""

    ALLOW = "ALLOW"
    DENY = "DENY"
    LOG = "LOG"


class AddressKind(Enum):
    """Whose address is compared.

    SOURCE and DIRECT_REMOTE are the connection's peer, REMOTE is whom X-Forwarded-For makes of it, DESTINATION is this
    side of the connection (Principal.direct_remote_ip, .remote_ip, .source_ip; Permission.destination_ip).
    """

    SOURCE = "source_ip"
    DIRECT_REMOTE = "direct_remote_ip"
    REMOTE = "remote_ip"
    DESTINATION = "destination_ip"


class AllOf(Struct, frozen=True, gc=False):
    """Every one holds; of none, that is so."""

    conditions: tuple[RbacCondition, ...] = ()


class AnyOf(Struct, frozen=True, gc=False):
    """At least one holds."""

    conditions: tuple[RbacCondition, ...]


class Not(Struct, frozen=True, gc=False):
    """It does not hold."""

    condition: RbacCondition


class HeaderIs(Struct, frozen=True, gc=False):
    """A header matches."""

    matcher: HeaderMatcher


class PathIs(Struct, frozen=True, gc=False):
    """The path without query matches."""

    matcher: StringMatcher


class PathTemplateIs(Struct, frozen=True, gc=False):
    """The path matches a template (envoy.extensions.path.match.uri_template.v3)."""

    template: UriTemplate


class FromAddress(Struct, frozen=True, gc=False):
    """An address of the connection lies in a range."""

    kind: AddressKind
    network: Network


class DestinationPortIs(Struct, frozen=True, gc=False):
    """The port that the request came to is in [start, end)."""

    start: int
    end: int


class ServerNameIs(Struct, frozen=True, gc=False):
    """The server name that the client asked for in its TLS hello matches."""

    matcher: StringMatcher


class Authenticated(Struct, frozen=True, gc=False):
    """The peer shows a certificate; with a matcher, one of its names matches (Principal.Authenticated)."""

    matcher: StringMatcher | None


class HasName(Struct, frozen=True, gc=False):
    """The peer proved to have a name that matches; None: any certificate will do
    (envoy.extensions.rbac.principals.mtls_authenticated.v3)."""

    matcher: SanMatcher | None


class MetadataIs(Struct, frozen=True, gc=False):
    """What an earlier filter said of the request matches."""

    matcher: MetadataMatcher
    of_route: bool = False


class UpstreamIs(Struct, frozen=True, gc=False):
    """The address of the upstream that an earlier filter has chosen; in a server none has, so it never holds
    (envoy.extensions.rbac.matchers.upstream_ip_port.v3)."""


RbacCondition = (
    AllOf
    | AnyOf
    | Not
    | HeaderIs
    | PathIs
    | PathTemplateIs
    | FromAddress
    | DestinationPortIs
    | ServerNameIs
    | Authenticated
    | HasName
    | MetadataIs
    | FilterStateIs
    | UpstreamIs
)


class RbacPolicy(Struct, frozen=True, gc=False):
    """A policy matches where one permission and one principal hold, and the condition, where there is one."""

    name: str
    permissions: AnyOf
    principals: AnyOf
    condition: CelCondition | None = None


class RbacRules(Struct, frozen=True, gc=False):
    """Policies and what their match means; in order of their names, as Envoy goes through them."""

    action: RbacAction
    policies: tuple[RbacPolicy, ...]


class Rbac(FilterSetting, Struct, frozen=True, gc=False):
    """The filter: rules that hold, and rules of which it is only reported what they would do.

    Attributes:
        rules: None lets everybody in.
        shadow_rules: Never refuse; what they would have done is logged.
        matcher, shadow_matcher: In place of the rules, where there are any.
        rules_prefix, shadow_prefix: Before the names of policies in reports.
    """

    rules: RbacRules | None = None
    shadow_rules: RbacRules | None = None
    matcher: Matcher | None = None
    shadow_matcher: Matcher | None = None
    rules_prefix: str = ""
    shadow_prefix: str = ""


_FILTER_FIELDS = frozenset(
    "rules shadow_rules matcher shadow_matcher rules_stat_prefix shadow_rules_stat_prefix track_per_rule_stats".split()
)


def parse_rbac(container: Any, where: str, notes: Notes) -> Rbac:
    """The RBAC filter inside a google.protobuf.Any."""
    return _parse_filter(unpack(container, rbac_filter_pb2.RBAC, where), where, notes)


def parse_rbac_per_route(container: Any, where: str, notes: Notes) -> Rbac:
    """The RBACPerRoute inside a google.protobuf.Any; without rules the route lets everybody in."""
    message = unpack(container, rbac_filter_pb2.RBACPerRoute, where)
    return _parse_filter(message.rbac, f"{where}.rbac", notes)


def _parse_filter(message: Any, where: str, notes: Notes) -> Rbac:
    notes.unless_acted_on(message, where, _FILTER_FIELDS)
    return Rbac(
        rules=parse_rules(message.rules, f"{where}.rules") if message.HasField("rules") else None,
        shadow_rules=(
            parse_rules(message.shadow_rules, f"{where}.shadow_rules") if message.HasField("shadow_rules") else None
        ),
        # RBAC.rules: "If both rules and matcher are configured, rules will be ignored."
        matcher=parse_matcher(message.matcher, f"{where}.matcher") if message.HasField("matcher") else None,
        shadow_matcher=(
            parse_matcher(message.shadow_matcher, f"{where}.shadow_matcher")
            if message.HasField("shadow_matcher")
            else None
        ),
        rules_prefix=message.rules_stat_prefix,
        shadow_prefix=message.shadow_rules_stat_prefix,
    )


_ACTIONS = {0: RbacAction.ALLOW, 1: RbacAction.DENY, 2: RbacAction.LOG}


def parse_rules(message: Any, where: str) -> RbacRules:
    """An envoy.config.rbac.v3.RBAC.

    Raises:
        ResourceError: It holds an action or condition that meshsdk does not know.
    """
    action = _ACTIONS.get(message.action)
    if action is None:
        raise ResourceError(f"{where}.action", f"unknown value {message.action}")
    for logger in message.audit_logging_options.logger_configs:
        if not logger.is_optional:
            raise ResourceError(f"{where}.audit_logging_options", "audit loggers of the configuration are refused")
    policies = [
        _parse_policy(name, message.policies[name], f"{where}.policies[{name!r}]") for name in sorted(message.policies)
    ]
    return RbacRules(action, tuple(policies))


def _parse_policy(name: str, message: Any, where: str) -> RbacPolicy:
    if message.HasField("checked_condition"):
        raise ResourceError(f"{where}.checked_condition", "is refused; use condition")
    return RbacPolicy(
        name=name,
        permissions=AnyOf(_each(message.permissions, f"{where}.permissions", _parse_permission)),
        principals=AnyOf(_each(message.principals, f"{where}.principals", _parse_principal)),
        condition=(
            parse_condition(message.condition, f"{where}.condition", message.cel_config)
            if message.HasField("condition")
            else None
        ),
    )


def _each(messages: Any, where: str, parse: Callable[[Any, str], RbacCondition]) -> tuple[RbacCondition, ...]:
    return tuple(parse(message, f"{where}[{index}]") for index, message in enumerate(messages))


def _parse_permission(message: Any, where: str) -> RbacCondition:
    which = message.WhichOneof("rule")
    path = f"{where}.{which}"
    match which:
        case "and_rules":
            return AllOf(_each(message.and_rules.rules, f"{path}.rules", _parse_permission))
        case "or_rules":
            return AnyOf(_each(message.or_rules.rules, f"{path}.rules", _parse_permission))
        case "not_rule":
            return Not(_parse_permission(message.not_rule, path))
        case "destination_ip":
            return FromAddress(AddressKind.DESTINATION, parse_cidr(message.destination_ip, path))
        case "destination_port":
            return DestinationPortIs(message.destination_port, message.destination_port + 1)
        case "destination_port_range":
            start, end = message.destination_port_range.start, message.destination_port_range.end
            if not 0 <= start < end <= 65536:
                raise ResourceError(path, f"[{start}, {end}) is no range of ports")
            return DestinationPortIs(start, end)
        case "requested_server_name":
            return ServerNameIs(parse_string_matcher(message.requested_server_name, path))
        case "uri_template":
            config = unpack(
                message.uri_template.typed_config, uri_template_match_pb2.UriTemplateMatchConfig, f"{path}.typed_config"
            )
            return PathTemplateIs(parse_uri_template(config.path_template, f"{path}.typed_config.path_template"))
        case "matcher":
            config = f"{path}.typed_config"
            unpack(message.matcher.typed_config, upstream_ip_port_matcher_pb2.UpstreamIpPortMatcher, config)
            return UpstreamIs()
        case _:
            return _parse_shared(message, which, path)


def _parse_principal(message: Any, where: str) -> RbacCondition:
    which = message.WhichOneof("identifier")
    path = f"{where}.{which}"
    match which:
        case "and_ids":
            return AllOf(_each(message.and_ids.ids, f"{path}.ids", _parse_principal))
        case "or_ids":
            return AnyOf(_each(message.or_ids.ids, f"{path}.ids", _parse_principal))
        case "not_id":
            return Not(_parse_principal(message.not_id, path))
        case "authenticated":
            names = message.authenticated
            return Authenticated(
                parse_string_matcher(names.principal_name, f"{path}.principal_name")
                if names.HasField("principal_name")
                else None
            )
        case "filter_state":
            return parse_filter_state_is(message.filter_state, path)
        case "custom":
            return _parse_custom_principal(message.custom, path)
        case "source_ip" | "direct_remote_ip" | "remote_ip":
            return FromAddress(AddressKind(which), parse_cidr(getattr(message, which), path))
        case _:
            return _parse_shared(message, which, path)


def _parse_custom_principal(message: Any, where: str) -> HasName:
    path = f"{where}.typed_config"
    config = unpack(message.typed_config, mtls_authenticated_pb2.Config, path)
    if config.HasField("san_matcher"):
        return HasName(parse_san_matcher(config.san_matcher, f"{path}.san_matcher"))
    if not config.any_validated_client_certificate:
        raise ResourceError(path, "asks for nothing: give san_matcher or any_validated_client_certificate")
    return HasName(None)


def _parse_shared(message: Any, which: str | None, where: str) -> RbacCondition:
    """What permissions and principals have in common."""
    match which:
        case "any":
            return AllOf() if message.any else AnyOf(())
        case "header":
            return HeaderIs(parse_header_matcher(message.header, where))
        case "url_path":
            return PathIs(parse_string_matcher(message.url_path.path, f"{where}.path"))
        case "metadata":
            return MetadataIs(parse_metadata_matcher(message.metadata, where))
        case "sourced_metadata":
            sourced = message.sourced_metadata
            if sourced.metadata_source not in (rbac_pb2.DYNAMIC, rbac_pb2.ROUTE):
                raise ResourceError(f"{where}.metadata_source", f"unknown value {sourced.metadata_source}")
            return MetadataIs(
                parse_metadata_matcher(sourced.metadata_matcher, f"{where}.metadata_matcher"),
                of_route=sourced.metadata_source == rbac_pb2.ROUTE,
            )
        case _:
            raise ResourceError(where, "is a condition that meshsdk does not know, and refuses rather than leaves out")
