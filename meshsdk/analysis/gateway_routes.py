"""Where routes of Gateway API are, and where they send requests: Services that there are not, and ports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..controlplane.names import service_host
from .findings import Finding, finding
from .objects import NETWORKING, Objects, Thing, integer, listed, mapping, text
from .rules import Severity

__all__ = ["GATEWAY", "find_in_gateway_routes"]

GATEWAY = "gateway.networking.k8s.io"
_ROUTES = ("HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute")
_SERVICE, _ENTRY = ("", "Service"), (NETWORKING, "ServiceEntry")
_HOSTNAME = (NETWORKING, "Hostname")


def find_in_gateway_routes(objects: Objects, elsewhere: list[tuple[Thing, str]]) -> Iterator[Finding]:
    """What routes for Services name.

    Args:
        objects: All there are.
        elsewhere: Where rules go, with the host that they name, of which the files do not say whether it is there.
    """
    for thing in objects.of_kind(GATEWAY, *_ROUTES, every=True):
        parents = [*_parents(thing)]
        for path, kind, name, namespace in parents:
            host = service_host(name, namespace, objects.domain)
            is_there = host in objects.hosts if kind == _SERVICE else _has_entry(objects, namespace, name)
            if not is_there and kind == _SERVICE and objects.is_elsewhere(host):
                elsewhere.append((thing, name))
            elif not is_there:
                text_of = (
                    f"there is no {kind[1]} {namespace}/{name}{_also(objects, host)}: the route has no effect there"
                )
                yield finding(
                    "unknown-host", text_of, objects.place(thing.document, f"{path}.name"), severity=Severity.WARNING
                )
        if parents:
            for path, backend in _backends(thing):
                yield from _of_backend(objects, thing, path, backend, elsewhere)


def _parents(thing: Thing) -> Iterator[tuple[str, tuple[str, str], str, str]]:
    """Those that are none of gateways: path, kind, name and namespace."""
    for index, parent in listed(thing.spec, "parentRefs"):
        kind = (text(parent, "group") if "group" in parent else GATEWAY, text(parent, "kind") or "Gateway")
        if kind in (_SERVICE, _ENTRY):
            namespace = text(parent, "namespace") or thing.namespace
            yield f".spec.parentRefs[{index}]", kind, text(parent, "name"), namespace


def _has_entry(objects: Objects, namespace: str, name: str) -> bool:
    return any((one.namespace, one.name) == (namespace, name) for one in objects.of_kind(*_ENTRY))


def _backends(thing: Thing) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """References of the rules, mirrors included."""
    for index, rule in listed(thing.spec, "rules"):
        above = f".spec.rules[{index}]"
        yield from ((f"{above}.backendRefs[{number}]", one) for number, one in listed(rule, "backendRefs"))
        for number, one in listed(rule, "filters"):
            mirrored = mapping(one, "requestMirror", "backendRef")
            if mirrored:
                yield f"{above}.filters[{number}].requestMirror.backendRef", mirrored


def _of_backend(
    objects: Objects, thing: Thing, path: str, backend: Mapping[str, Any], elsewhere: list[tuple[Thing, str]]
) -> Iterator[Finding]:
    kind, name = (text(backend, "group"), text(backend, "kind") or "Service"), text(backend, "name")
    if kind not in (_SERVICE, _HOSTNAME) or not name:
        return
    namespace = text(backend, "namespace") or thing.namespace
    host = service_host(name, namespace, objects.domain) if kind == _SERVICE else name
    defined = objects.hosts.get(host, [])
    port = integer(backend, "port")
    ports = {number for one in defined for number in one.ports}
    if not defined and objects.is_elsewhere(host):
        elsewhere.append((thing, name))
    elif not defined:
        text_of = f"there is no service {host!r}{_also(objects, host)}"
        yield finding("unknown-host", text_of, objects.place(thing.document, f"{path}.name"))
    elif port is not None and ports and port not in ports:
        known = ", ".join(map(str, sorted(ports)))
        text_of = f"{name} has no port {port}; it has {known}"
        place = objects.place(thing.document, f"{path}.port")
        yield finding("unknown-port", text_of, place, (objects.place(defined[0].thing.document),))


def _also(objects: Objects, host: str) -> str:
    meant = objects.meant(host)
    return f"; did you mean {meant!r}?" if meant else ""
