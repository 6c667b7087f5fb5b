"""Who serves a service: what names it, and what it selects.

As istiod has it (pilot/pkg/serviceregistry: kube/controller/{endpointslice,pod,controller}.go,
serviceentry/conversion.go): where a Service has EndpointSlices they say which pods serve it, and nothing else does;
WorkloadEntries that it selects come beside them. Endpoints count where there is no slice, and pods that it selects
where there is neither: people write no more. A ServiceEntry selects WorkloadEntries, and pods that are ready.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .checks import is_address
from .istio import endpoint_of, with_topology
from .kubernetes import PendingAddress, PendingEndpoints, Pod, locality_of_labels
from .world import EndpointEntry, Resolution, Service, Workload, World

__all__ = ["Backends"]

# Endpoints that are there: host and port of the service, address and port of the endpoint.
Places = set[tuple[str, int, str, int]]


@dataclass(slots=True)
class Backends:
    """What may serve, as the documents give it.

    Attributes:
        nodes: The locality of each node.
        entries: WorkloadEntries.
        kubernetes: Hosts of Kubernetes' own Services.
    """

    pods: dict[tuple[str, str], Pod] = field(default_factory=dict)
    nodes: dict[str, str] = field(default_factory=dict)
    pending: list[PendingEndpoints] = field(default_factory=list)
    entries: list[Workload] = field(default_factory=list)
    kubernetes: set[str] = field(default_factory=set)

    def join(self, world: World) -> None:
        """Give the services of a world their endpoints, and the world its workloads."""
        pods = [self._workload(pod) for pod in self.pods.values() if pod.address and not pod.is_over]
        # Servers find themselves among these, also while they end.
        world.workloads += [*pods, *self.entries]
        places: Places = set()
        named = self._named(world, places)
        entries = _Selection(self.entries)
        serving = _Selection(self._workload(pod) for pod in self.pods.values() if pod.address and pod.may_serve)
        for service in world.services.values():
            if not service.selector or service.resolution is Resolution.NONE:
                continue
            is_kubernetes = service.host in self.kubernetes
            takes_names = service.resolution is not Resolution.STATIC
            for workload in entries.of(service):
                if takes_names or is_address(workload.address):
                    _add(service, workload, places)
            for workload in serving.of(service) if service.host not in named else ():
                if workload.is_ready or is_kubernetes:
                    _add(service, workload, places, is_pod_of_service=is_kubernetes)

    def _workload(self, pod: Pod) -> Workload:
        return Workload(
            address=pod.address,
            namespace=pod.namespace,
            labels=pod.labels,
            ports=pod.ports,
            locality=self._locality(pod),
            is_ready=pod.is_ready,
            service_account=pod.service_account,
        )

    def _locality(self, pod: Pod) -> str:
        return locality_of_labels(pod.labels) or self.nodes.get(pod.node, "")

    def _named(self, world: World, places: Places) -> set[str]:
        """Add the endpoints that name their service. Returns the hosts that have such, be it an empty slice."""
        names = {(one.namespace, one.service) for one in self.pending}
        hosts = {(namespace, name): f"{name}.{namespace}.svc.{world.domain}" for namespace, name in names}
        sliced = {hosts[(one.namespace, one.service)] for one in self.pending if one.is_slice}
        by_address = {
            (pod.namespace, pod.address): pod
            for pod in self.pods.values()
            if pod.address and pod.is_ready and pod.may_serve
        }
        unknown: list[str] = []
        for pending in self.pending:
            host = hosts[(pending.namespace, pending.service)]
            service = world.services.get(host)
            if service is None:
                unknown.append(f"{pending.namespace}/{pending.service}")
                continue
            if not pending.is_slice and host in sliced:
                continue
            for port in service.ports:
                # A slice's port has the name of the service's port; the only port may go without.
                if port.name != pending.port_name and (len(service.ports) > 1 or pending.port_name):
                    continue
                entries = service.endpoints.setdefault(port.number, [])
                for one in pending.addresses:
                    # An endpoint may stand in two slices while it moves from one to the other.
                    place = (host, port.number, one.address, pending.port)
                    pod = self.pods.get(one.pod) if one.pod else by_address.get((pending.namespace, one.address))
                    if place not in places and not (pod is not None and pod.is_over):
                        places.add(place)
                        entries.append(self._entry(one, pending.port, pod))
        _warn_of_unknown(world, unknown)
        return set(hosts.values())

    def _entry(self, one: PendingAddress, port: int, pod: Pod | None) -> EndpointEntry:
        node = one.node or (pod.node if pod is not None else "")
        locality = (self._locality(pod) if pod is not None else "") or self.nodes.get(node, "") or _of_zone(one.zone)
        labels = pod.labels if pod is not None else {}
        return EndpointEntry(
            one.address,
            port,
            with_topology(labels, locality, node),
            locality=locality,
            is_ready=one.is_ready,
            service_account=pod.service_account if pod is not None else "",
        )


def _of_zone(zone: str) -> str:
    """A guess where the folder has no Nodes: of eu-west-1a the region is eu-west."""
    return f"{zone.rpartition('-')[0] if zone.count('-') > 1 else ''}/{zone}" if zone else ""


class _Selection:
    """Workloads by their labels, so that a service need not ask each of them."""

    def __init__(self, workloads: Iterable[Workload]) -> None:
        self._by_label: dict[tuple[str, str, str], list[Workload]] = {}
        for workload in workloads:
            for name, value in workload.labels.items():
                self._by_label.setdefault((workload.namespace, name, value), []).append(workload)

    def of(self, service: Service) -> Iterable[Workload]:
        """Those that a service's selector matches."""
        labels = service.selector.items()
        found = [self._by_label.get((service.namespace, name, value), []) for name, value in labels]
        for workload in min(found, key=len):
            if all(workload.labels.get(name) == value for name, value in labels):
                yield workload


def _add(service: Service, workload: Workload, places: Places, *, is_pod_of_service: bool = False) -> None:
    for port in service.ports:
        # Of a Service's pods a port is a number, or one that they name; of others it is the one of its name first.
        entry = endpoint_of(workload, port, by_name=not is_pod_of_service)
        entries = service.endpoints.setdefault(port.number, [])
        place = (service.host, port.number, entry.address, entry.port) if entry is not None else None
        # It may also stand in an EndpointSlice.
        if entry is not None and place is not None and place not in places:
            places.add(place)
            entries.append(entry)


def _warn_of_unknown(world: World, services: list[str]) -> None:
    if not services:
        return
    names = list(dict.fromkeys(services))
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    world.warnings.append(f"endpoints of {', '.join(names[:5])}{more}: there is no such Service")
