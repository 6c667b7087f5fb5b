"""VirtualServices of one host, and what Services say of their ports and in their annotations."""

from __future__ import annotations

from collections.abc import Iterator

from ..controlplane.kinds import did_you_mean
from ..controlplane.protocols import UNTOLD, protocol_of_kubernetes
from ..controlplane.world import hosts_overlap
from .destinations import is_of_mesh
from .findings import Finding, finding
from .objects import EXPORT_TO, NETWORKING, Objects, Thing, integer, labels, listed, mapping, text, texts

__all__ = ["find_conflicting_hosts", "find_in_fields", "find_in_ports"]

_ALL = "*"

# Kubernetes' own, which nobody names anew.
_OTHERS_NAMESPACES = ("kube-system", "kube-public", "kube-node-lease")
_TRANSPORTS = ("", "TCP", "UDP", "SCTP")

_ANNOTATIONS = (EXPORT_TO, "networking.istio.io/traffic-distribution")
_GROUP = "networking.istio.io/"


def find_conflicting_hosts(objects: Objects) -> Iterator[Finding]:
    """VirtualServices of the mesh that are for one host, and seen by the same clients.

    Source: istio/istio pkg/config/analysis/analyzers/virtualservice/conflictingmeshgatewayhosts.go.
    """
    scoped: dict[tuple[str, str], list[Thing]] = {}
    for thing in objects.of_kind(NETWORKING, "VirtualService"):
        if is_of_mesh(thing):
            export_to = texts(thing.spec, "exportTo")
            is_for_all = not export_to or _ALL in export_to
            scopes = [_ALL] if is_for_all else [thing.namespace if one == "." else one for one in export_to]
            for scope in dict.fromkeys(scopes):
                for host in dict.fromkeys(texts(thing.spec, "hosts")):
                    scoped.setdefault((scope, objects.full_host(host, thing.namespace)), []).append(thing)
    told: set[Thing] = set()
    for (scope, host), things in scoped.items():
        every = list(things)
        if scope != _ALL:
            for (other_scope, other), more in scoped.items():
                if other_scope == _ALL and hosts_overlap(host, other):
                    every += [one for one in more if one not in every]
        if len(every) > 1:
            for thing in every:
                if thing not in told:
                    told.add(thing)
                    others = [one for one in every if one is not thing]
                    names = ", ".join(f"{one.namespace}/{one.name}" for one in others)
                    places = tuple(objects.place(one.document) for one in others)
                    place = objects.place(thing.document, ".spec.hosts")
                    yield finding("conflicting-hosts", f"{host} is a host of {names}, too", place, places)


def find_in_ports(objects: Objects) -> Iterator[Finding]:
    """Ports of Services whose transport is none, or of which nobody says what is spoken."""
    for thing in objects.of_kind("", "Service", every=True):
        for index, port in listed(thing.spec, "ports"):
            place = f".spec.ports[{index}]"
            transport, number = text(port, "protocol"), integer(port, "port")
            if transport not in _TRANSPORTS:
                meant = did_you_mean(transport, _TRANSPORTS[1:])
                text_of = f"{transport!r} is no protocol of a port{meant}; what is spoken is no part of it"
                yield finding("port-transport", text_of, objects.place(thing.document, f"{place}.protocol"))
            elif transport in ("", "TCP") and number is not None and not _is_others(thing):
                name = text(port, "name")
                if protocol_of_kubernetes(number, name, text(port, "appProtocol")) == UNTOLD:
                    shown = f"port {number} ({name})" if name else f"port {number}, which has no name,"
                    yield finding("untold-protocol", f"{shown} is taken for HTTP", objects.place(thing.document, place))


def _is_others(thing: Thing) -> bool:
    """A Service that whoever installs a cluster has made."""
    own = labels(thing.data, "metadata", "labels")
    is_istio = "istio" in own or own.get("release") == "istio" or "gateway.istio.io/managed" in own
    return thing.namespace in _OTHERS_NAMESPACES or is_istio


def find_in_fields(objects: Objects) -> Iterator[Finding]:
    """Annotations of Services that are nearly known ones, and fields that have newer spellings."""
    for thing in objects.of_kind("", "Service", every=True):
        for name in labels(thing.data, "metadata", "annotations"):
            if name.startswith(_GROUP) and name not in _ANNOTATIONS:
                place = objects.place(thing.document, f".metadata.annotations[{name!r}]")
                text_of = f"annotation is not known{did_you_mean(name, _ANNOTATIONS, 0.8)}"
                yield finding("unknown-annotation", text_of, place)
    for thing in objects.of_kind(NETWORKING, "VirtualService", every=True):
        for index, route in listed(thing.spec, "http"):
            above = f".spec.http[{index}]"
            if (integer(mapping(route, "fault", "delay"), "percent") or 0) > 0:
                place = objects.place(thing.document, f"{above}.fault.delay.percent")
                yield finding("deprecated-field", "is older; write percentage: {value: …}", place)
            if "mirrorPercent" in route or "mirror_percent" in route:
                place = objects.place(thing.document, f"{above}.mirrorPercent")
                yield finding("deprecated-field", "is older; write mirrorPercentage: {value: …}", place)
