"""Kubernetes objects: Service, EndpointSlice, Endpoints, Pod (Kubernetes API reference, v1 and discovery.k8s.io/v1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .age import Age
from .fields import Fields
from .protocols import protocol_of_kubernetes
from .world import EndpointEntry, Port, Service, Workload, World

__all__ = ["Meta", "PendingEndpoints", "parse_endpoint_slice", "parse_endpoints", "parse_pod", "parse_service"]


@dataclass(frozen=True, slots=True)
class Meta:
    """What of an object's metadata matters."""

    name: str
    namespace: str
    labels: dict[str, str]
    created: str = ""
    place: int = 0
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def age(self) -> Age:
        """By which of two rules is the older one."""
        return self.created, 0 if self.created else self.place, self.name, self.namespace


@dataclass(slots=True)
class PendingEndpoints:
    """Endpoints that name their service; joined when all documents are read."""

    service: str
    namespace: str
    port_name: str
    entries: list[EndpointEntry] = field(default_factory=list)


def parse_service(spec: Fields, meta: Meta, world: World) -> Service:
    """A v1 Service."""
    ports = []
    for port in spec.children("ports"):
        name = port.text("name")
        number = port.integer("port", low=1, high=65535)
        if number is None:
            raise port.error("port", "must be set")
        target = port.raw("targetPort")
        if target is not None and (isinstance(target, bool) or not isinstance(target, int | str)):
            raise port.error("targetPort", "must be a port number or a port's name")
        transport = port.text("protocol", "TCP")
        protocol = protocol_of_kubernetes(number, name, port.text("appProtocol"))
        port.ignore("nodePort")
        port.finish()
        if transport == "TCP":
            ports.append(Port(name, number, target, protocol))
    external = spec.text("externalName") if spec.text("type") == "ExternalName" else ""
    service = Service(
        host=f"{meta.name}.{meta.namespace}.svc.{world.domain}",
        namespace=meta.namespace,
        ports=tuple(ports),
        selector=spec.labels("selector"),
        addresses=_addresses(spec),
        distribution=_distribution(spec, meta),
        where=spec.where,
        export_to=_export_to(meta),
        external_name=external.lower(),
    )
    spec.ignore("type", "sessionAffinity", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy", "clusterIPs")
    spec.ignore("publishNotReadyAddresses", "externalTrafficPolicy", "allocateLoadBalancerNodePorts")
    spec.finish(("selector", "ports"))
    return service


# pkg/config/constants: namespaces, separated by commas.
_EXPORT_TO = "networking.istio.io/exportTo"


def _export_to(meta: Meta) -> tuple[str, ...]:
    return tuple(one.strip() for one in meta.annotations.get(_EXPORT_TO, "").split(",") if one.strip())


def _addresses(spec: Fields) -> tuple[str, ...]:
    cluster_ip = spec.text("clusterIP")
    return (cluster_ip,) if cluster_ip and cluster_ip != "None" else ()


# pilot/pkg/model/service.go, GetTrafficDistribution; the annotation is older than the field.
_DISTRIBUTIONS = {"preferclose": "ZONE", "prefersamezone": "ZONE", "prefersamenode": "NODE"}
_DISTRIBUTION = "networking.istio.io/traffic-distribution"


def _distribution(spec: Fields, meta: Meta) -> str:
    said = spec.text("trafficDistribution") or meta.annotations.get(_DISTRIBUTION, "")
    return _DISTRIBUTIONS.get(said.lower(), "")


def parse_pod(document: Fields, meta: Meta) -> Workload | None:
    """A v1 Pod; None before it has an address."""
    spec, status = document.child("spec"), document.child("status")
    ports: dict[str, int] = {}
    if spec is not None:
        for container in spec.children("containers"):
            for port in container.children("ports"):
                number = port.integer("containerPort", low=1, high=65535)
                if port.text("name") and number is not None:
                    ports[port.text("name")] = number
    if status is None or not status.text("podIP"):
        return None
    # Kubernetes: a pod is ready when its Ready condition is True; without conditions it counts as ready here.
    ready = [c.text("status") for c in status.children("conditions") if c.text("type") == "Ready"]
    return Workload(
        address=status.text("podIP"),
        namespace=meta.namespace,
        labels=meta.labels,
        ports=ports,
        is_ready=not ready or ready[0] == "True",
        service_account=spec.text("serviceAccountName") if spec is not None else "",
    )


PodLabels = Callable[[str, str], dict[str, str]]


def parse_endpoint_slice(document: Fields, meta: Meta, pod_labels: PodLabels) -> list[PendingEndpoints]:
    """A discovery.k8s.io/v1 EndpointSlice; it belongs to the service that its label names."""
    service = meta.labels.get("kubernetes.io/service-name", "")
    if not service:
        raise document.error("metadata.labels['kubernetes.io/service-name']", "must name the service")
    found = []
    endpoints = list(document.children("endpoints"))
    for port in document.children("ports"):
        number = port.integer("port", low=1, high=65535)
        if number is None:
            continue
        pending = PendingEndpoints(service, meta.namespace, port.text("name"))
        for endpoint in endpoints:
            pending.entries += _slice_entries(endpoint, number, meta.namespace, pod_labels)
        found.append(pending)
    document.text("addressType")
    return found


def _slice_entries(endpoint: Fields, port: int, namespace: str, pod_labels: PodLabels) -> list[EndpointEntry]:
    conditions = endpoint.child("conditions")
    # EndpointConditions.ready: "A nil value should be interpreted as true".
    ready = conditions.boolean("ready", True) if conditions is not None else True
    labels = _target_labels(endpoint, namespace, pod_labels)
    zone = endpoint.text("zone")
    region = zone.rpartition("-")[0] if zone.count("-") > 1 else ""
    locality = f"{region}/{zone}" if zone else ""
    return [
        EndpointEntry(address, port, labels, locality=locality, is_ready=ready)
        for address in endpoint.texts("addresses")
    ]


def _target_labels(holder: Fields, namespace: str, pod_labels: PodLabels) -> dict[str, str]:
    target = holder.child("targetRef")
    if target is None or target.text("kind", "Pod") != "Pod":
        return {}
    return pod_labels(target.text("namespace") or namespace, target.text("name"))


def parse_endpoints(document: Fields, meta: Meta, pod_labels: PodLabels) -> list[PendingEndpoints]:
    """A v1 Endpoints object; its name is the service's."""
    found = []
    for subset in document.children("subsets"):
        groups = [(list(subset.children("addresses")), True), (list(subset.children("notReadyAddresses")), False)]
        for port in subset.children("ports"):
            number = port.integer("port", low=1, high=65535)
            if number is None:
                continue
            pending = PendingEndpoints(meta.name, meta.namespace, port.text("name"))
            for addresses, ready in groups:
                for address in addresses:
                    labels = _target_labels(address, meta.namespace, pod_labels)
                    pending.entries.append(EndpointEntry(address.required_text("ip"), number, labels, is_ready=ready))
            found.append(pending)
    return found
