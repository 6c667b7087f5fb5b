"""Where rules send requests: hosts, ports and subsets that there are not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from ..controlplane.kinds import did_you_mean
from .findings import Finding, finding
from .gateway_routes import find_in_gateway_routes
from .objects import NETWORKING, Host, Objects, Thing, integer, labels, listed, mapping, text, texts

__all__ = ["Named", "find_destinations", "is_of_mesh", "named_by"]

_MESH = "mesh"


class Named(Struct, frozen=True):
    """A destination that a rule names.

    Attributes:
        host: In full.
        path: Of its field `host`'s holder.
        is_bytes: Of a tcp or tls route.
    """

    host: str
    said: str
    subset: str
    port: int | None
    path: str


def is_of_mesh(thing: Thing) -> bool:
    """Whether a VirtualService is for clients of the mesh, and not for gateways alone."""
    gateways = texts(thing.spec, "gateways")
    return not gateways or _MESH in gateways


def named_by(thing: Thing, objects: Objects) -> Iterator[Named]:
    """The destinations of a VirtualService, mirrors included."""
    for kind in ("http", "tls", "tcp"):
        for index, route in listed(thing.spec, kind):
            above = f".spec.{kind}[{index}]"
            holders: list[tuple[Mapping[str, Any], str]] = [
                (mapping(one, "destination"), f"{above}.{name}[{number}].destination")
                for name in ("route", "mirrors")
                for number, one in listed(route, name)
            ]
            holders.append((mapping(route, "mirror"), f"{above}.mirror"))
            for destination, path in holders:
                if host := text(destination, "host"):
                    port = integer(mapping(destination, "port"), "number")
                    full = objects.full_host(host, thing.namespace)
                    yield Named(full, host, text(destination, "subset"), port, path)


def find_destinations(objects: Objects) -> Iterator[Finding]:
    """Hosts, ports and subsets that rules name."""
    elsewhere: list[tuple[Thing, str]] = []
    yield from _in_virtual_services(objects, elsewhere)
    yield from find_in_gateway_routes(objects, elsewhere)
    yield from _in_destination_rules(objects, elsewhere)
    if elsewhere:
        yield _elsewhere(objects, elsewhere)


def _in_virtual_services(objects: Objects, elsewhere: list[tuple[Thing, str]]) -> Iterator[Finding]:
    subsets = _subsets(objects)
    for thing in objects.of_kind(NETWORKING, "VirtualService", every=True):
        if not is_of_mesh(thing):
            continue
        export_to = texts(thing.spec, "exportTo")
        for named in named_by(thing, objects):
            seen = objects.seen(named.host, thing.namespace, export_to)
            if seen:
                yield from _ports(objects, thing, named, seen)
            elif objects.is_elsewhere(named.host):
                elsewhere.append((thing, named.said))
            else:
                yield _unknown_host(objects, thing, named)
                continue
            if named.subset and (seen or subsets):
                yield from _subset(objects, thing, named, subsets)


def _elsewhere(objects: Objects, named: list[tuple[Thing, str]]) -> Finding:
    """One finding for all rules."""
    hosts = [*dict.fromkeys(said for _, said in named)]
    more = f" and {len(hosts) - 5} more" if len(hosts) > 5 else ""
    others = tuple(objects.place(one.document) for one in dict.fromkeys(thing for thing, _ in named))
    return finding("services-elsewhere", f"none of these files defines {', '.join(hosts[:5])}{more}", others=others)


def _unknown_host(objects: Objects, thing: Thing, named: Named) -> Finding:
    place = objects.place(thing.document, f"{named.path}.host")
    if hidden := objects.hosts.get(named.host):
        first = hidden[0]
        shown = ", ".join(first.export_to)
        text_of = f"{named.host!r} is exported to {shown} alone, and the rule's clients do not see it"
        return finding("unknown-host", text_of, place, (objects.place(first.thing.document),))
    meant = objects.meant(named.host)
    also = f"; did you mean {meant!r}?" if meant else ""
    return finding("unknown-host", f"destination host {named.host!r} is not a known service{also}", place)


def _ports(objects: Objects, thing: Thing, named: Named, found: list[Host]) -> Iterator[Finding]:
    ports = sorted({port for one in found for port in one.ports})
    services = tuple(objects.place(one.thing.document) for one in found[:1])
    if named.port is not None and ports and named.port not in ports:
        text_of = f"{named.said} has no port {named.port}; it has {_listed(ports)}"
        place = objects.place(thing.document, f"{named.path}.port.number")
        yield finding("unknown-port", text_of, place, others=services)
    elif named.port is None and ports and (asked := _asked_ports(objects, thing)) and not asked & {*ports}:
        # route.go, GetDestinationCluster, of services that have the port that is asked for: the port is kept.
        text_of = f"{_listed(asked)} is asked for, and kept where no port is named: {named.said} has {_listed(ports)}"
        yield finding("unknown-port", text_of, objects.place(thing.document, named.path), services)
    elif named.port is None and len(ports) > 1:
        text_of = f"{named.said} has {_listed(ports)}: a request for another port than these has no cluster"
        yield finding("ambiguous-port", text_of, objects.place(thing.document, named.path), services)


def _listed(ports: Iterable[int]) -> str:
    every = sorted(ports)
    return f"port{'s' if len(every) > 1 else ''} {', '.join(map(str, every))}"


# Of a host that no service has.
_DEFAULT_PORT = 80


def _asked_ports(objects: Objects, thing: Thing) -> set[int]:
    """The ports on which requests for a VirtualService's hosts come; empty where that is not known."""
    found: set[int] = set()
    for said in texts(thing.spec, "hosts"):
        host = objects.full_host(said, thing.namespace)
        defined = objects.hosts.get(host)
        if host.startswith("*") or (defined and not all(one.ports for one in defined)):
            return set()
        found |= {port for one in defined or () for port in one.ports} or {_DEFAULT_PORT}
    return found


def _subsets(objects: Objects) -> dict[str, set[str]]:
    """The subsets of each host, whoever has them."""
    found: dict[str, set[str]] = {}
    for rule in objects.of_kind(NETWORKING, "DestinationRule", every=True):
        host = objects.full_host(text(rule.spec, "host"), rule.namespace)
        found.setdefault(host, set()).update(text(one, "name") for _, one in listed(rule.spec, "subsets"))
    return found


def _subset(objects: Objects, thing: Thing, named: Named, subsets: Mapping[str, set[str]]) -> Iterator[Finding]:
    own = set(subsets.get(named.host, ()))
    for host, of_wildcard in subsets.items():
        if host.startswith("*") and named.host.endswith(host[1:]):
            own |= of_wildcard
    if named.subset not in own:
        meant = did_you_mean(named.subset, own) or ("" if own else "; there is no DestinationRule with subsets for it")
        text_of = f"subset {named.subset!r} of {named.host} is not defined by any DestinationRule{meant}"
        yield finding("unknown-subset", text_of, objects.place(thing.document, f"{named.path}.subset"))


def _in_destination_rules(objects: Objects, elsewhere: list[tuple[Thing, str]]) -> Iterator[Finding]:
    """Hosts of DestinationRules that there are not, and subsets that select nobody."""
    sent = _sent_to(objects)
    for rule in objects.of_kind(NETWORKING, "DestinationRule"):
        said = text(rule.spec, "host")
        host = objects.full_host(said, rule.namespace)
        if not said or (host.startswith("*") and any(one.endswith(host[1:]) for one in objects.hosts)):
            continue
        found = objects.seen(host, rule.namespace, texts(rule.spec, "exportTo"))
        if not found and not objects.hosts.get(host) and objects.is_elsewhere(host):
            elsewhere.append((rule, said))
            continue
        if not found:
            meant = objects.meant(host)
            text_of = f"host {said!r} is not a known service" + (f"; did you mean {meant!r}?" if meant else "")
            place = objects.place(rule.document, ".spec.host")
            yield finding("unknown-rule-host", text_of, place)
            continue
        yield from _empty_subsets(objects, rule, host, found, sent)


def _sent_to(objects: Objects) -> set[tuple[str, str]]:
    return {
        (named.host, named.subset)
        for thing in objects.of_kind(NETWORKING, "VirtualService", every=True)
        for named in named_by(thing, objects)
    }


def _empty_subsets(
    objects: Objects, rule: Thing, host: str, found: list[Host], sent: set[tuple[str, str]]
) -> Iterator[Finding]:
    selecting = [one for one in found if one.selector]
    own = [one for each in selecting for one in objects.selected(each.selector, each.namespace)]
    listed_there = [labels(one, "labels") for each in found for _, one in listed(each.thing.spec, "endpoints")]
    if not own and not listed_there:
        return  # Nobody serves at all, which is told of by itself.
    for index, subset in listed(rule.spec, "subsets"):
        wanted = labels(subset, "labels")
        if any(_has(one.labels, wanted, one.thing) for one in own) or any(
            wanted.items() <= one.items() for one in listed_there
        ):
            continue
        name = text(subset, "name")
        is_sent_to = (host, name) in sent
        code = "empty-subset" if is_sent_to else "unused-empty-subset"
        text_of = f"no workload of {host} has the labels of subset {name!r}: {_shown(wanted)}"
        place = objects.place(rule.document, f".spec.subsets[{index}]")
        yield finding(code, text_of, place)


# Istio's labels of where an endpoint is come from the node, which templates and entries do not tell.
_TOPOLOGY = ("topology.kubernetes.io/", "topology.istio.io/", "kubernetes.io/hostname")


def _has(own: Mapping[str, str], wanted: Mapping[str, str], workload: Thing) -> bool:
    asked = dict(wanted)
    for name, value in wanted.items():
        if name.startswith(_TOPOLOGY) and value and workload.kind != "WorkloadEntry":
            del asked[name]
    return asked.items() <= own.items()


def _shown(wanted: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in wanted.items()) or "none"
