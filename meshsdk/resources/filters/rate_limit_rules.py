"""What requests are counted by: rules that make descriptors of them (envoy.config.route.v3.RateLimit).

A rule's actions each give one entry of its descriptor; where one gives none, there is no descriptor.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from ...errors import ResourceError
from .. import protos
from ..matching import HeaderMatcher, QueryParameterMatcher, parse_header_matcher, parse_query_parameter_matcher
from ..values import optional

__all__ = [
    "ClusterEntry",
    "ConstantEntry",
    "HeaderEntry",
    "HeadersMatchEntry",
    "LimitOverride",
    "MetadataEntry",
    "QueryParameterEntry",
    "QueryParametersMatchEntry",
    "RateLimitRule",
    "RemoteAddressEntry",
    "RuleAction",
    "VirtualHostRules",
    "parse_rules_of",
    "parse_rules_of_filter",
]


class VirtualHostRules(Enum):
    """When a virtual host's rules count besides its route's (VhRateLimitsOptions)."""

    OVERRIDE = 0
    INCLUDE = 1
    IGNORE = 2


class ClusterEntry(Struct, frozen=True, gc=False):
    """The cluster that the request comes from (this process's own) or goes to."""

    key: str


class HeaderEntry(Struct, frozen=True, gc=False):
    """A request header's value; without the header there is no descriptor, or no entry where that is skipped."""

    key: str
    name: str
    skip_if_absent: bool = False


class QueryParameterEntry(Struct, frozen=True, gc=False):
    """A query parameter's value, likewise."""

    key: str
    name: str
    skip_if_absent: bool = False


class RemoteAddressEntry(Struct, frozen=True, gc=False):
    """The client's address; with prefixes, its network."""

    key: str
    prefix_v4: int | None = None
    prefix_v6: int | None = None


class ConstantEntry(Struct, frozen=True, gc=False):
    """A value for all requests (GenericKey)."""

    key: str
    value: str


class HeadersMatchEntry(Struct, frozen=True, gc=False):
    """A constant, for requests whose headers match, or do not."""

    key: str
    value: str
    expected: bool
    headers: tuple[HeaderMatcher, ...]


class QueryParametersMatchEntry(Struct, frozen=True, gc=False):
    """A constant, for requests whose query parameters match, or do not."""

    key: str
    value: str
    expected: bool
    parameters: tuple[QueryParameterMatcher, ...]


class MetadataEntry(Struct, frozen=True, gc=False):
    """What an earlier filter said of the request, or its route says; text only."""

    key: str
    filter: str
    path: tuple[str, ...]
    default: str = ""
    skip_if_absent: bool = False
    of_route: bool = False


RuleAction = (
    ClusterEntry
    | HeaderEntry
    | QueryParameterEntry
    | RemoteAddressEntry
    | ConstantEntry
    | HeadersMatchEntry
    | QueryParametersMatchEntry
    | MetadataEntry
)


class LimitOverride(Struct, frozen=True, gc=False):
    """Where an earlier filter may have said another limit (RateLimit.Override.DynamicMetadata)."""

    filter: str
    path: tuple[str, ...]


class RateLimitRule(Struct, frozen=True, gc=False):
    """One rule.

    Attributes:
        stage: Filters of the same stage go by it.
        hits_addend: What a request counts for; None is once. Envoy looks at it in rules of filters only.
        problem: Why a server cannot go by it; clients have routes too, and do not count.
    """

    actions: tuple[RuleAction, ...]
    stage: int = 0
    hits_addend: int | None = None
    override: LimitOverride | None = None
    problem: str = ""


def parse_rules_of(messages: Any, where: str) -> tuple[RateLimitRule, ...]:
    """The rules of a route, a virtual host or a filter."""
    rules = []
    for index, message in enumerate(messages):
        try:
            rules.append(_parse_rule(message, f"{where}[{index}]"))
        except ResourceError as error:
            rules.append(RateLimitRule((), problem=str(error)))
    return tuple(rules)


def parse_rules_of_filter(messages: Any, where: str) -> tuple[RateLimitRule, ...]:
    """The rules that a filter has itself, in place of its routes'.

    Raises:
        ResourceError: One cannot be carried out, or holds what only routes have.
    """
    for index, message in enumerate(messages):
        for name in ("stage", "limit"):
            if message.HasField(name):
                raise ResourceError(f"{where}[{index}].{name}", "only rules of routes have it")
        if message.disable_key:
            raise ResourceError(f"{where}[{index}].disable_key", "only rules of routes have it")
        if message.hits_addend.format:
            raise ResourceError(f"{where}[{index}].hits_addend.format", "is refused; use number")
    rules = parse_rules_of(messages, where)
    for rule in rules:
        if rule.problem:
            raise ResourceError(where, rule.problem)
    return tuple(
        replace(rule, hits_addend=message.hits_addend.number.value) if message.hits_addend.HasField("number") else rule
        for rule, message in zip(rules, messages, strict=True)
    )


def _parse_rule(message: Any, where: str) -> RateLimitRule:
    # disable_key needs Envoy's runtime; without a value there the rule holds.
    if message.apply_on_stream_done:
        raise ResourceError(f"{where}.apply_on_stream_done", "is refused: requests are counted when they come")
    override = None
    if message.limit.HasField("dynamic_metadata"):
        key = message.limit.dynamic_metadata.metadata_key
        override = LimitOverride(key.key, tuple(one.key for one in key.path))
    return RateLimitRule(
        actions=tuple(
            _parse_action(action, f"{where}.actions[{index}]") for index, action in enumerate(message.actions)
        ),
        stage=message.stage.value,
        override=override,
    )


def _parse_action(message: Any, where: str) -> RuleAction:
    which = message.WhichOneof("action_specifier")
    path = f"{where}.{which}"
    match which:
        case "source_cluster" | "destination_cluster":
            return ClusterEntry(which)
        case "request_headers":
            header = message.request_headers
            return HeaderEntry(header.descriptor_key, header.header_name.lower(), header.skip_if_absent)
        case "query_parameters":
            parameter = message.query_parameters
            return QueryParameterEntry(
                parameter.descriptor_key, parameter.query_parameter_name, parameter.skip_if_absent
            )
        case "remote_address":
            return RemoteAddressEntry("remote_address")
        case "masked_remote_address":
            masked = message.masked_remote_address
            v4, v6 = optional(masked, "v4_prefix_mask_len"), optional(masked, "v6_prefix_mask_len")
            return RemoteAddressEntry("masked_remote_address", 32 if v4 is None else v4, 128 if v6 is None else v6)
        case "generic_key":
            return ConstantEntry(
                message.generic_key.descriptor_key or "generic_key", message.generic_key.descriptor_value
            )
        case "header_value_match":
            match_ = message.header_value_match
            return HeadersMatchEntry(
                match_.descriptor_key or "header_match",
                match_.descriptor_value,
                _expected(match_),
                tuple(parse_header_matcher(one, f"{path}.headers[{i}]") for i, one in enumerate(match_.headers)),
            )
        case "query_parameter_value_match":
            match_ = message.query_parameter_value_match
            return QueryParametersMatchEntry(
                match_.descriptor_key or "query_match",
                match_.descriptor_value,
                _expected(match_),
                tuple(
                    parse_query_parameter_matcher(one, f"{path}.query_parameters[{i}]")
                    for i, one in enumerate(match_.query_parameters)
                ),
            )
        case "metadata" | "dynamic_metadata":
            metadata = getattr(message, which)
            sources = protos.route_components_pb2.RateLimit.Action.MetaData
            source = metadata.source if which == "metadata" else sources.DYNAMIC
            if source not in (sources.DYNAMIC, sources.ROUTE_ENTRY):
                raise ResourceError(f"{path}.source", f"{sources.Source.Name(source)} is a source that is not known")
            return MetadataEntry(
                metadata.descriptor_key,
                metadata.metadata_key.key,
                tuple(one.key for one in metadata.metadata_key.path),
                metadata.default_value,
                which == "metadata" and metadata.skip_if_absent,
                source == sources.ROUTE_ENTRY,
            )
        case _:
            raise ResourceError(path, "is an action that meshsdk does not know")


def _expected(message: Any) -> bool:
    return bool(message.expect_match.value) if message.HasField("expect_match") else True
