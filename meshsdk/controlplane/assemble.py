"""Documents to a World: each object read on its own, then joined by name and by labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..errors import ConfigError
from .delegates import with_delegates
from .destination_rule import parse_destination_rule
from .documents import Document
from .fields import Fields
from .gateway_api import PendingRoute, translate_routes
from .istio import parse_service_entry, parse_workload_entry
from .joining import Backends
from .kinds import CONFIG_MAP, GATEWAY, POLICY_KINDS, Kind, UnreadablePolicy, did_you_mean, effect_of
from .kubernetes import (
    Meta,
    PendingEndpoints,
    Pod,
    parse_endpoint_slice,
    parse_endpoints,
    parse_node,
    parse_pod,
    parse_service,
)
from .mesh_config import MESH_CONFIG, may_be_mesh_config, parse_mesh_config
from .security_policies import (
    is_for_gateways,
    parse_authorization_policy,
    parse_peer_authentication,
    parse_request_authentication,
)
from .sidecar import parse_sidecar
from .traffic_policy import DestinationRule
from .virtual_service import parse_virtual_service
from .world import Service, Workload, World

__all__ = ["Backenders", "assemble"]


# What Kubernetes knows of an object's metadata (API reference, ObjectMeta).
_METADATA = (
    *("annotations", "clusterName", "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp"),
    *("finalizers", "generateName", "generation", "labels", "managedFields", "name", "namespace", "ownerReferences"),
    *("resourceVersion", "selfLink", "uid"),
)


class Backender(NamedTuple):
    """An object that says who serves, as it was parsed without a warning."""

    document: Document
    value: Any


# By the identities of what their documents say.
Backenders = dict[int, Backender]


@dataclass(slots=True)
class _Assembly:
    world: World
    errors: list[ConfigError]
    backends: Backends = field(default_factory=Backends)
    policies: dict[tuple[str, str, str], str] = field(default_factory=dict)
    left_out: list[Document] = field(default_factory=list)
    entries: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    routes: list[PendingRoute] = field(default_factory=list)
    places: int = 0
    known: Backenders = field(default_factory=dict)
    parsed: Backenders = field(default_factory=dict)

    def next_place(self) -> int:
        """Of an object in the folder."""
        self.places += 1
        return self.places


Reader = Callable[[_Assembly, Fields, Meta], None]


def assemble(
    documents: Iterable[Document], domain: str, errors: list[ConfigError], known: Backenders | None = None
) -> tuple[World, Backenders]:
    """All objects of a folder as one world.

    Args:
        documents: Kubernetes and Istio objects.
        domain: The cluster's DNS domain.
        errors: Where errors go; an object with an error is left out, the others are read. One that may be a policy
            stands in `SecurityWorld.broken`, too.
        known: What was parsed before. There are most of those objects, and each edit is about few.

    Returns:
        What there is; and what was parsed for the next time.
    """
    assembly = _Assembly(World(domain), errors, known=known or {})
    for document in documents:
        try:
            _read_object(assembly, document)
        except UnreadablePolicy as error:
            errors.append(error)
            assembly.world.security.broken.append(str(error))
        except ConfigError as error:
            errors.append(error)
    if assembly.left_out:
        assembly.world.warnings.append(_summary_of(assembly.left_out))
    world = assembly.world
    assembly.backends.join(world)
    world.virtual_services = with_delegates(
        world.virtual_services, world.warnings, world.defaults.virtual_service_export_to
    )
    world.virtual_services += translate_routes(assembly.routes, world, assembly.entries, errors)
    _check_references(world)
    return world, assembly.parsed


def _read_object(assembly: _Assembly, document: Document) -> None:
    if document.fault is not None:
        raise document.fault.with_traceback(None)
    kind = document.kind
    if kind is None:
        if words := effect_of(document.data):
            assembly.world.warnings.append(f"{document.where} {_named(document)}: {words}")
        else:
            assembly.left_out.append(document)
        return
    known = assembly.known.get(id(document.data))
    if known is not None and known.document.data is document.data and known.document.where == document.where:
        assembly.next_place()
        assembly.parsed[id(document.data)] = known
        _ADDERS[kind](assembly, known.value)
        return
    try:
        _read_known(assembly, document, kind)
    except UnreadablePolicy:
        raise
    except ConfigError as error:
        if kind in POLICY_KINDS or (kind == CONFIG_MAP and may_be_mesh_config(document.data)):
            raise UnreadablePolicy(error.where, error.problem) from error
        raise


def _named(document: Document) -> str:
    kind, metadata = document.data.get("kind"), document.data.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(kind, str):
        return "a document without a kind"
    return f"{kind}/{name}" if isinstance(name, str) and name.isprintable() else kind


def _summary_of(left_out: list[Document]) -> str:
    """One note for all that is not ours: of a dump that is most."""
    if len(left_out) == 1:
        return f"{left_out[0].where}: {_named(left_out[0])} is not translated, and has no effect"
    counts = Counter(_named(document).partition("/")[0] for document in left_out)
    kinds = ", ".join(f"{kind} ({count})" for kind, count in sorted(counts.items()))
    return (
        f"{left_out[0].where} and {len(left_out) - 1} more are of kinds that are not translated, and have no effect:"
        f" {kinds}"
    )


def _read_known(assembly: _Assembly, document: Document, kind: Kind) -> None:
    fields = Fields(document.where, document.data, assembly.world.warnings)
    fields.ignore("apiVersion", "kind")
    metadata = fields.child("metadata")
    if metadata is None:
        raise fields.error("metadata", "must be set")
    name = metadata.required_text("name")
    namespace = metadata.namespace("namespace", "default")
    created, is_deleted = metadata.text("creationTimestamp"), "deletionTimestamp" in metadata
    annotations = metadata.labels("annotations")
    meta = Meta(name, namespace, metadata.labels("labels"), created, is_deleted, assembly.next_place(), annotations)
    metadata.ignore(*_METADATA)
    for unknown in metadata.unread:
        # Without its namespace or labels an object is another one.
        raise metadata.error(unknown, f"is not known{did_you_mean(unknown, _METADATA)}")
    fields.where = f"{document.where} {kind[1]}/{meta.name if meta.name.isprintable() else ascii(meta.name)}"
    if kind in POLICY_KINDS:
        _check_one_of_its_name(assembly, kind, meta, fields)
    if kind in _ADDERS:
        _read_backender(assembly, document, kind, fields, meta)
        return
    _READERS[kind](assembly, fields, meta)
    fields.ignore("status")
    if kind in POLICY_KINDS:
        fields.finish_exactly()
    else:
        fields.finish()


def _read_backender(assembly: _Assembly, document: Document, kind: Kind, fields: Fields, meta: Meta) -> None:
    warned = len(assembly.world.warnings)
    value = _PARSERS[kind](fields, meta)
    _ADDERS[kind](assembly, value)
    fields.ignore("status")
    fields.finish()
    if len(assembly.world.warnings) == warned:
        assembly.parsed[id(document.data)] = Backender(document, value)


def _check_one_of_its_name(assembly: _Assembly, kind: Kind, meta: Meta, fields: Fields) -> None:
    """As in Kubernetes: of two it would not be known which one holds."""
    identity = (kind[1], meta.namespace, meta.name)
    other = assembly.policies.setdefault(identity, fields.where)
    if other != fields.where:
        raise ConfigError(fields.where, f"namespace {meta.namespace!r} has another of this name: {other}")


def _spec(fields: Fields) -> Fields:
    spec = fields.child("spec")
    if spec is None:
        raise fields.error("spec", "must be set")
    return spec


def _read_service(assembly: _Assembly, fields: Fields, meta: Meta) -> None:
    spec = _spec(fields)
    service = parse_service(spec, meta, assembly.world)
    _add_service(assembly, service, fields)
    assembly.backends.kubernetes.add(service.host)


def _add_service(assembly: _Assembly, service: Service, fields: Fields) -> None:
    other = assembly.world.services.get(service.host)
    if other is not None:
        raise ConfigError(fields.where, f"host {service.host!r} is also defined by {other.where}")
    assembly.world.services[service.host] = service


def _add_pod(assembly: _Assembly, pod: Pod) -> None:
    assembly.backends.pods[(pod.namespace, pod.name)] = pod


def _add_node(assembly: _Assembly, node: tuple[str, str]) -> None:
    name, locality = node
    assembly.backends.nodes[name] = locality


def _add_pending(assembly: _Assembly, pending: list[PendingEndpoints]) -> None:
    assembly.backends.pending += pending


def _add_workload(assembly: _Assembly, workload: Workload | None) -> None:
    if workload is not None:
        assembly.backends.entries.append(workload)


def _read_service_entry(assembly: _Assembly, fields: Fields, meta: Meta) -> None:
    for service in parse_service_entry(_spec(fields), meta):
        _add_service(assembly, service, fields)
        key = (meta.namespace, meta.name)
        assembly.entries[key] = (*assembly.entries.get(key, ()), service.host)


def _read_virtual_service(assembly: _Assembly, fields: Fields, meta: Meta) -> None:
    rule = parse_virtual_service(_spec(fields), meta, assembly.world, assembly.errors)
    if rule is not None:
        assembly.world.virtual_services.append(rule)


def _read_http_route(assembly: _Assembly, fields: Fields, meta: Meta) -> None:
    assembly.routes.append(PendingRoute(_spec(fields), meta, is_grpc=False))


def _read_grpc_route(assembly: _Assembly, fields: Fields, meta: Meta) -> None:
    assembly.routes.append(PendingRoute(_spec(fields), meta, is_grpc=True))


def _read_reference_grant(assembly: _Assembly, fields: Fields, meta: Meta) -> None:
    fields.ignore("spec")
    fields.warn("spec", "is for gateways, and has no effect: in the mesh a route needs no grant, as in Istio")


def _read_destination_rule(assembly: _Assembly, fields: Fields, meta: Meta) -> None:
    world, spec = assembly.world, _spec(fields)
    try:
        world.destination_rules.append(parse_destination_rule(spec, meta, world))
    except ConfigError:
        host = spec.raw("host")
        if isinstance(host, str) and host:
            broken = DestinationRule(world.full_host(host, meta.namespace), meta.namespace, is_broken=True)
            world.destination_rules.append(broken)
        raise


def _read_sidecar(assembly: _Assembly, fields: Fields, meta: Meta) -> None:
    assembly.world.sidecars.append(parse_sidecar(_spec(fields), meta))


def _read_peer_authentication(assembly: _Assembly, fields: Fields, meta: Meta) -> None:
    spec = _policy_spec(assembly, fields)
    if spec is not None:
        assembly.world.security.peers.append(parse_peer_authentication(spec, meta))


def _read_request_authentication(assembly: _Assembly, fields: Fields, meta: Meta) -> None:
    spec = _policy_spec(assembly, fields)
    if spec is not None:
        assembly.world.security.requests.append(parse_request_authentication(spec, meta))


def _read_authorization_policy(assembly: _Assembly, fields: Fields, meta: Meta) -> None:
    spec = _policy_spec(assembly, fields)
    if spec is not None:
        policy = parse_authorization_policy(spec, meta, fields.where)
        assembly.world.security.authorizations.append(policy)


def _policy_spec(assembly: _Assembly, fields: Fields) -> Fields | None:
    """The spec of a policy; None where it is for gateways only, as proxies beside applications have it."""
    spec = _spec(fields)
    if not is_for_gateways(spec):
        return spec
    assembly.world.warnings.append(f"{fields.where}: is for gateways only, and has no effect in a process")
    return None


def _read_config_map(assembly: _Assembly, fields: Fields, meta: Meta) -> None:
    world = assembly.world
    fields.ignore("data", "binaryData", "immutable")
    if meta.name == MESH_CONFIG:
        if world.security.mesh_where:
            raise ConfigError(fields.where, f"MeshConfig is also defined by {world.security.mesh_where}")
        world.security.mesh, world.defaults = parse_mesh_config(fields, world.warnings)
        world.security.mesh_where = fields.where
    elif may_be_mesh_config({"metadata": {"name": meta.name}, "data": fields.raw("data")}):
        raise fields.error(
            "metadata.name", f"{meta.name!r} with data.mesh, or without data; Istio's MeshConfig is {MESH_CONFIG!r}"
        )


# What says who serves is parsed on its own, whatever else there is.
_PARSERS: dict[Kind, Callable[[Fields, Meta], Any]] = {
    ("", "Pod"): parse_pod,
    ("", "Node"): lambda fields, meta: (meta.name, parse_node(fields, meta)),
    ("", "Endpoints"): parse_endpoints,
    ("discovery.k8s.io", "EndpointSlice"): parse_endpoint_slice,
    ("networking.istio.io", "WorkloadEntry"): lambda fields, meta: parse_workload_entry(_spec(fields), meta),
}
_ADDERS: dict[Kind, Callable[[_Assembly, Any], None]] = {
    ("", "Pod"): _add_pod,
    ("", "Node"): _add_node,
    ("", "Endpoints"): _add_pending,
    ("discovery.k8s.io", "EndpointSlice"): _add_pending,
    ("networking.istio.io", "WorkloadEntry"): _add_workload,
}
_READERS: dict[Kind, Reader] = {
    ("", "Service"): _read_service,
    ("networking.istio.io", "ServiceEntry"): _read_service_entry,
    ("networking.istio.io", "VirtualService"): _read_virtual_service,
    ("networking.istio.io", "DestinationRule"): _read_destination_rule,
    ("networking.istio.io", "Sidecar"): _read_sidecar,
    ("security.istio.io", "PeerAuthentication"): _read_peer_authentication,
    ("security.istio.io", "RequestAuthentication"): _read_request_authentication,
    ("security.istio.io", "AuthorizationPolicy"): _read_authorization_policy,
    ("", "ConfigMap"): _read_config_map,
    (GATEWAY, "HTTPRoute"): _read_http_route,
    (GATEWAY, "GRPCRoute"): _read_grpc_route,
    (GATEWAY, "ReferenceGrant"): _read_reference_grant,
}


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
