"""Documents to a World: each object as it was read, joined by name and by labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError
from .delegates import with_delegates
from .gateway_api import KnownHosts, translate_routes
from .http_rules import VirtualService
from .joining import Backends, join
from .kinds import CONFIG_MAP, GATEWAY, NETWORKING, POLICY_KINDS, SECURITY, Kind
from .memo import Memo
from .mesh_config import MESH_CONFIG
from .reading import Reading, named
from .world import Service, World

__all__ = ["assemble"]


@dataclass(slots=True)
class _Assembly:
    """What there is of the objects so far.

    Attributes:
        found: Objects of each kind, with their places in the folder.
        policies: Where each security policy stands, by kind, namespace and name.
        entries: Hosts of ServiceEntries, by namespace and name.
        left_out: What is not ours.
    """

    world: World
    errors: list[str]
    found: defaultdict[Kind, list[tuple[int, Reading]]] = field(default_factory=lambda: defaultdict(list))
    policies: dict[tuple[str, str, str], str] = field(default_factory=dict)
    entries: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    left_out: list[Reading] = field(default_factory=list)

    def values(self, group: str, kind: str) -> list[Any]:
        """All objects of a kind."""
        return [reading.value for _, reading in self.found[(group, kind)]]

    def placed(self, *kinds: Kind) -> list[tuple[int, Any]]:
        """All objects of some kinds, with their places."""
        return sorted(((place, one.value) for kind in kinds for place, one in self.found[kind]), key=_place)


def _place(placed: tuple[int, object]) -> int:
    return placed[0]


def assemble(readings: Iterable[Reading], domain: str, errors: list[str], memo: Memo) -> World:
    """All objects of a folder as one world.

    Args:
        readings: Kubernetes and Istio objects, in the order of the folder.
        domain: The cluster's DNS domain.
        errors: Where errors go; an object with an error is left out, the others are read. One that may be a policy
            stands in `SecurityWorld.broken`, too.
        memo: What was joined before.
    """
    assembly = _Assembly(World(domain), errors)
    world, security = assembly.world, assembly.world.security
    for place, reading in enumerate(readings):
        try:
            _add(assembly, place, reading)
        except ConfigError as error:
            errors.append(str(error))
            if reading.document.kind in POLICY_KINDS or reading.document.kind == CONFIG_MAP:
                security.broken.append(str(error))
    if assembly.left_out:
        world.warnings.append(_summary_of(assembly.left_out))
    security.peers = assembly.values(SECURITY, "PeerAuthentication")
    security.requests = assembly.values(SECURITY, "RequestAuthentication")
    security.authorizations = assembly.values(SECURITY, "AuthorizationPolicy")
    world.destination_rules = assembly.values(NETWORKING, "DestinationRule")
    world.sidecars = assembly.values(NETWORKING, "Sidecar")
    pending = [*assembly.values("discovery.k8s.io", "EndpointSlice"), *assembly.values("", "Endpoints")]
    backends = Backends(
        pods=assembly.values("", "Pod"),
        nodes=assembly.values("", "Node"),
        pending=[one for each in pending for one in each],
        entries=assembly.values(NETWORKING, "WorkloadEntry"),
    )
    join(backends, world, memo)
    world.virtual_services = _virtual_services(assembly, memo)
    _check_references(world)
    return world


def _add(assembly: _Assembly, place: int, reading: Reading) -> None:
    kind, world = reading.document.kind, assembly.world
    if kind in _CHECKS and reading.meta is not None:
        _CHECKS[kind](assembly, reading)
    if reading.warnings:
        world.warnings += reading.warnings
    if reading.errors:
        assembly.errors += reading.errors
        if reading.is_unreadable_policy:
            world.security.broken.append(reading.errors[-1])
    if kind is None:
        if not reading.warnings and not reading.errors:
            assembly.left_out.append(reading)
    elif reading.value is not None:
        assembly.found[kind].append((place, reading))
        if kind in _ADDERS:
            _ADDERS[kind](assembly, reading)


def _check_one_of_its_name(assembly: _Assembly, reading: Reading) -> None:
    """As in Kubernetes: of two it would not be known which one holds."""
    meta, kind = reading.meta, reading.document.kind
    assert meta is not None
    assert kind is not None
    other = assembly.policies.setdefault((kind[1], meta.namespace, meta.name), reading.where)
    if other != reading.where:
        raise ConfigError(reading.where, f"namespace {meta.namespace!r} has another of this name: {other}")


def _check_one_mesh_config(assembly: _Assembly, reading: Reading) -> None:
    other = assembly.world.security.mesh_where
    if other and reading.meta is not None and reading.meta.name == MESH_CONFIG:
        raise ConfigError(reading.where, f"MeshConfig is also defined by {other}")


# What must be known of the objects before it.
_CHECKS = {**dict.fromkeys(POLICY_KINDS, _check_one_of_its_name), CONFIG_MAP: _check_one_mesh_config}


def _summary_of(left_out: list[Reading]) -> str:
    """One note for all that is not ours: of a dump that is most."""
    first = left_out[0]
    if len(left_out) == 1:
        return f"{first.where}: {named(first.document)} is not translated, and has no effect"
    counts = Counter(named(one.document).partition("/")[0] for one in left_out)
    kinds = ", ".join(f"{kind} ({count})" for kind, count in sorted(counts.items()))
    return (
        f"{first.where} and {len(left_out) - 1} more are of kinds that are not translated, and have no effect: {kinds}"
    )


def _add_services(assembly: _Assembly, reading: Reading) -> None:
    services: dict[str, Service] = assembly.world.services
    assert reading.meta is not None
    for service in reading.value:
        other = services.get(service.host)
        if other is not None:
            raise ConfigError(reading.where, f"host {service.host!r} is also defined by {other.where}")
        services[service.host] = service
        if service.is_entry:
            key = reading.meta.namespace, reading.meta.name
            assembly.entries[key] = (*assembly.entries.get(key, ()), service.host)


def _set_mesh_config(assembly: _Assembly, reading: Reading) -> None:
    security = assembly.world.security
    security.mesh, assembly.world.defaults = reading.value
    security.mesh_where = reading.where


# What others are compared with.
_ADDERS: dict[Kind, Callable[[_Assembly, Reading], None]] = {
    ("", "Service"): _add_services,
    (NETWORKING, "ServiceEntry"): _add_services,
    CONFIG_MAP: _set_mesh_config,
}


def _virtual_services(assembly: _Assembly, memo: Memo) -> list[VirtualService]:
    """Those of Istio with their delegates' routes, and those that Gateway API's routes are, in the folder's order."""
    world, placed = assembly.world, assembly.placed((NETWORKING, "VirtualService"))
    rules = with_delegates([rule for _, rule in placed], world.warnings, world.defaults.virtual_service_export_to)
    pending = assembly.placed((GATEWAY, "HTTPRoute"), (GATEWAY, "GRPCRoute"))
    if not pending:
        return rules
    known = KnownHosts(frozenset(world.services), assembly.entries)
    known = memo.keep("known hosts", (known,), lambda _: known)
    routes = translate_routes(pending, known, world.warnings, assembly.errors, memo)
    places = (place for place, rule in placed if rule.hosts)
    return [rule for _, rule in sorted([*zip(places, rules, strict=True), *routes], key=_place)]


def _check_references(world: World) -> None:
    """Warn about hosts and subsets that rules name and nobody defines."""
    subsets = {(rule.host, subset.name) for rule in world.destination_rules for subset in rule.subsets}
    for rule in world.virtual_services:
        if rule.is_of_gateway_api:
            continue  # Told with what follows from it, where the backend stands.
        for destination in rule.every_destination():
            if destination.host not in world.services:
                world.warnings.append(f"{rule.where}: destination host {destination.host!r} is not a known service")
            elif destination.subset and (destination.host, destination.subset) not in subsets:
                world.warnings.append(
                    f"{rule.where}: subset {destination.subset!r} of {destination.host} is not defined by any"
                    " DestinationRule"
                )
