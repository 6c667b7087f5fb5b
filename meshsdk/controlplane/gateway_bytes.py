"""TCPRoute and TLSRoute of Gateway API whose parents are services, as the VirtualServices that istiod makes of them.

Source: istio/istio pilot/pkg/config/kube/gateway (route_collections.go, TCPRouteCollection, TLSRouteCollection;
conversion.go, convertTCPRoute, convertTLSRoute).
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from ..errors import ConfigError
from .fields import Fields
from .gateway_filters import FilterHolder, parse_reference
from .http_rules import ByteMatch, ByteRoute, Destination, VirtualService

__all__ = ["TCP", "TLS", "make_byte_rules", "parse_byte_rules"]

TCP, TLS = "tcp", "tls"

# Where connections go that have nowhere to go: to a cluster that there is not.
_NOWHERE = Destination("internal.cluster.local", "zero-weight", 65535)


def parse_byte_rules(spec: Fields, holder: FilterHolder, errors: list[ConfigError]) -> list[tuple[Destination, ...]]:
    """Where the rules of an object send to. A rule with an error is left out.

    Raises:
        NotAccepted: istiod takes none of its rules.
    """
    found = []
    spec.refuse_empty("rules")
    for rule in spec.children("rules"):
        try:
            found.append(_parse_rule(rule, holder))
        except ConfigError as error:
            errors.append(error)
    return found


def _parse_rule(rule: Fields, holder: FilterHolder) -> tuple[Destination, ...]:
    rule.ignore("name")
    rule.refuse_empty("backendRefs")
    if "backendRefs" not in rule:
        raise rule.error("backendRefs", "must be set")
    destinations = []
    for backend in rule.children("backendRefs"):
        weight = backend.integer("weight", 1, high=1_000_000) or 0
        destination, problem = parse_reference(backend, holder)
        backend.finish_exactly()
        if weight:
            if problem:
                backend.warn("name", f"its connections fail: {problem}")
            destinations.append(replace(destination, weight=weight))
    rule.finish_exactly()
    return tuple(destinations) or (_NOWHERE,)


def make_byte_rules(
    kind: str,
    rules: Sequence[tuple[Destination, ...]],
    server_names: Sequence[str],
    parents: Sequence[tuple[str, int | None]],
    holder: FilterHolder,
    where: str,
) -> list[VirtualService]:
    """The VirtualServices of an object, one for each host of its parents.

    Args:
        kind: `TCP` or `TLS`.
        rules: Where each rule sends to.
        server_names: That a TLSRoute is for; empty is its parents' own.
        parents: Hosts, each with the port of it that is meant.
        holder: Whose they are.
        where: It stands.
    """
    meta = holder.meta
    found = []
    for number, (host, port) in enumerate(parents):
        match = ByteMatch(tuple(name.lower() for name in server_names) or (host,) if kind == TLS else (), port)
        matches = (match,) if kind == TLS or port is not None else ()
        routes = tuple(ByteRoute(matches, destinations) for destinations in rules)
        found.append(
            VirtualService(
                name=f"{meta.name}~{kind}~{number}",
                namespace=meta.namespace,
                hosts=(host,),
                routes=(),
                where=where,
                tls=routes if kind == TLS else (),
                tcp=routes if kind == TCP else (),
                age=meta.age,
                is_of_gateway_api=True,
            )
        )
    return found
