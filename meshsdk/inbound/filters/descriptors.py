"""Descriptors: what a request is counted by, made of it by the rules of its route.

Sources: envoy.config.route.v3.RateLimit; Envoy source/common/router/router_ratelimit.cc.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from ...errors import ResourceError
from ...resources.filters.rate_limit_rules import (
    ClusterEntry,
    ConstantEntry,
    HeaderEntry,
    HeadersMatchEntry,
    LimitOverride,
    MetadataEntry,
    QueryParameterEntry,
    QueryParametersMatchEntry,
    RateLimitRule,
    RemoteAddressEntry,
    RuleAction,
    VirtualHostRules,
)
from ...routing.conditions import compile_header, compile_query_parameter, no_chance
from ...routing.string_match import header_text
from ..request import InboundRequest

__all__ = ["Descriptor", "Entry", "MakeDescriptors", "RouteLimits", "compile_descriptors"]

Entry = tuple[str, str]

# RateLimitRequest's requests_per_unit has 32 bits; what a filter says may be any number, or none.
_END_OF_COUNT = 2**32


class Descriptor(Struct, frozen=True):
    """What a request is counted by.

    Attributes:
        hits_addend: What it counts for; None is once.
        limit: Requests per unit, and the unit, where an earlier filter said them.
    """

    entries: tuple[Entry, ...]
    hits_addend: int | None = None
    limit: tuple[int, str] | None = None


class RouteLimits(Struct, frozen=True):
    """The rules that a route and its virtual host have.

    Attributes:
        is_routed: Whether the route leads to a cluster; otherwise nothing is counted.
        includes_virtual_host: The virtual host's rules count besides the route's (include_vh_rate_limits).
        own_cluster: That this process is of.
        cluster: That the route leads to.
    """

    route: tuple[RateLimitRule, ...] = ()
    virtual_host: tuple[RateLimitRule, ...] = ()
    is_routed: bool = True
    includes_virtual_host: bool = False
    own_cluster: str = ""
    cluster: str = ""

    def rules(self, stage: int, option: VirtualHostRules) -> list[RateLimitRule]:
        """Those that a filter of this stage goes by."""
        if not self.is_routed:
            return []
        overrides = option is VirtualHostRules.OVERRIDE and bool(self.route)
        leaves_out = overrides or option is VirtualHostRules.IGNORE
        rules = self.route if leaves_out and not self.includes_virtual_host else self.route + self.virtual_host
        return [rule for rule in rules if rule.stage == stage]


MakeDescriptors = Callable[[InboundRequest], list[Descriptor]]

# An entry; None where the whole descriptor falls away, and no key where only the entry does.
_MakeEntry = Callable[[InboundRequest], Entry | None]
_SKIPPED = ("", "")


def compile_descriptors(rules: Sequence[RateLimitRule], limits: RouteLimits, where: str) -> MakeDescriptors:
    """A function that makes a request's descriptors.

    Raises:
        ResourceError: A rule cannot be carried out: what is limited would not be.
    """
    for rule in rules:
        if rule.problem:
            raise ResourceError(where, rule.problem)
    compiled = [
        ([_compile_action(action, limits, where) for action in rule.actions], rule.hits_addend, rule.override)
        for rule in rules
    ]

    def make(request: InboundRequest) -> list[Descriptor]:
        descriptors = []
        for actions, addend, override in compiled:
            entries = _entries(actions, request)
            if entries is not None:
                descriptors.append(Descriptor(entries, addend, _limit(override, request)))
        return descriptors

    return make


def _entries(actions: Sequence[_MakeEntry], request: InboundRequest) -> tuple[Entry, ...] | None:
    entries = []
    for action in actions:
        entry = action(request)
        if entry is None:
            return None
        if entry[0]:
            entries.append(entry)
    return tuple(entries)


def _limit(override: LimitOverride | None, request: InboundRequest) -> tuple[int, str] | None:
    if override is None:
        return None
    said = _told(request.metadata, override.filter, override.path)
    if not isinstance(said, dict):
        return None
    number, unit = said.get("requests_per_unit"), said.get("unit")
    if (
        isinstance(number, int | float)
        and not isinstance(number, bool)
        and isinstance(unit, str)
        and 0 <= number < _END_OF_COUNT
    ):
        return int(number), unit.upper()
    return None


def _told(metadata: Mapping[str, Any], name: str, path: Sequence[str]) -> Any:
    value: Any = metadata.get(name)
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _first_text(request: InboundRequest, name: str) -> str | None:
    value = request.head.first_header(name)
    return value if value is None else header_text(value, "replace")


def _compile_action(action: RuleAction, limits: RouteLimits, where: str) -> _MakeEntry:
    match action:
        case ClusterEntry(key=key):
            entry = (key, limits.own_cluster if key == "source_cluster" else limits.cluster)
            return lambda request: entry
        case HeaderEntry(key=key, name=name, skip_if_absent=skips):
            absent = _SKIPPED if skips else None
            return lambda request: _entry(key, _first_text(request, name), absent)
        case QueryParameterEntry(key=key, name=name, skip_if_absent=skips):
            absent = _SKIPPED if skips else None
            return lambda request: _entry(key, request.head.query_parameter(name), absent)
        case RemoteAddressEntry():
            return _remote_address(action)
        case ConstantEntry(key=key, value=value):
            constant = (key, value)
            return lambda request: constant
        case HeadersMatchEntry(key=key, value=value, expected=expected):
            conditions = [compile_header(one) for one in action.headers]
            return _matching((key, value), expected, conditions)
        case QueryParametersMatchEntry(key=key, value=value, expected=expected):
            conditions = [compile_query_parameter(one) for one in action.parameters]
            return _matching((key, value), expected, conditions)
        case MetadataEntry():
            return _metadata(action)
        case _:
            raise ResourceError(where, f"{type(action).__name__} is an action that is not carried out")


def _entry(key: str, value: str | None, absent: Entry | None) -> Entry | None:
    return absent if value is None else (key, value)


def _matching(entry: Entry, expected: bool, conditions: Sequence[Any]) -> _MakeEntry:
    def make(request: InboundRequest) -> Entry | None:
        matches = all(condition.holds(request.head, no_chance) for condition in conditions)
        return entry if matches is expected else None

    return make


def _remote_address(action: RemoteAddressEntry) -> _MakeEntry:
    key, prefix_v4, prefix_v6 = action.key, action.prefix_v4, action.prefix_v6

    def make(request: InboundRequest) -> Entry | None:
        address = request.remote
        if address is None:
            return None
        prefix = prefix_v4 if address.version == 4 else prefix_v6
        if prefix is None:
            return key, str(address)
        return key, str(ipaddress.ip_network((address, prefix), strict=False))

    return make


def _metadata(action: MetadataEntry) -> _MakeEntry:
    absent = (action.key, action.default) if action.default else _SKIPPED if action.skip_if_absent else None

    def make(request: InboundRequest) -> Entry | None:
        value = _told(request.route_metadata if action.of_route else request.metadata, action.filter, action.path)
        return (action.key, value) if isinstance(value, str) and value else absent

    return make
