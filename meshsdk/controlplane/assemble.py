"""Documents to a World: each object as it was read, joined by name and by labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from msgspec import Struct, field

from ..access_log.metric_tags import problem_of
from ..errors import ConfigError
from .access_logging import BUILTIN, Telemetry
from .delegates import with_delegates
from .gateway_api import KnownHosts, translate_routes
from .http_rules import VirtualService
from .joining import Backends, join
from .kinds import CONFIG_MAP, NETWORKING, POLICY_KINDS, SECURITY, TELEMETRY, Kind
from .memo import Memo
from .mesh_config import MESH_CONFIG
from .reading import COMPARED, VIRTUAL_SERVICE, FileReading, Reading, named
from .security_world import PeerAuthentication
from .world import Service, World

__all__ = ["assemble"]


class _Assembly(Struct):
    """What there is of the objects so far.

    Attributes:
        values: Objects of each kind.
        policies: Where each security policy stands, by kind, namespace and name.
        entries: Hosts of ServiceEntries, by namespace and name.
        left_out: What is not ours.
    """

    world: World
    errors: list[str]
    values: defaultdict[Kind, list[Any]] = field(default_factory=lambda: defaultdict(list))
    policies: dict[tuple[str, str, str], str] = field(default_factory=dict)
    entries: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    left_out: list[Reading] = field(default_factory=list)


def assemble(files: Iterable[FileReading], domain: str, errors: list[str], memo: Memo) -> World:
    """All objects of a folder as one world.

    Args:
        files: Those of the folder, in their order.
        domain: The cluster's DNS domain.
        errors: Where errors go; an object with an error is left out, the others are read. One that may be a policy
            stands in `SecurityWorld.broken`, too.
        memo: What was joined before.
    """
    assembly = _Assembly(World(domain), errors)
    world, security, values = assembly.world, assembly.world.security, assembly.values
    for file in files:
        for kind, found in file.values.items():
            values[kind] += found
        for reading in file.others:
            _add(assembly, reading)
    if assembly.left_out:
        world.warnings.append(_summary_of(assembly.left_out))
    security.peers = _oldest_first(values[(SECURITY, "PeerAuthentication")])
    security.requests = values[(SECURITY, "RequestAuthentication")]
    security.authorizations = values[(SECURITY, "AuthorizationPolicy")]
    world.destination_rules = values[(NETWORKING, "DestinationRule")]
    world.sidecars = values[(NETWORKING, "Sidecar")]
    world.telemetries = values[(TELEMETRY, "Telemetry")]
    pending = (*values[("discovery.k8s.io", "EndpointSlice")], *values[("", "Endpoints")])
    backends = Backends(
        pods=values[("", "Pod")],
        nodes=values[("", "Node")],
        pending=[one for each in pending for one in each],
        entries=values[(NETWORKING, "WorkloadEntry")],
    )
    join(backends, world, memo)
    world.virtual_services = _virtual_services(assembly, memo)
    _check_references(world, memo)
    _check_log_providers(world)
    return world


def _oldest_first(policies: Iterable[PeerAuthentication]) -> list[PeerAuthentication]:
    """In the order in which they count (istiod's ComposePeerAuthentication); equally old ones by name."""
    return sorted(policies, key=lambda one: (one.created, one.name, one.namespace))


def _add(assembly: _Assembly, reading: Reading) -> None:
    """Take what is compared with others, and tell what there is to be told."""
    kind, world = reading.document.kind, assembly.world
    try:
        if kind in _CHECKS and reading.meta is not None:
            _CHECKS[kind](assembly, reading)
        world.warnings += reading.warnings
        assembly.errors += reading.errors
        if reading.is_unreadable_policy:
            world.security.broken.append(reading.errors[-1])
        if kind in COMPARED and reading.value is not None:
            assembly.values[kind].append(reading.value)
            if kind in _ADDERS:
                _ADDERS[kind](assembly, reading)
        elif kind is None and not reading.warnings and not reading.errors:
            assembly.left_out.append(reading)
    except ConfigError as error:
        assembly.errors.append(str(error))
        if kind in POLICY_KINDS or kind == CONFIG_MAP:
            world.security.broken.append(str(error))


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
    world, placed = assembly.world, [*enumerate(assembly.values[VIRTUAL_SERVICE])]
    own = [(place, one) for place, one in placed if isinstance(one, VirtualService)]
    rules = with_delegates([rule for _, rule in own], world.warnings, world.defaults.virtual_service_export_to)
    if len(own) == len(placed):
        return rules
    known = KnownHosts(frozenset(world.services), assembly.entries)
    known = memo.keep("known hosts", (known,), lambda _: known)
    pending = [(place, one) for place, one in placed if not isinstance(one, VirtualService)]
    routes = translate_routes(pending, known, world.warnings, assembly.errors, memo)
    places = (place for place, rule in own if rule.hosts)
    return [rule for _, rule in sorted([*zip(places, rules, strict=True), *routes], key=lambda placed: placed[0])]


def _check_references(world: World, memo: Memo) -> None:
    """Warn about hosts and subsets that rules name and nobody defines."""
    subsets = {(rule.host, subset.name) for rule in world.destination_rules for subset in rule.subsets}
    for rule in world.virtual_services:
        if rule.is_of_gateway_api:
            continue  # Told with what follows from it, where the backend stands.
        for host, subset in memo.keep(("named by", rule.where), (rule,), partial(_named_by, rule)):
            if host not in world.services:
                world.warnings.append(f"{rule.where}: destination host {host!r} is not a known service")
            elif subset and (host, subset) not in subsets:
                world.warnings.append(
                    f"{rule.where}: subset {subset!r} of {host} is not defined by any DestinationRule"
                )


def _check_log_providers(world: World) -> None:
    """Warn about providers of access logs that nobody defines, or whose servers nobody knows."""
    for name, provider in world.defaults.logs.providers.items():
        server = provider.server
        if server is not None and server.host not in world.services:
            world.warnings.append(f"MeshConfig: provider {name!r}: there is no service {server.host!r}")
    for telemetry in world.telemetries:
        named = {name for entry in telemetry.logging if not entry.is_disabled for name in entry.providers}
        for name in sorted(named - world.defaults.logs.providers.keys() - {BUILTIN}):
            world.warnings.append(
                f"Telemetry {telemetry.namespace}/{telemetry.name}: provider {name!r} is none of MeshConfig's that"
                " take access logs (envoyFileAccessLog, envoyHttpAls, envoyOtelAls), so nothing is written by it"
            )
        _check_tags(telemetry, world)
        for name in sorted({name for entry in telemetry.metrics for name in entry.providers}):
            if name not in world.defaults.logs.prometheus:
                world.warnings.append(
                    f"Telemetry {telemetry.namespace}/{telemetry.name}: provider {name!r} of metrics is not Prometheus,"
                    " so nothing is counted for it"
                )


def _check_tags(telemetry: Telemetry, world: World) -> None:
    """Warn about tags whose values cannot be had: the labels stay as they are."""
    for index, entry in enumerate(telemetry.metrics):
        for number, override in enumerate(entry.overrides):
            for name, value in override.tags:
                problem = problem_of(name, value) if value is not None else ""
                if problem:
                    world.warnings.append(
                        f"Telemetry {telemetry.namespace}/{telemetry.name}:"
                        f" spec.metrics[{index}].overrides[{number}].tagOverrides[{name!r}].value: {problem}"
                    )


def _named_by(rule: VirtualService, _: Memo) -> list[tuple[str, str]]:
    return [(one.host, one.subset) for one in rule.every_destination()]
