"""Documents to a World: each object read on its own, then joined by name and by labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ..errors import ConfigError
from .authorization import make_rbac
from .destination_rule import parse_destination_rule
from .documents import Document
from .fields import Fields
from .istio import endpoint_of, parse_service_entry, parse_workload_entry
from .kubernetes import Meta, PendingEndpoints, parse_endpoint_slice, parse_endpoints, parse_pod, parse_service
from .security_policies import (
    parse_authorization_policy,
    parse_mesh_config,
    parse_peer_authentication,
    parse_request_authentication,
)
from .virtual_service import parse_virtual_service
from .world import Resolution, Service, Workload, World

__all__ = ["assemble"]


@dataclass(slots=True)
class _Assembly:
    world: World
    pods: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    pending: list[PendingEndpoints] = field(default_factory=list)

    def pod_labels(self, namespace: str, name: str) -> dict[str, str]:
        return self.pods.get((namespace, name), {})


Reader = Callable[[_Assembly, Fields, Meta], None]


def assemble(documents: Iterable[Document], domain: str, errors: list[ConfigError]) -> World:
    """All objects of a folder as one world.

    Args:
        documents: Kubernetes and Istio objects.
        domain: The cluster's DNS domain.
        errors: Where errors go; an object with an error is left out, the others are read.
    """
    assembly = _Assembly(World(domain))
    # Pods first: endpoint slices refer to them by name.
    ordered = sorted(documents, key=lambda document: document.data.get("kind") != "Pod")
    for document in ordered:
        try:
            _read_object(assembly, document)
        except ConfigError as error:
            errors.append(error)
            if document.data.get("kind") in _SECURITY_KINDS:
                assembly.world.security.broken.append(str(error))
    _join(assembly, errors)
    return assembly.world


def _read_object(assembly: _Assembly, document: Document) -> None:
    fields = Fields(document.where, document.data, assembly.world.warnings)
    kind, group = fields.text("kind"), fields.text("apiVersion").rpartition("/")[0]
    if not kind:
        raise fields.error("kind", 'must be set (or "@type", for an xDS resource)')
    metadata = fields.child("metadata")
    name = metadata.required_text("name") if metadata is not None else ""
    if metadata is None:
        raise fields.error("metadata", "must be set")
    meta = Meta(name, metadata.text("namespace") or "default", metadata.labels("labels"))
    fields.where = f"{document.where} {kind}/{meta.name}"
    reader = _READERS.get((group, kind))
    if reader is None:
        assembly.world.warnings.append(f"{fields.where}: objects of this kind are not translated, and have no effect")
        return
    reader(assembly, fields, meta)
    fields.ignore("status")
    fields.finish()


def _spec(fields: Fields) -> Fields:
    spec = fields.child("spec")
    if spec is None:
        raise fields.error("spec", "must be set")
    return spec


def _read_service(assembly: _Assembly, fields: Fields, meta: Meta) -> None:
    spec = _spec(fields)
    if spec.text("type") == "ExternalName":
        spec.warn("type", "ExternalName is not translated; use a ServiceEntry")
        return
    _add_service(assembly, parse_service(spec, meta, assembly.world), fields)


def _add_service(assembly: _Assembly, service: Service, fields: Fields) -> None:
    other = assembly.world.services.get(service.host)
    if other is not None:
        raise ConfigError(fields.where, f"host {service.host!r} is also defined by {other.where}")
    assembly.world.services[service.host] = service


def _read_pod(assembly: _Assembly, fields: Fields, meta: Meta) -> None:
    assembly.pods[(meta.namespace, meta.name)] = meta.labels
    workload = parse_pod(fields, meta)
    if workload is not None:
        assembly.world.workloads.append(workload)


def _read_endpoint_slice(assembly: _Assembly, fields: Fields, meta: Meta) -> None:
    assembly.pending += parse_endpoint_slice(fields, meta, assembly.pod_labels)


def _read_endpoints(assembly: _Assembly, fields: Fields, meta: Meta) -> None:
    assembly.pending += parse_endpoints(fields, meta, assembly.pod_labels)


def _read_service_entry(assembly: _Assembly, fields: Fields, meta: Meta) -> None:
    for service in parse_service_entry(_spec(fields), meta):
        _add_service(assembly, service, fields)


def _read_workload_entry(assembly: _Assembly, fields: Fields, meta: Meta) -> None:
    assembly.world.workloads.append(parse_workload_entry(_spec(fields), meta))


def _read_virtual_service(assembly: _Assembly, fields: Fields, meta: Meta) -> None:
    rule = parse_virtual_service(_spec(fields), meta, assembly.world)
    if rule is not None:
        assembly.world.virtual_services.append(rule)


def _read_destination_rule(assembly: _Assembly, fields: Fields, meta: Meta) -> None:
    assembly.world.destination_rules.append(parse_destination_rule(_spec(fields), meta, assembly.world))


def _read_peer_authentication(assembly: _Assembly, fields: Fields, meta: Meta) -> None:
    assembly.world.security.peers.append(parse_peer_authentication(fields.child("spec"), meta))


def _read_request_authentication(assembly: _Assembly, fields: Fields, meta: Meta) -> None:
    assembly.world.security.requests.append(parse_request_authentication(fields.child("spec"), meta))


def _read_authorization_policy(assembly: _Assembly, fields: Fields, meta: Meta) -> None:
    metadata = fields.child("metadata")
    annotations = metadata.labels("annotations") if metadata is not None else {}
    policy = parse_authorization_policy(fields.child("spec"), meta, annotations, fields.where)
    make_rbac([policy], 0)  # Its conditions are checked now, not when a server asks.
    assembly.world.security.authorizations.append(policy)


def _read_config_map(assembly: _Assembly, fields: Fields, meta: Meta) -> None:
    if meta.name == "istio":
        assembly.world.security.mesh = parse_mesh_config(fields, assembly.world.warnings)
    fields.ignore("data", "binaryData", "immutable")


# Kinds of which one that is left out would let somebody in.
_SECURITY_KINDS = ("PeerAuthentication", "RequestAuthentication", "AuthorizationPolicy")


_READERS: dict[tuple[str, str], Reader] = {
    ("", "Service"): _read_service,
    ("", "Pod"): _read_pod,
    ("", "Endpoints"): _read_endpoints,
    ("discovery.k8s.io", "EndpointSlice"): _read_endpoint_slice,
    ("networking.istio.io", "ServiceEntry"): _read_service_entry,
    ("networking.istio.io", "WorkloadEntry"): _read_workload_entry,
    ("networking.istio.io", "VirtualService"): _read_virtual_service,
    ("networking.istio.io", "DestinationRule"): _read_destination_rule,
    ("security.istio.io", "PeerAuthentication"): _read_peer_authentication,
    ("security.istio.io", "RequestAuthentication"): _read_request_authentication,
    ("security.istio.io", "AuthorizationPolicy"): _read_authorization_policy,
    ("", "ConfigMap"): _read_config_map,
}


def _join(assembly: _Assembly, errors: list[ConfigError]) -> None:
    """Give services their endpoints: those that name them, and the workloads that they select."""
    world = assembly.world
    for pending in assembly.pending:
        service = world.services.get(f"{pending.service}.{pending.namespace}.svc.{world.domain}")
        if service is None:
            world.warnings.append(f"endpoints of {pending.namespace}/{pending.service}: there is no such Service")
            continue
        for port in service.ports:
            # A slice's port has the name of the service's port; the only port may go without.
            if port.name == pending.port_name or (len(service.ports) == 1 and not pending.port_name):
                service.endpoints.setdefault(port.number, []).extend(pending.entries)
    for service in world.services.values():
        if service.selector and service.resolution is not Resolution.NONE:
            _select(service, world.workloads)
    _check_references(world)


def _select(service: Service, workloads: list[Workload]) -> None:
    for workload in workloads:
        if workload.namespace != service.namespace:
            continue
        if any(workload.labels.get(name) != value for name, value in service.selector.items()):
            continue
        for port in service.ports:
            entry = endpoint_of(workload, port)
            entries = service.endpoints.setdefault(port.number, [])
            # A pod may also stand in an EndpointSlice.
            if entry is not None and all((e.address, e.port) != (entry.address, entry.port) for e in entries):
                entries.append(entry)


def _check_references(world: World) -> None:
    """Warn about hosts and subsets that rules name and nobody defines."""
    subsets = {(rule.host, subset.name) for rule in world.destination_rules for subset in rule.subsets}
    for rule in world.virtual_services:
        for route in rule.routes:
            for destination in (*route.destinations, *(mirror for mirror, _ in route.mirrors)):
                if destination.host not in world.services:
                    world.warnings.append(f"{rule.where}: destination host {destination.host!r} is not a known service")
                elif destination.subset and (destination.host, destination.subset) not in subsets:
                    world.warnings.append(
                        f"{rule.where}: subset {destination.subset!r} of {destination.host} is not defined by any"
                        " DestinationRule"
                    )
