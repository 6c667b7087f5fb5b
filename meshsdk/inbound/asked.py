"""What configuration asks of a request that not every server tells.

Theory of operation. Settings are frozen dataclasses; they are walked once, when a policy is compiled, and each place
that looks at a connection or a header says which fact it looks at. A server says with each connection what it does not
tell. Where the two meet nobody gets in: a condition on an empty value is no condition, and a DENY that can never match
would let in everybody. What is asked by the choice of a route refuses every request, what a route's own filters ask
the requests of that route.

Shadow rules refuse nobody, but what they found may be asked by a later filter (Istio's CUSTOM action): then what they
ask counts as that filter's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import re2
from msgspec import Struct, field

from ..resources import HeaderMatcher, RouteMatch
from ..resources.filters.ext_authz import ExtAuthz, GrpcAuthorization
from ..resources.filters.rate_limit_rules import HeaderEntry, LimitOverride, MetadataEntry, RemoteAddressEntry
from ..resources.filters.rbac import AddressKind, Authenticated, FromAddress, HasName, Rbac, ServerNameIs
from ..resources.filters.rbac_matcher import MatchInput, MatchInputKind
from ..resources.filters.set_filter_state import FilterStateValue
from ..resources.header_mutations import HeaderAddition
from ..resources.matching import CelCondition, MetadataMatcher
from .connection import Fact

__all__ = ["NOTHING", "NOTHING_ASKED", "Asked", "asked_of", "header_facts"]

NOTHING: frozenset[Fact] = frozenset()
_NAME = frozenset({Fact.SECURED, Fact.PEER})

_RBAC = "envoy.filters.http.rbac"
# A reader of RBAC's results that does not say which.
_ANY_RESULT = ""


class Asked(Struct, frozen=True):
    """What settings ask.

    Attributes:
        facts: What they look at themselves.
        results: Names of RBAC's results that they look at; the empty one is any.
        shadows: What shadow rules look at, by the prefix of the names of their results.
    """

    facts: frozenset[Fact] = NOTHING
    results: frozenset[str] = frozenset()
    shadows: frozenset[tuple[str, frozenset[Fact]]] = frozenset()

    def __or__(self, other: Asked) -> Asked:
        return Asked(self.facts | other.facts, self.results | other.results, self.shadows | other.shadows)

    def of_request(self) -> frozenset[Fact]:
        """What must be told for a request to be decided on."""
        facts = self.facts
        for prefix, of_shadow in self.shadows:
            if any(not name or name.startswith(prefix) for name in self.results):
                facts |= of_shadow
        return facts


NOTHING_ASKED = Asked()


class _Found(Struct):
    facts: set[Fact] = field(default_factory=set)
    results: set[str] = field(default_factory=set)
    shadows: set[tuple[str, frozenset[Fact]]] = field(default_factory=set)


def asked_of(settings: object) -> Asked:
    """What settings of any kind ask, with all that is in them. Changes of responses do not count."""
    found = _Found()
    _walk(settings, found)
    return Asked(frozenset(found.facts), frozenset(found.results), frozenset(found.shadows))


def _walk(one: object, found: _Found) -> None:
    look = _LOOKS.get(type(one))
    if look is not None:
        look(one, found)
    if isinstance(one, Rbac):
        _look_at_rbac(one, found)
    elif isinstance(one, Struct):
        for name in one.__struct_fields__:
            if not name.startswith("response"):
                _walk(getattr(one, name), found)
    elif isinstance(one, Mapping):
        for value in one.values():
            _walk(value, found)
    elif isinstance(one, tuple | list | frozenset):
        for value in one:
            _walk(value, found)


def _look_at_rbac(rbac: Rbac, found: _Found) -> None:
    # A matcher's rules are not looked at.
    _walk(rbac.rules if rbac.matcher is None else rbac.matcher, found)
    shadow = asked_of(rbac.shadow_rules if rbac.shadow_matcher is None else rbac.shadow_matcher)
    found.results |= shadow.results
    if shadow.facts:
        found.shadows.add((rbac.shadow_prefix, shadow.facts))


def header_facts(name: str) -> frozenset[Fact]:
    """What must be told for a request header to be known, by its lower-case name."""
    return _HEADERS.get(name, NOTHING)


# Of a request as gRPC hands it over, the metadata without these (grpc-core: PublishToAppEncoder in call metadata).
_OF_GRPC = frozenset(
    "content-type te grpc-timeout grpc-encoding grpc-accept-encoding grpc-internal-encoding-request grpc-status"
    " grpc-message grpc-trace-bin grpc-tags-bin grpc-server-stats-bin lb-cost-bin x-envoy-peer-metadata".split()
)

_HEADERS: dict[str, frozenset[Fact]] = {
    ":authority": frozenset({Fact.AUTHORITY}),
    "host": frozenset({Fact.AUTHORITY}),
    ":scheme": frozenset({Fact.SECURED}),
    # What the edge of the mesh writes into a request, or takes from it.
    "x-forwarded-proto": frozenset({Fact.SECURED}),
    "x-forwarded-for": frozenset({Fact.SOURCE}),
    "x-envoy-external-address": frozenset({Fact.SOURCE}),
    "x-envoy-internal": frozenset({Fact.SOURCE}),
    "x-forwarded-client-cert": frozenset({Fact.PEER}),
    **dict.fromkeys(_OF_GRPC, frozenset({Fact.GRPC_HEADERS})),
}
_EVERY_HEADER = frozenset().union(*_HEADERS.values())


def _look_at_header(one: Any, found: _Found) -> None:
    found.facts |= header_facts(one.name.lower())


def _look_at_address(one: FromAddress, found: _Found) -> None:
    found.facts.add(Fact.DESTINATION_IP if one.kind is AddressKind.DESTINATION else Fact.SOURCE)


def _look_at_name(one: Authenticated, found: _Found) -> None:
    # Over TLS a peer without a certificate has an empty name.
    found.facts |= {Fact.SECURED} if one.matcher is None else _NAME


def _look_at_route(one: RouteMatch, found: _Found) -> None:
    if one.never != one.never_with_certificate:
        found.facts.add(Fact.PEER)


def _look_at_input(one: MatchInput, found: _Found) -> None:
    if one.kind is MatchInputKind.HEADER:
        _look_at_header(one, found)
    elif one.kind is MatchInputKind.METADATA:
        _look_at_metadata(one.name, one.path, found)
    elif one.kind in _INPUTS:
        found.facts.add(_INPUTS[one.kind])


def _look_at_metadata(name: str, path: tuple[str, ...], found: _Found) -> None:
    if name == _RBAC:
        found.results.add(path[0] if path else _ANY_RESULT)


def _look_at_format(text: str, found: _Found) -> None:
    for operator in _OPERATOR.finditer(text):
        name, arguments = operator[1], operator[2] or ""
        if name in ("REQ", "REQUEST_HEADER"):
            for header in arguments.lower().split("?"):
                found.facts |= header_facts(header)
        elif "METADATA" in name and _RBAC in arguments:
            found.results.add(_ANY_RESULT)
        else:
            found.facts |= next((facts for start, facts in _OPERATORS if name.startswith(start)), NOTHING)


def _look_at_cel(one: CelCondition, found: _Found) -> None:
    for attribute in one.attributes:
        found.facts |= _ATTRIBUTES.get(attribute, NOTHING)
    for name in one.headers:
        found.facts |= header_facts(name)
    if one.asks_any_header:
        found.facts |= _EVERY_HEADER
    if ("metadata", "filter_metadata") in one.attributes:
        found.results.add(_ANY_RESULT)


def _look_at_authorization(one: ExtAuthz, found: _Found) -> None:
    # Whoever is asked is told these, and may have rules about them.
    found.facts.add(Fact.AUTHORITY)
    if isinstance(one.service, GrpcAuthorization):
        found.facts |= {Fact.SOURCE, Fact.SECURED, Fact.PEER}
    if _RBAC in one.metadata_namespaces:
        found.results.add(_ANY_RESULT)


_LOOKS: dict[type, Callable[[Any, _Found], None]] = {
    HeaderMatcher: _look_at_header,
    HeaderEntry: _look_at_header,
    FromAddress: _look_at_address,
    RemoteAddressEntry: lambda one, found: found.facts.add(Fact.SOURCE),
    ServerNameIs: lambda one, found: found.facts.add(Fact.SERVER_NAME),
    Authenticated: _look_at_name,
    HasName: lambda one, found: found.facts.add(Fact.PEER),
    RouteMatch: _look_at_route,
    MatchInput: _look_at_input,
    MetadataMatcher: lambda one, found: _look_at_metadata(one.filter, one.path, found),
    MetadataEntry: lambda one, found: _look_at_metadata(one.filter, one.path, found),
    LimitOverride: lambda one, found: _look_at_metadata(one.filter, one.path, found),
    HeaderAddition: lambda one, found: _look_at_format(one.value, found),
    FilterStateValue: lambda one, found: _look_at_format(one.text, found),
    CelCondition: _look_at_cel,
    ExtAuthz: _look_at_authorization,
}

_INPUTS = {
    MatchInputKind.SOURCE_IP: Fact.SOURCE,
    MatchInputKind.DIRECT_SOURCE_IP: Fact.SOURCE,
    MatchInputKind.SOURCE_PORT: Fact.SOURCE,
    MatchInputKind.DESTINATION_IP: Fact.DESTINATION_IP,
    MatchInputKind.SERVER_NAME: Fact.SERVER_NAME,
    MatchInputKind.URI_SAN: Fact.PEER,
    MatchInputKind.DNS_SAN: Fact.PEER,
    MatchInputKind.SUBJECT: Fact.PEER,
}

_OPERATOR = re2.compile(r"%([A-Z_0-9]+)(?:\(([^)]*)\))?(?::\d+)?%")

_OPERATORS: tuple[tuple[str, frozenset[Fact]], ...] = (
    ("REQUESTED_SERVER_NAME", frozenset({Fact.SERVER_NAME})),
    ("DOWNSTREAM_REMOTE_", frozenset({Fact.SOURCE})),
    ("DOWNSTREAM_DIRECT_REMOTE_", frozenset({Fact.SOURCE})),
    ("DOWNSTREAM_LOCAL_ADDRESS", frozenset({Fact.DESTINATION_IP})),
    ("DOWNSTREAM_LOCAL_URI_SAN", frozenset({Fact.OWN_CERTIFICATE})),
    ("DOWNSTREAM_TLS_", frozenset({Fact.TLS_PARAMETERS})),
    ("DOWNSTREAM_PEER_", frozenset({Fact.PEER})),
)

_ATTRIBUTES: dict[tuple[str, str], frozenset[Fact]] = {
    ("request", "host"): frozenset({Fact.AUTHORITY}),
    ("request", "scheme"): frozenset({Fact.SECURED}),
    ("source", "address"): frozenset({Fact.SOURCE}),
    ("source", "port"): frozenset({Fact.SOURCE}),
    ("destination", "address"): frozenset({Fact.DESTINATION_IP}),
    ("connection", "mtls"): _NAME,
    ("connection", "requested_server_name"): frozenset({Fact.SERVER_NAME}),
    ("connection", "subject_peer_certificate"): _NAME,
    ("connection", "uri_san_peer_certificate"): frozenset({Fact.PEER}),
    ("connection", "dns_san_peer_certificate"): frozenset({Fact.PEER}),
    ("connection", "sha256_peer_certificate_digest"): _NAME,
    ("connection", "uri_san_local_certificate"): frozenset({Fact.OWN_CERTIFICATE}),
}
