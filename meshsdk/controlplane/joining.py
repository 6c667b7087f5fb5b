"""Who serves a service: what names it, and what it selects.

As istiod has it (pilot/pkg/serviceregistry: kube/controller/{endpointslice,pod,controller}.go,
serviceentry/conversion.go): where a Service has EndpointSlices they say which pods serve it, and nothing else does;
WorkloadEntries that it selects come beside them. Endpoints count where there is no slice, and pods that it selects
where there is neither: people write no more. A ServiceEntry selects WorkloadEntries, and pods that are ready.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from msgspec import Struct, field
from msgspec.structs import replace

from .checks import is_address
from .istio import endpoint_of, with_topology
from .kubernetes import PendingAddress, PendingEndpoints, Pod, locality_of_labels
from .labels import has_labels
from .memo import Memo
from .names import service_host
from .world import EndpointEntry, Resolution, Service, Workload, World

__all__ = ["Backends", "join"]


class Backends(Struct, frozen=True):
    """What may serve, as the documents give it.

    Attributes:
        nodes: Name and locality of each node.
        entries: WorkloadEntries.
    """

    pods: list[Pod] = field(default_factory=list)
    nodes: list[tuple[str, str]] = field(default_factory=list)
    pending: list[PendingEndpoints] = field(default_factory=list)
    entries: list[Workload] = field(default_factory=list)


def join(backends: Backends, world: World, memo: Memo) -> None:
    """Give the services of a world their endpoints, and the world its workloads."""
    servers = memo.keep("servers", (backends, world.domain), lambda inside: _Servers(backends, world.domain, inside))
    # Servers find themselves among these, also while they end.
    world.workloads += servers.workloads
    world.services = {
        host: memo.keep(host, (service, servers), partial(servers.join, service))
        for host, service in world.services.items()
    }
    _warn_of_unknown(world, servers)


class _Serving(NamedTuple):
    """All that the endpoints of a service come from.

    Attributes:
        named: Addresses that name it, each with its port, and the pod that is there.
        localities: Of those pods, and of the nodes that the addresses name.
        entries: WorkloadEntries that it selects.
        pods: Pods that it selects.
    """

    service: Service
    named: Sequence[tuple[PendingEndpoints, PendingAddress, Pod | None]]
    localities: Sequence[str]
    entries: Sequence[Workload]
    pods: Sequence[Workload]


class _Servers:
    """Whoever may serve, by what services name and select."""

    def __init__(self, backends: Backends, domain: str, memo: Memo) -> None:
        self._nodes = dict(backends.nodes)
        self._pods = {(pod.namespace, pod.name): pod for pod in backends.pods}
        self._by_address = {
            (pod.namespace, pod.address): pod
            for pod in self._pods.values()
            if pod.address and pod.is_ready and pod.may_serve
        }
        self.named: dict[str, list[PendingEndpoints]] = {}
        for one in backends.pending:
            self.named.setdefault(service_host(one.service, one.namespace, domain), []).append(one)
        of_pods = [(pod, self._workload(pod, memo)) for pod in self._pods.values() if pod.address and not pod.is_over]
        self.workloads = [*(workload for _, workload in of_pods), *backends.entries]
        self._entries = _Selection(backends.entries)
        self._serving = _Selection(workload for pod, workload in of_pods if pod.may_serve)

    def join(self, service: Service, memo: Memo) -> Service:
        """A service with its endpoints."""
        pending = self.named.get(service.host, [])
        is_sliced = any(one.is_slice for one in pending)
        named = [
            (one, address, self._pod_at(one, address))
            for one in pending
            if one.is_slice or not is_sliced
            for address in one.addresses
        ]
        selects = bool(service.selector) and service.resolution is not Resolution.NONE
        serving = _Serving(
            service,
            named,
            [self._locality_of(address, pod) for _, address, pod in named],
            self._entries.of(service) if selects else (),
            self._serving.of(service) if selects and not pending else (),
        )
        return memo.keep("endpoints", serving, lambda _: _joined(serving))

    def _pod_at(self, pending: PendingEndpoints, address: PendingAddress) -> Pod | None:
        if address.pod:
            return self._pods.get(address.pod)
        return self._by_address.get((pending.namespace, address.address))

    def _workload(self, pod: Pod, memo: Memo) -> Workload:
        locality = self._locality(pod)

        def make(_: Memo) -> Workload:
            return Workload(
                address=pod.address,
                namespace=pod.namespace,
                labels=pod.labels,
                ports=pod.ports,
                locality=locality,
                is_ready=pod.is_ready,
                service_account=pod.service_account,
                hostname=pod.hostname,
                subdomain=pod.subdomain,
                name=pod.workload,
            )

        return memo.keep((pod.namespace, pod.name), (pod, locality), make)

    def _locality(self, pod: Pod) -> str:
        return locality_of_labels(pod.labels) or self._nodes.get(pod.node, "")

    def _locality_of(self, address: PendingAddress, pod: Pod | None) -> str:
        node = address.node or (pod.node if pod is not None else "")
        own = self._locality(pod) if pod is not None else ""
        return own or self._nodes.get(node, "") or _of_zone(address.zone)


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

    def of(self, service: Service) -> list[Workload]:
        """Those that a service's selector matches."""
        wanted = service.selector
        found = [self._by_label.get((service.namespace, name, value), []) for name, value in wanted.items()]
        fewest = min(found, key=len)
        return fewest if len(found) == 1 else [one for one in fewest if has_labels(one.labels, wanted)]


def _joined(serving: _Serving) -> Service:
    service = serving.service
    joined = _Joined(service)
    for (pending, address, pod), locality in zip(serving.named, serving.localities, strict=True):
        for port in service.ports:
            # A slice's port has the name of the service's port; the only port may go without.
            is_of_port = port.name == pending.port_name or (len(service.ports) == 1 and not pending.port_name)
            if is_of_port and not (pod is not None and pod.is_over):
                joined.add(port.number, _entry(address, pending, pod, locality))
    is_kubernetes, takes_names = not service.is_entry, service.resolution is not Resolution.STATIC
    for workload in serving.entries:
        if takes_names or is_address(workload.address):
            joined.add_workload(workload, by_name=True)
    for workload in serving.pods:
        if workload.is_ready or is_kubernetes:
            # Of a Service's pods a port is a number, or one that they name; of others it is the one of its name first.
            joined.add_workload(workload, by_name=not is_kubernetes)
    return joined.service()


class _Joined:
    """A service that gets endpoints, each of them once: it may stand in two slices while it moves, or be selected."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._endpoints = {port: list(entries) for port, entries in service.endpoints.items()}
        self._places: set[tuple[int, str, int]] = set()

    def add(self, port: int, entry: EndpointEntry) -> None:
        place = (port, entry.address, entry.port)
        if place not in self._places:
            self._places.add(place)
            self._endpoints.setdefault(port, []).append(entry)

    def add_workload(self, workload: Workload, *, by_name: bool) -> None:
        for port in self._service.ports:
            entry = endpoint_of(workload, port, by_name=by_name)
            if entry is not None and workload.hostname and workload.subdomain == self._service.host.partition(".")[0]:
                entry = replace(entry, hostname=workload.hostname)
            if entry is not None:
                self.add(port.number, entry)

    def service(self) -> Service:
        return replace(self._service, endpoints=self._endpoints) if self._places else self._service


def _entry(address: PendingAddress, pending: PendingEndpoints, pod: Pod | None, locality: str) -> EndpointEntry:
    labels: Mapping[str, str] = pod.labels if pod is not None else {}
    return EndpointEntry(
        address.address,
        pending.port,
        with_topology(labels, locality, address.node or (pod.node if pod is not None else "")),
        locality=locality,
        is_ready=address.is_ready,
        service_account=pod.service_account if pod is not None else "",
        hostname=address.hostname or (pod.hostname if pod is not None and pod.subdomain == pending.service else ""),
        workload=pod.workload if pod is not None else "",
    )


def _warn_of_unknown(world: World, servers: _Servers) -> None:
    names = [
        f"{pending[0].namespace}/{pending[0].service}"
        for host, pending in servers.named.items()
        if host not in world.services
    ]
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        world.warnings.append(f"endpoints of {', '.join(names[:5])}{more}: there is no such Service")
