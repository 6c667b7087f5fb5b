"""RBAC by a tree of matchers instead of policies (RBAC.matcher: xds.type.matcher.v3.Matcher).

A matcher looks at inputs of a request and ends in an action of RBAC, or in none, which denies. What is not known is
refused where it stands.

Sources: envoy.extensions.filters.http.rbac.v3.RBAC; Envoy docs, intro/arch_overview/advanced/matching.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.matching.common_inputs.network.v3 import network_inputs_pb2
from envoy.extensions.matching.common_inputs.ssl.v3 import ssl_inputs_pb2
from envoy.type.matcher.v3 import http_inputs_pb2
from msgspec import Struct
from xds.type.matcher.v3 import http_inputs_pb2 as xds_http_inputs_pb2
from xds.type.matcher.v3 import ip_pb2

from ...errors import ResourceError
from ..matching import (
    CelCondition,
    HasValue,
    InputMatcher,
    Network,
    parse_cidr,
    parse_input_matcher,
    parse_string_matcher,
)
from ..values import unpack

__all__ = [
    "AddressTree",
    "AllMatch",
    "AnyMatches",
    "InputMatches",
    "MatchEntry",
    "MatchInput",
    "MatchInputKind",
    "MatchList",
    "MatchTree",
    "Matcher",
    "MatcherAction",
    "NoMatch",
    "Predicate",
    "RangeBranch",
    "parse_matcher",
]

_MAX_DEPTH = 16
_ACTIONS = {0: "ALLOW", 1: "DENY", 2: "LOG"}


class MatchInputKind(Enum):
    """What of a request is looked at."""

    HEADER = "header"
    SOURCE_IP = "source ip"
    DIRECT_SOURCE_IP = "direct source ip"
    SOURCE_PORT = "source port"
    DESTINATION_IP = "destination ip"
    DESTINATION_PORT = "destination port"
    SERVER_NAME = "server name"
    URI_SAN = "uri san"
    DNS_SAN = "dns san"
    SUBJECT = "subject"
    METADATA = "metadata"
    ATTRIBUTES = "attributes of CEL"


class MatchInput(Struct, frozen=True, gc=False):
    """An input; `name` is a header's, or of the filter whose metadata are looked at, and `path` is where."""

    kind: MatchInputKind
    name: str = ""
    path: tuple[str, ...] = ()


class MatcherAction(Struct, frozen=True, gc=False):
    """Where a matcher ends (envoy.config.rbac.v3.Action)."""

    name: str
    action: str


class InputMatches(Struct, frozen=True, gc=False):
    """An input is there and matches."""

    input: MatchInput
    matcher: InputMatcher


class AllMatch(Struct, frozen=True, gc=False):
    """Every predicate holds."""

    predicates: tuple[Predicate, ...]


class AnyMatches(Struct, frozen=True, gc=False):
    """One predicate holds at least."""

    predicates: tuple[Predicate, ...]


class NoMatch(Struct, frozen=True, gc=False):
    """A predicate does not hold."""

    predicate: Predicate


Predicate = InputMatches | AllMatch | AnyMatches | NoMatch


class MatchEntry(Struct, frozen=True, gc=False):
    """A predicate and what comes of it."""

    predicate: Predicate
    then: MatcherAction | Matcher


class MatchList(Struct, frozen=True, gc=False):
    """The first entry counts whose predicate holds, and which comes to an action."""

    entries: tuple[MatchEntry, ...]
    otherwise: MatcherAction | Matcher | None = None


class MatchTree(Struct, frozen=True, gc=False):
    """An input is looked up: whole, or by its longest prefix."""

    input: MatchInput
    is_prefix: bool
    branches: tuple[tuple[str, MatcherAction | Matcher], ...]
    otherwise: MatcherAction | Matcher | None = None


class RangeBranch(Struct, frozen=True, gc=False):
    """Where an address leads to by one of its ranges.

    Attributes:
        exclusive: Only where no longer range holds the address.
    """

    networks: tuple[Network, ...]
    then: MatcherAction | Matcher
    exclusive: bool = False


class AddressTree(Struct, frozen=True, gc=False):
    """An input is looked up as an address: by its longest range, then by the shorter ones (xds IPMatcher)."""

    input: MatchInput
    branches: tuple[RangeBranch, ...]
    otherwise: MatcherAction | Matcher | None = None


Matcher = MatchList | MatchTree | AddressTree


def parse_matcher(message: Any, where: str, depth: int = 0) -> Matcher:
    """An xds.type.matcher.v3.Matcher whose actions are RBAC's.

    Raises:
        ResourceError: It holds an input, matcher or action that meshsdk does not know, or is nested too deep.
    """
    if depth > _MAX_DEPTH:
        raise ResourceError(where, f"is nested deeper than {_MAX_DEPTH}")
    otherwise = None
    if message.HasField("on_no_match"):
        otherwise = _parse_then(message.on_no_match, f"{where}.on_no_match", depth)
    which = message.WhichOneof("matcher_type")
    if which == "matcher_list":
        entries = []
        for index, one in enumerate(message.matcher_list.matchers):
            path = f"{where}.matcher_list.matchers[{index}]"
            predicate = _parse_predicate(one.predicate, f"{path}.predicate", depth)
            entries.append(MatchEntry(predicate, _parse_then(one.on_match, f"{path}.on_match", depth)))
        return MatchList(tuple(entries), otherwise)
    if which == "matcher_tree":
        return _parse_tree(message.matcher_tree, f"{where}.matcher_tree", depth, otherwise)
    # A matcher without any condition comes to what it says for no match.
    return MatchList((), otherwise)


def _parse_tree(tree: Any, where: str, depth: int, otherwise: MatcherAction | Matcher | None) -> Matcher:
    kind = tree.WhichOneof("tree_type")
    path = f"{where}.{kind}"
    read = _parse_text_input(tree.input, f"{where}.input")
    if kind == "custom_match":
        ranges = _parse_ranges(tree.custom_match.typed_config, f"{path}.typed_config", depth)
        return AddressTree(read, ranges, otherwise)
    if kind not in ("exact_match_map", "prefix_match_map"):
        raise ResourceError(path, "is a tree that meshsdk does not know")
    branches = tuple(
        (key, _parse_then(then, f"{path}.map[{key!r}]", depth)) for key, then in sorted(getattr(tree, kind).map.items())
    )
    return MatchTree(read, kind == "prefix_match_map", branches, otherwise)


def _parse_then(message: Any, where: str, depth: int) -> MatcherAction | Matcher:
    if message.keep_matching:
        raise ResourceError(f"{where}.keep_matching", "is refused, in Envoy too")
    if message.WhichOneof("on_match") == "matcher":
        return parse_matcher(message.matcher, f"{where}.matcher", depth + 1)
    path = f"{where}.action.typed_config"
    action = unpack(message.action.typed_config, rbac_pb2.Action, path)
    if action.action not in _ACTIONS:
        raise ResourceError(f"{path}.action", f"unknown value {action.action}")
    return MatcherAction(action.name, _ACTIONS[action.action])


def _parse_predicate(message: Any, where: str, depth: int) -> Predicate:
    if depth > _MAX_DEPTH:
        raise ResourceError(where, f"is nested deeper than {_MAX_DEPTH}")
    which = message.WhichOneof("match_type")
    match which:
        case "single_predicate":
            single, path = message.single_predicate, f"{where}.single_predicate"
            if single.WhichOneof("matcher") == "custom_match":
                return _parse_custom(single, path)
            if single.value_match.WhichOneof("match_pattern") == "custom":
                raise ResourceError(f"{path}.value_match.custom", "is refused, in Envoy too")
            return InputMatches(
                _parse_text_input(single.input, f"{path}.input"),
                parse_string_matcher(single.value_match, f"{path}.value_match"),
            )
        case "and_matcher" | "or_matcher":
            inner = tuple(
                _parse_predicate(one, f"{where}.{which}.predicate[{index}]", depth + 1)
                for index, one in enumerate(getattr(message, which).predicate)
            )
            return AllMatch(inner) if which == "and_matcher" else AnyMatches(inner)
        case "not_matcher":
            return NoMatch(_parse_predicate(message.not_matcher, f"{where}.not_matcher", depth + 1))
        case _:
            raise ResourceError(where, "is empty")


def _parse_custom(single: Any, where: str) -> InputMatches:
    read = _parse_input(single.input, f"{where}.input")
    path = f"{where}.custom_match.typed_config"
    matcher = parse_input_matcher(single.custom_match.typed_config, path)
    asked = _NOT_TEXT.get(type(matcher))
    if (read.kind is MatchInputKind.ATTRIBUTES or asked is not None) and read.kind is not asked:
        raise ResourceError(path, f"{type(matcher).__name__} cannot match the input {read.kind.value}")
    return InputMatches(read, matcher)


_NOT_TEXT: dict[type, MatchInputKind] = {
    CelCondition: MatchInputKind.ATTRIBUTES,
    HasValue: MatchInputKind.METADATA,
}


def _parse_ranges(container: Any, where: str, depth: int) -> tuple[RangeBranch, ...]:
    message = unpack(container, ip_pb2.IPMatcher, where)
    branches = []
    for index, one in enumerate(message.range_matchers):
        path = f"{where}.range_matchers[{index}]"
        networks = tuple(parse_cidr(each, f"{path}.ranges[{number}]") for number, each in enumerate(one.ranges))
        branches.append(RangeBranch(networks, _parse_then(one.on_match, f"{path}.on_match", depth), one.exclusive))
    return tuple(branches)


_NETWORK = network_inputs_pb2.DESCRIPTOR.package
_SSL = ssl_inputs_pb2.DESCRIPTOR.package
_INPUTS = {
    f"{_NETWORK}.SourceIPInput": MatchInputKind.SOURCE_IP,
    f"{_NETWORK}.DirectSourceIPInput": MatchInputKind.DIRECT_SOURCE_IP,
    f"{_NETWORK}.SourcePortInput": MatchInputKind.SOURCE_PORT,
    f"{_NETWORK}.DestinationIPInput": MatchInputKind.DESTINATION_IP,
    f"{_NETWORK}.DestinationPortInput": MatchInputKind.DESTINATION_PORT,
    f"{_NETWORK}.ServerNameInput": MatchInputKind.SERVER_NAME,
    f"{_SSL}.UriSanInput": MatchInputKind.URI_SAN,
    f"{_SSL}.DnsSanInput": MatchInputKind.DNS_SAN,
    f"{_SSL}.SubjectInput": MatchInputKind.SUBJECT,
}


def _parse_text_input(message: Any, where: str) -> MatchInput:
    found = _parse_input(message, where)
    if found.kind is MatchInputKind.ATTRIBUTES:
        raise ResourceError(where, f"{found.kind.value} are no text: give a custom_match")
    return found


def _parse_input(message: Any, where: str) -> MatchInput:
    kind = message.typed_config.type_url.rpartition("/")[2]
    if kind in _INPUTS:
        return MatchInput(_INPUTS[kind])
    path = f"{where}.typed_config"
    if kind == http_inputs_pb2.HttpRequestHeaderMatchInput.DESCRIPTOR.full_name:
        header = unpack(message.typed_config, http_inputs_pb2.HttpRequestHeaderMatchInput, path)
        return MatchInput(MatchInputKind.HEADER, header.header_name.lower())
    if kind == network_inputs_pb2.DynamicMetadataInput.DESCRIPTOR.full_name:
        metadata = unpack(message.typed_config, network_inputs_pb2.DynamicMetadataInput, path)
        return MatchInput(MatchInputKind.METADATA, metadata.filter, tuple(segment.key for segment in metadata.path))
    if kind == xds_http_inputs_pb2.HttpAttributesCelMatchInput.DESCRIPTOR.full_name:
        return MatchInput(MatchInputKind.ATTRIBUTES)
    raise ResourceError(path, f"{kind or 'nothing'} is an input that meshsdk does not know")
