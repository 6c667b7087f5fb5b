"""RBAC's trees of matchers, compiled (Envoy: source/common/matcher; source/extensions/filters/common/rbac)."""

from __future__ import annotations

from collections.abc import Callable

from ...resources.filters.rbac_matcher import (
    AddressTree,
    AllMatch,
    AnyMatches,
    InputMatches,
    Matcher,
    MatcherAction,
    MatchInput,
    MatchInputKind,
    MatchTree,
    NoMatch,
    Predicate,
)
from ...resources.matching import CelCondition, HasValue
from ...routing.string_match import header_text
from ..connection import parse_address
from ..request import InboundRequest
from .cel import compile_cel
from .input_matchers import compile_text_matcher
from .metadata import compile_value, value_at

__all__ = ["compile_matcher"]

# The action that a request comes to; None where it comes to none.
Find = Callable[[InboundRequest], MatcherAction | None]
Read = Callable[[InboundRequest], str | None]


def compile_matcher(matcher: Matcher) -> Find:
    """A function that finds a request's action."""
    otherwise = _then(matcher.otherwise) if matcher.otherwise is not None else _nothing
    if isinstance(matcher, MatchTree):
        return _tree(matcher, otherwise)
    if isinstance(matcher, AddressTree):
        return _address_tree(matcher, otherwise)
    entries = [(_predicate(entry.predicate), _then(entry.then)) for entry in matcher.entries]

    def find(request: InboundRequest) -> MatcherAction | None:
        for holds, then in entries:
            if holds(request):
                found = then(request)
                if found is not None:
                    return found
        return otherwise(request)

    return find


def _nothing(request: InboundRequest) -> MatcherAction | None:
    return None


def _then(then: MatcherAction | Matcher) -> Find:
    return (lambda request: then) if isinstance(then, MatcherAction) else compile_matcher(then)


def _tree(matcher: MatchTree, otherwise: Find) -> Find:
    read = _input(matcher.input)
    branches = {key: _then(then) for key, then in matcher.branches}
    by_length = sorted(branches, key=len, reverse=True)

    def find(request: InboundRequest) -> MatcherAction | None:
        value = read(request)
        if value is None:
            return otherwise(request)
        keys = [key for key in by_length if value.startswith(key)] if matcher.is_prefix else [value]
        for key in keys:
            found = branches[key](request) if key in branches else None
            if found is not None:
                return found
        return otherwise(request)

    return find


def _address_tree(matcher: AddressTree, otherwise: Find) -> Find:
    """Envoy goes from the longest range to the shortest, and through equal ones in their order."""
    read = _input(matcher.input)
    compiled = [(branch, _then(branch.then)) for branch in matcher.branches]
    branches = [(network, branch.exclusive, then) for branch, then in compiled for network in branch.networks]
    branches.sort(key=lambda one: one[0].prefixlen, reverse=True)

    def find(request: InboundRequest) -> MatcherAction | None:
        address = parse_address(read(request) or "")
        if address is None:
            return otherwise(request)
        is_longest = True
        for network, exclusive, then in branches:
            if network.version != address.version or address not in network or (exclusive and not is_longest):
                continue
            is_longest = False
            found = then(request)
            if found is not None:
                return found
        return otherwise(request)

    return find


def _predicate(predicate: Predicate) -> Callable[[InboundRequest], bool]:
    match predicate:
        case InputMatches(matcher=CelCondition() as condition):
            return compile_cel(condition)
        case InputMatches(input=wanted, matcher=HasValue(matcher=value_matcher, invert=invert)):
            test_value = compile_value(value_matcher)
            return lambda request: test_value(value_at(request.metadata, wanted.name, wanted.path)) is not invert
        case InputMatches():
            read, matches = _input(predicate.input), compile_text_matcher(predicate.matcher)

            def holds(request: InboundRequest) -> bool:
                value = read(request)
                return value is not None and matches(value)

            return holds
        case AllMatch(predicates=inner):
            every = [_predicate(one) for one in inner]
            return lambda request: all(one(request) for one in every)
        case AnyMatches(predicates=inner):
            some = [_predicate(one) for one in inner]
            return lambda request: any(one(request) for one in some)
        case NoMatch(predicate=one_):
            test = _predicate(one_)
            return lambda request: not test(request)


def _input(wanted: MatchInput) -> Read:
    name = wanted.name
    match wanted.kind:
        case MatchInputKind.HEADER:
            return lambda request: _header(request, name)
        case MatchInputKind.URI_SAN:
            return _names("URI")
        case MatchInputKind.DNS_SAN:
            return _names("DNS")
        case MatchInputKind.METADATA | MatchInputKind.ATTRIBUTES:
            # They are no text, which matchers of texts find missing.
            return lambda request: None
        case kind:
            return _OF_CONNECTION[kind]


def _header(request: InboundRequest, name: str) -> str | None:
    value = request.head.header(name)
    return value if value is None else header_text(value)


def _names(kind: str) -> Read:
    """Envoy joins several names with commas."""

    def read(request: InboundRequest) -> str | None:
        peer = request.connection.peer
        return ",".join(peer.values(kind)) or None if peer is not None else None

    return read


def _subject(request: InboundRequest) -> str | None:
    peer = request.connection.peer
    return peer.subject or None if peer is not None else None


def _source_ip(request: InboundRequest) -> str | None:
    return str(request.remote) if request.remote is not None else None


def _source_port(request: InboundRequest) -> str | None:
    return str(request.connection.source_port)


_OF_CONNECTION: dict[MatchInputKind, Read] = {
    MatchInputKind.SOURCE_IP: _source_ip,
    MatchInputKind.DIRECT_SOURCE_IP: lambda request: request.connection.source_ip or None,
    MatchInputKind.SOURCE_PORT: _source_port,
    MatchInputKind.DESTINATION_IP: lambda request: request.connection.destination_ip or None,
    MatchInputKind.DESTINATION_PORT: lambda request: str(request.connection.destination_port),
    MatchInputKind.SERVER_NAME: lambda request: request.connection.server_name or None,
    MatchInputKind.SUBJECT: _subject,
}
