"""Kubernetes objects: Service, EndpointSlice, Endpoints, Pod, Node (Kubernetes API reference)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct, field

from .age import UNKNOWN_AGE, Age
from .fields import Fields
from .names import full_host, service_host
from .protocols import protocol_of_kubernetes
from .workload_names import name_of_pod
from .world import Port, Service

__all__ = [
    "Meta",
    "PendingAddress",
    "PendingEndpoints",
    "Pod",
    "locality_of_labels",
    "parse_endpoint_slice",
    "parse_endpoints",
    "parse_node",
    "parse_pod",
    "parse_service",
]


class Meta(Struct, frozen=True):
    """What of an object's metadata matters.

    Attributes:
        owner: Kind and name of what controls it, where that has also made its name.
    """

    name: str
    namespace: str
    labels: dict[str, str]
    created: str = ""
    is_deleted: bool = False
    annotations: Mapping[str, str] = field(default_factory=dict)
    domain: str = "cluster.local"
    owner: tuple[str, str] | None = None

    @property
    def age(self) -> Age:
        """By which of two rules is the older one."""
        return (self.created, self.name, self.namespace) if self.created else UNKNOWN_AGE

    def full_host(self, host: str) -> str:
        """A host that the object names, as Istio completes it."""
        return full_host(host, self.namespace, self.domain)


class Pod(Struct, frozen=True):
    """A Pod.

    Attributes:
        address: Empty before it has one.
        hostname, subdomain: Its name among the pods of the headless Service that `subdomain` names.
        is_over: It has finished; its address may be another pod's by now.
        is_terminating: It is being deleted, and may still run.
        workload: What it belongs to, by name.
    """

    name: str
    namespace: str
    labels: Mapping[str, str]
    address: str
    ports: Mapping[str, int]
    node: str = ""
    service_account: str = ""
    is_ready: bool = True
    is_over: bool = False
    is_terminating: bool = False
    hostname: str = ""
    subdomain: str = ""
    workload: str = ""

    @property
    def may_serve(self) -> bool:
        """Whether whoever selects it sends requests to it, if it is ready."""
        return not self.is_over and not self.is_terminating


class PendingAddress(Struct, frozen=True):
    """An endpoint, by its address.

    Attributes:
        pod: Namespace and name of the pod that it names; None where it names none.
        hostname: Its name below that of its service.
    """

    address: str
    is_ready: bool = True
    pod: tuple[str, str] | None = None
    node: str = ""
    zone: str = ""
    hostname: str = ""


class PendingEndpoints(Struct, frozen=True):
    """Endpoints that name their service; joined when all documents are read."""

    service: str
    namespace: str
    port_name: str
    port: int
    is_slice: bool
    addresses: Sequence[PendingAddress] = ()


def parse_service(spec: Fields, meta: Meta) -> Service:
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
        host=service_host(meta.name, meta.namespace, meta.domain),
        namespace=meta.namespace,
        ports=tuple(ports),
        selector=spec.labels("selector"),
        addresses=_addresses(spec),
        distribution=_distribution(spec, meta),
        where=spec.where,
        export_to=_export_to(meta),
        external_name=external.lower(),
        is_headless=spec.text("clusterIP") == "None",
    )
    spec.ignore("type", "sessionAffinity", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy", "clusterIPs")
    spec.ignore("publishNotReadyAddresses", "externalTrafficPolicy", "allocateLoadBalancerNodePorts")
    # For those outside of the cluster.
    spec.ignore("externalIPs", "healthCheckNodePort", "loadBalancerIP", "loadBalancerClass", "loadBalancerSourceRanges")
    spec.ignore("sessionAffinityConfig")
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


# Kubernetes: the older spellings came before 1.17.
_REGION = ("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region")
_ZONE = ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone")
_SUBZONE = ("topology.istio.io/subzone",)


def parse_node(document: Fields, meta: Meta) -> tuple[str, str]:
    """A v1 Node: its name; region, zone and subzone (pkg/.../kube/controller/controller.go, getPodLocality)."""
    document.ignore("spec")
    every = (_REGION, _ZONE, _SUBZONE)
    parts = [next((meta.labels[name] for name in names if name in meta.labels), "") for names in every]
    return meta.name, "/".join(parts).rstrip("/")


def locality_of_labels(labels: Mapping[str, str]) -> str:
    """The locality that a workload's labels give it, in place of its node's (istio pkg/model/proxy.go)."""
    label = labels.get("topology.istio.io/locality", labels.get("istio-locality", ""))
    # Labels of Kubernetes have no slashes.
    return label if "/" in label else label.replace(".", "/")


# PodPhase: it runs no more, and comes not back.
_FINISHED = ("Succeeded", "Failed")


def parse_pod(document: Fields, meta: Meta) -> Pod:
    """A v1 Pod."""
    spec, status = document.child("spec"), document.child("status")
    ready: list[str] = []
    if status is not None:
        # Kubernetes: a pod is ready when its Ready condition is True; without conditions it counts as ready here.
        ready = [one.text("status") for one in status.children("conditions") if one.text("type") == "Ready"]
    return Pod(
        name=meta.name,
        namespace=meta.namespace,
        labels=meta.labels,
        address=status.text("podIP") if status is not None else "",
        ports=_ports_of(spec) if spec is not None else {},
        node=spec.text("nodeName") if spec is not None else "",
        service_account=(spec.text("serviceAccountName") if spec is not None else "") or "default",
        is_ready=not ready or ready[0] == "True",
        is_over=status is not None and status.text("phase") in _FINISHED,
        is_terminating=meta.is_deleted,
        hostname=spec.text("hostname") if spec is not None else "",
        subdomain=spec.text("subdomain") if spec is not None else "",
        workload=name_of_pod(meta.name, meta.labels, meta.owner),
    )


def _ports_of(spec: Fields) -> dict[str, int]:
    """Named ports; of two the first counts (istio pilot/.../kube/controller/pod.go, getPortMap)."""
    ports: dict[str, int] = {}
    sidecars = [one for one in spec.children("initContainers") if one.text("restartPolicy") == "Always"]
    for container in (*spec.children("containers"), *sidecars):
        for port in container.children("ports"):
            number = port.integer("containerPort", low=1, high=65535)
            if port.text("name") and number is not None and port.text("protocol", "TCP") == "TCP":
                ports.setdefault(port.text("name"), number)
    return ports


# Of slices that another controller of multi-cluster services makes.
_SERVICE_LABEL, _IMPORTED_LABEL = "kubernetes.io/service-name", "multicluster.kubernetes.io/service-name"


def parse_endpoint_slice(document: Fields, meta: Meta) -> list[PendingEndpoints]:
    """A discovery.k8s.io/v1 EndpointSlice; it belongs to the service that its label names.

    IPv4 and IPv6 both count, and names do not (istio pilot/.../kube/controller/endpointslice.go).
    """
    service = meta.labels.get(_SERVICE_LABEL, "")
    address_type = document.text("addressType")
    endpoints = list(document.children("endpoints"))
    ports = list(document.children("ports"))
    if not service and _IMPORTED_LABEL not in meta.labels:
        document.warn(f"metadata.labels[{_SERVICE_LABEL!r}]", "names no service: the slice has no effect")
    if not service or address_type == "FQDN" or _IMPORTED_LABEL in meta.labels:
        return []
    addresses = [one for endpoint in endpoints for one in _slice_addresses(endpoint, meta.namespace)]
    found = []
    for port in ports:
        number = port.integer("port", low=1, high=65535)
        if number is not None:
            found.append(PendingEndpoints(service, meta.namespace, port.text("name"), number, True, addresses))
    return found or [PendingEndpoints(service, meta.namespace, "", 0, True)]


def _slice_addresses(endpoint: Fields, namespace: str) -> list[PendingAddress]:
    conditions = endpoint.child("conditions")
    # EndpointConditions.ready: "A nil value should be interpreted as true".
    is_ready = is_terminating = True
    if conditions is not None:
        is_ready = conditions.boolean("ready", True)
        # As istiod has it (endpointHealthStatus): what is not ready, and does not say that it stays, is on its way out.
        is_terminating = conditions.boolean("terminating", True)
    if not is_ready and is_terminating:
        return []
    node, zone, pod = endpoint.text("nodeName"), endpoint.text("zone"), _pod_of(endpoint, namespace)
    of_all = is_ready, pod, node, zone, endpoint.text("hostname")
    return [PendingAddress(address, *of_all) for address in endpoint.texts("addresses")]


def _pod_of(holder: Fields, namespace: str) -> tuple[str, str] | None:
    target = holder.child("targetRef")
    if target is None or target.text("kind", "Pod") != "Pod":
        return None
    return target.text("namespace") or namespace, target.text("name")


def parse_endpoints(document: Fields, meta: Meta) -> list[PendingEndpoints]:
    """A v1 Endpoints object; its name is the service's."""
    found = []
    for subset in document.children("subsets"):
        addresses = [
            PendingAddress(
                one.required_text("ip"),
                name == "addresses",
                _pod_of(one, meta.namespace),
                one.text("nodeName"),
                hostname=one.text("hostname"),
            )
            for name in ("addresses", "notReadyAddresses")
            for one in subset.children(name)
        ]
        for port in subset.children("ports"):
            number = port.integer("port", low=1, high=65535)
            if number is not None:
                found.append(PendingEndpoints(meta.name, meta.namespace, port.text("name"), number, False, addresses))
    return found
