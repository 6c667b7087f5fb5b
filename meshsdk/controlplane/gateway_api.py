"""Routes of Gateway API whose parents are services (GAMMA), as the VirtualServices that istiod makes.

Theory of operation. All HTTPRoutes and GRPCRoutes of one namespace for one service, and for one port where that is
named, are one VirtualService, whose rules stand in Gateway API's order: the most specific first, and of equals those of
the older object. Routes of the service's own namespace, its producer's, hold for everybody, others for clients of their
own namespace only (`Imports`). TCPRoutes and TLSRoutes are each its own (`gateway_bytes`). The objects are read after
all others, since istiod looks at which services there are.

Source: istio/istio pilot/pkg/config/kube/gateway (conversion.go, route_collections.go). istiod asks for ReferenceGrants
at gateways only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from ..errors import ConfigError
from .age import UNKNOWN_AGE, Age
from .fields import Fields
from .gateway_bytes import TLS, make_byte_rules, parse_byte_rules
from .gateway_filters import FilterHolder, NotAccepted
from .gateway_rules import parse_rules
from .http_rules import HttpMatch, HttpRoute, VirtualService
from .kinds import GATEWAY, did_you_mean
from .kubernetes import Meta
from .memo import Memo
from .names import service_host

__all__ = ["KnownHosts", "PendingRoute", "translate_routes"]

_SERVICE, _ENTRY = ("", "Service"), ("networking.istio.io", "ServiceEntry")
_GATEWAYS = ((GATEWAY, "Gateway"), (GATEWAY, "ListenerSet"))


class PendingRoute(Struct, frozen=True, eq=False):
    """A route, to be read when all services are known.

    Attributes:
        where: Its spec stands.
        is_grpc: It is a GRPCRoute.
        of_bytes: `tcp` or `tls` of a TCPRoute or a TLSRoute.
    """

    where: str
    spec: Any
    meta: Meta
    is_grpc: bool = False
    of_bytes: str = ""


class KnownHosts(Struct, frozen=True):
    """Whom routes can have for parents and backends.

    Attributes:
        services: All hosts.
        entries: Hosts of ServiceEntries, by namespace and name.
    """

    services: frozenset[str]
    entries: Mapping[tuple[str, str], tuple[str, ...]]


class _Read(Struct, frozen=True):
    """An object, read: the parents that it is attached to, or what it is by itself, and what is wrong with it."""

    attached: tuple[_Attached, ...]
    rules: tuple[VirtualService, ...]
    warnings: tuple[str, ...]
    errors: tuple[str, ...]


class _Attached(Struct, frozen=True):
    """The rules of an object at one of its parents."""

    host: str
    port: int | None
    namespace: str
    age: Age
    where: str
    routes: tuple[HttpRoute, ...]


def translate_routes(
    pending: Iterable[tuple[int, PendingRoute]],
    known: KnownHosts,
    warnings: list[str],
    errors: list[str],
    memo: Memo,
) -> list[tuple[int, VirtualService]]:
    """What all routes of Gateway API together are as VirtualServices, each with its place in the folder.

    Args:
        pending: The objects, with their places.
        known: Whom they can be about.
        warnings: Where notes go.
        errors: Where errors go; a rule with an error is left out, an object with one in its parents as a whole.
        memo: What was made of them before.
    """
    groups: dict[tuple[str, int | None, str], list[tuple[int, _Attached]]] = {}
    alone: list[tuple[int, VirtualService]] = []
    for place, one in pending:
        read = memo.keep(one.where, (one, known), partial(_read, one, known))
        warnings += read.warnings
        errors += read.errors
        alone += [(place, rule) for rule in read.rules]
        for attached in read.attached:
            key = (attached.namespace, attached.port, attached.host)
            groups.setdefault(key, []).append((place, attached))
    return [*map(_merged, groups.values()), *alone]


def _read(one: PendingRoute, known: KnownHosts, _: Memo) -> _Read:
    warnings: list[str] = []
    errors: list[ConfigError] = []
    attached: Iterable[_Attached] = ()
    rules: Iterable[VirtualService] = ()
    try:
        if one.of_bytes:
            rules = _rules_of_bytes(one, known, warnings, errors)
        else:
            attached = _attached(one, known, warnings, errors)
    except ConfigError as error:
        errors.append(error)
    except NotAccepted as why:
        warnings.append(f"{one.where}: has no effect, none of its rules, as in Istio: {why}")
    return _Read(tuple(attached), tuple(rules), tuple(warnings), tuple(map(str, errors)))


def _merged(group: list[tuple[int, _Attached]]) -> tuple[int, VirtualService]:
    """The routes of one namespace for one host (mergeHTTPRoutes)."""
    group = sorted(group, key=lambda one: one[1].age)
    place, first = group[0]
    name = "~".join(filter(None, (first.namespace, str(first.port or ""), first.host)))
    created = first.age[0]
    return place, VirtualService(
        name=name,
        namespace=first.namespace,
        hosts=(first.host,),
        routes=tuple(sorted((route for _, one in group for route in one.routes), key=_precedence)),
        where=first.where,
        age=(created, name, first.namespace) if created else UNKNOWN_AGE,
        is_of_gateway_api=True,
    )


_RANKS = {"exact": 3, "path_separated_prefix": 2, "regex": 1}


def _precedence(route: HttpRoute) -> tuple[int, ...]:
    """The more specific, the smaller (sortHTTPRoutes)."""
    if not route.matches:
        return (1,)
    match = route.matches[0]
    rank, length = (_RANKS[match.uri.kind], len(match.uri.value.encode())) if match.uri is not None else (-1, 0)
    return 0, -rank, -length, 0 if match.method is not None else 1, -len(match.headers), -len(match.query_params)


def _attached(
    one: PendingRoute, known: KnownHosts, warnings: list[str], errors: list[ConfigError]
) -> Iterable[_Attached]:
    spec, meta = Fields(one.where, one.spec, warnings), one.meta
    parents = _parse_parents(spec, meta, known)
    if spec.texts("hostnames"):
        spec.warn("hostnames", "are for gateways, and have no effect: a Service is asked for by its own names")
    if not parents:
        spec.ignore("rules")
        spec.finish(("parentRefs", "rules"))
        return []
    routes = parse_rules(spec, FilterHolder(meta, known.services, warnings, one.is_grpc), errors)
    spec.finish(("parentRefs", "rules"))
    if not routes:
        return []
    return [
        _Attached(host, port, meta.namespace, meta.age, spec.where, tuple(_at_port(route, port) for route in routes))
        for host, port in parents
    ]


def _rules_of_bytes(
    one: PendingRoute, known: KnownHosts, warnings: list[str], errors: list[ConfigError]
) -> Iterable[VirtualService]:
    spec, holder = (
        Fields(one.where, one.spec, warnings),
        FilterHolder(one.meta, known.services, warnings, is_grpc=False),
    )
    parents = _parse_parents(spec, one.meta, known)
    names = spec.texts("hostnames") if one.of_bytes == TLS else ()
    rules = parse_byte_rules(spec, holder, errors)
    spec.finish(("parentRefs", "rules", "hostnames"))
    return make_byte_rules(one.of_bytes, rules, names, parents, holder, spec.where) if rules else []


def _parse_parents(spec: Fields, meta: Meta, known: KnownHosts) -> list[tuple[str, int | None]]:
    """Hosts and ports that an object is for."""
    spec.ignore("useDefaultGateways")
    if "parentRefs" not in spec:
        spec.warn("parentRefs", "there are none, so it has no effect")
    return [(host, port) for parent in spec.children("parentRefs") for host, port in _parse_parent(parent, meta, known)]


def _at_port(route: HttpRoute, port: int | None) -> HttpRoute:
    """augmentPortMatch: with the port of the parent among its conditions."""
    if port is None:
        return route
    matches = route.matches or (HttpMatch(),)
    return replace(route, matches=tuple(replace(match, port=port) for match in matches))


def _parse_parent(parent: Fields, meta: Meta, known: KnownHosts) -> list[tuple[str, int | None]]:
    """Hosts and port of a parent; nothing where it is none of ours."""
    kind = parent.text("group", GATEWAY), parent.text("kind", "Gateway")
    name, namespace = parent.required_text("name"), parent.namespace("namespace", meta.namespace)
    port, section = parent.integer("port", low=1, high=65535), parent.text("sectionName")
    # Without its port or namespace a parent is another one.
    parent.refuse_empty("group", "kind", "port", "sectionName")
    parent.finish_exactly()
    if kind not in (_SERVICE, _ENTRY):
        parent.warn("kind", _why_not(*kind))
        return []
    if kind == _SERVICE:
        host = service_host(name, namespace, meta.domain)
        hosts = [host] if host in known.services else []
    else:
        hosts = list(known.entries.get((namespace, name), ()))
    if not hosts:
        parent.warn("name", f"there is no {kind[1]} {namespace}/{name}, so it has no effect there")
    if section:
        parent.warn("sectionName", "is not looked at, as in Istio: name the number of the port in `port`")
    return [(host, port) for host in hosts]


def _why_not(group: str, kind: str) -> str:
    if (group, kind) in _GATEWAYS:
        return f"{kind} is for gateways, and has no effect in a mesh client"
    if group == GATEWAY and kind in (_SERVICE[1], _ENTRY[1]):
        own = {kind: of for of, kind in (_SERVICE, _ENTRY)}[kind]
        return f"{kind} is not of {GATEWAY}; did you mean group: {own!r}?"
    meant = did_you_mean(kind, (_SERVICE[1], _ENTRY[1], "Gateway"))
    return f"{group or 'core'} {kind} is no kind of parent, and has no effect{meant}"
