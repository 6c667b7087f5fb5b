"""Istio objects about who serves: ServiceEntry, WorkloadEntry (istio/api networking)."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from .fields import Fields
from .kubernetes import Meta, locality_of_labels
from .protocols import protocol_of
from .service_entry_rules import check_service_entry, check_workload_entry
from .workload_names import name_of_entry
from .world import TLS_LABEL, EndpointEntry, Port, Resolution, Service, Workload

__all__ = ["endpoint_of", "parse_service_entry", "parse_workload_entry", "with_topology"]


def parse_service_entry(spec: Fields, meta: Meta) -> list[Service]:
    """A ServiceEntry: one service for each of its hosts."""
    check_service_entry(spec.again(), meta.namespace)
    ports = []
    for port in spec.children("ports"):
        number = port.integer("number", low=1, high=65535)
        if number is None:
            raise port.error("number", "must be set")
        name = port.required_text("name")
        target = port.integer("targetPort", low=1, high=65535)
        protocol = protocol_of(port.text("protocol"))
        port.finish()
        ports.append(Port(name, number, target, protocol))
    resolution = _resolution(spec)
    hosts = spec.texts("hosts")
    if not hosts:
        raise spec.error("hosts", "must name at least one host")
    # Without an address only a gateway of its network could reach an endpoint.
    # serviceentry/conversion.go, convertServiceEntryToInstances: they are numbered.
    workloads = [
        _parse_workload(entry, meta.namespace, {}, f"{meta.name}-{index}")
        for index, entry in enumerate(spec.children("endpoints"))
        if "address" in entry
    ]
    selector_field = spec.child("workloadSelector")
    selector = selector_field.labels("labels") if selector_field is not None else {}
    if selector_field is not None:
        selector_field.finish_exactly()
    addresses, export_to = spec.texts("addresses"), spec.texts("exportTo")
    names = spec.texts("subjectAltNames")
    is_external = spec.text("location") != "MESH_INTERNAL"
    spec.finish(("workloadSelector", "resolution", "endpoints"))
    services = []
    for host in hosts:
        # NONE leaves it to the application to look the host up; here that is whoever connects to it.
        is_looked_up = resolution is Resolution.NONE and not host.startswith("*")
        own = Resolution.DNS_ROUND_ROBIN if is_looked_up else resolution
        service = Service(
            host=host.lower(),
            namespace=meta.namespace,
            ports=tuple(ports),
            selector=selector,
            resolution=own,
            addresses=addresses,
            where=spec.where,
            export_to=export_to,
            subject_alt_names=names,
            is_entry=True,
            is_external=is_external,
            is_looked_up=is_looked_up,
        )
        endpoints = {one.number: _entries(service, one, workloads, own, meta.name) for one in ports}
        services.append(replace(service, endpoints=endpoints))
    return services


def _resolution(spec: Fields) -> Resolution:
    text = spec.text("resolution", "NONE")
    try:
        return Resolution(text)
    except ValueError:
        raise spec.error("resolution", f"must be one of {[one.value for one in Resolution]}, is {text!r}") from None


def _entries(
    service: Service, port: Port, workloads: list[Workload], resolution: Resolution, name: str
) -> list[EndpointEntry]:
    entries = [entry for workload in workloads if (entry := endpoint_of(workload, port)) is not None]
    if not entries and resolution in (Resolution.DNS, Resolution.DNS_ROUND_ROBIN) and not service.selector:
        # ServiceEntry.resolution DNS: without endpoints, the host itself is looked up.
        target = port.target if isinstance(port.target, int) else port.number
        return [EndpointEntry(service.host, target, workload=name)]
    return entries


def endpoint_of(workload: Workload, port: Port, *, by_name: bool = True) -> EndpointEntry | None:
    """Where a workload serves a port; None where it does not.

    Args:
        workload: Who serves.
        port: Of the service.
        by_name: The workload's port of the same name comes before the port's target and its number.
    """
    number: int | None
    if isinstance(port.target, str):
        number = workload.ports.get(port.target, workload.ports.get(port.name))
    else:
        number = port.target or port.number
        if by_name:
            number = workload.ports.get(port.name, number)
    if number is None:
        return None
    return EndpointEntry(
        workload.address,
        number,
        with_topology(workload.labels, workload.locality),
        workload.weight,
        workload.locality,
        workload.is_ready,
        workload.service_account,
        workload=workload.name,
    )


_TOPOLOGY = ("topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone")
_NODE = "kubernetes.io/hostname"


def with_topology(labels: Mapping[str, str], locality: str, node: str = "") -> Mapping[str, str]:
    """A workload's labels, with those that say where it is (istio pilot/.../util/label/label.go, AugmentLabels)."""
    found = {name: part for name, part in zip(_TOPOLOGY, locality.split("/"), strict=False) if part}
    if node:
        found[_NODE] = node
    return {**labels, **found} if found else labels


def parse_workload_entry(spec: Fields, meta: Meta) -> Workload | None:
    """A WorkloadEntry; None of one that only a gateway of its network could reach.

    The object's labels come before its own (serviceentry/conversion.go, ConvertWorkloadEntry).
    """
    check_workload_entry(spec.again())
    if not spec.text("address"):
        spec.warn("network", "is not translated: without an address the entry has no effect")
        return None
    return _parse_workload(spec, meta.namespace, meta.labels, name_of_entry(meta.name, meta.labels, meta.annotations))


def _parse_workload(spec: Fields, namespace: str, of_object: Mapping[str, str], name: str) -> Workload:
    labels, account = {**spec.labels("labels"), **of_object}, spec.text("serviceAccount")
    if account:
        # serviceentry/conversion.go, getTLSModeFromWorkloadEntry: whoever has an identity can show it.
        labels.setdefault(TLS_LABEL, "istio")
    workload = Workload(
        address=spec.required_text("address"),
        namespace=namespace,
        labels=labels,
        ports=spec.integers("ports"),
        weight=spec.integer("weight"),
        locality=spec.text("locality") or locality_of_labels(labels),
        service_account=account,
        name=name,
    )
    spec.ignore("network")
    # Labels say which policies are for it, and where it serves.
    spec.finish(("labels", "ports"))
    return workload
