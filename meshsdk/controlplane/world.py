"""What the documents say, in one vocabulary: services, who serves them, and rules about them.

Kubernetes and Istio objects are read into these; xDS is made from these. Names follow Istio's model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum

from msgspec import Struct, field

from .access_logging import LogDefaults, ManagerTelemetry, Telemetry, access_logs, levels
from .age import UNKNOWN_AGE, Age
from .http_rules import HttpRetry, VirtualService
from .metric_rules import stats_filter
from .names import full_host
from .security_world import SecurityWorld
from .tracing import TraceDefaults, trace_settings
from .traffic_policy import DestinationRule, LocalitySetting

__all__ = [
    "NOT_SAYABLE",
    "TLS_LABEL",
    "EgressListener",
    "EndpointEntry",
    "MeshDefaults",
    "Port",
    "Resolution",
    "Service",
    "Sidecar",
    "Workload",
    "World",
    "covers_host",
    "hosts_overlap",
    "is_exported",
]


# What protobuf raises at a value that a field does not take, and that was not looked at where it was read.
NOT_SAYABLE = (ValueError, TypeError, OverflowError)

# By which a workload says that its proxy takes mutual TLS; Istio's injector sets it on Pods.
TLS_LABEL = "security.istio.io/tlsMode"


class Port(Struct, frozen=True):
    """A port of a service.

    Attributes:
        target: Port number or name at the workload; None is the same as `number`.
        protocol: `HTTP`, `HTTP2`, `GRPC`, `HTTPS`, `TCP` … (Istio docs, ops/configuration/traffic-management/
            protocol-selection); empty where nobody says.
    """

    name: str
    number: int
    target: int | str | None = None
    protocol: str = "HTTP"


class Workload(Struct, frozen=True):
    """Something that can serve: a Pod or a WorkloadEntry, selected by its labels.

    Attributes:
        hostname, subdomain: Of a pod: its name among those of the headless Service that `subdomain` names.
        name: Of the workload, as metrics call it.
    """

    address: str
    namespace: str
    labels: Mapping[str, str]
    ports: Mapping[str, int] = field(default_factory=dict)
    weight: int | None = None
    locality: str = ""
    is_ready: bool = True
    service_account: str = ""
    hostname: str = ""
    subdomain: str = ""
    name: str = ""


class EndpointEntry(Struct, frozen=True):
    """One address that serves one port of a service.

    Attributes:
        hostname: By which it is one of a headless service, `db-0` of `db-0.db.default.svc.cluster.local`.
        workload: Whose it is, by name; empty where that is not known.
    """

    address: str
    port: int
    labels: Mapping[str, str] = field(default_factory=dict)
    weight: int | None = None
    locality: str = ""
    is_ready: bool = True
    service_account: str = ""
    hostname: str = ""
    workload: str = ""


class Resolution(Enum):
    """How the endpoints of a service are found (ServiceEntry.Resolution)."""

    STATIC = "STATIC"
    DNS = "DNS"
    DNS_ROUND_ROBIN = "DNS_ROUND_ROBIN"
    NONE = "NONE"


class Service(Struct, frozen=True):
    """A host name that others call.

    Attributes:
        host: `reviews.default.svc.cluster.local`, or an external name.
        endpoints: By port number.
        addresses: Its own, such as a cluster IP.
        distribution: Which endpoints are near enough, of a Service: `ZONE`, `NODE`, or empty for any.
        export_to: Namespaces whose clients see it; empty is all.
        external_name: The host that it is a name of.
        subject_alt_names: Names of its servers' certificates, besides those of their accounts.
        is_entry: A ServiceEntry made it.
        is_external: It is outside the mesh (ServiceEntry.location, by default).
        is_looked_up: That left it to the application to look it up (`resolution: NONE`).
        is_headless: It has no address of its own, but its pods may have names.
    """

    host: str
    namespace: str
    ports: tuple[Port, ...]
    selector: Mapping[str, str] = field(default_factory=dict)
    resolution: Resolution = Resolution.STATIC
    addresses: tuple[str, ...] = ()
    distribution: str = ""
    endpoints: Mapping[int, Sequence[EndpointEntry]] = field(default_factory=dict)
    where: str = ""
    export_to: tuple[str, ...] = ()
    external_name: str = ""
    subject_alt_names: tuple[str, ...] = ()
    is_entry: bool = False
    is_external: bool = False
    is_looked_up: bool = False
    is_headless: bool = False


class EgressListener(Struct, frozen=True):
    """What a workload uses on a port (istio.networking.v1.IstioEgressListener).

    Attributes:
        port: None is every port that no other has; 0 is of a Unix domain socket.
        hosts: Namespace and host of each; the namespace may be `.` or `*`, the host a wildcard.
        left_out: The same, of those that it does not have though `hosts` does.
        is_proxy: For clients that speak to it as their HTTP proxy, about hosts of any port.
    """

    port: int | None = None
    hosts: tuple[tuple[str, str], ...] = (("*", "*"),)
    left_out: tuple[tuple[str, str], ...] = ()
    is_proxy: bool = False

    @property
    def takes_every_port(self) -> bool:
        """Whether it has services with all their ports (sidecar.go, needsPortMatch)."""
        return not self.port or self.is_proxy


class Sidecar(Struct, frozen=True):
    """istio.networking.v1.Sidecar, as far as it is about what a workload calls.

    Attributes:
        selector: Labels of its workloads; None is all of its namespace.
        registry_only: Hosts that it does not know are refused; None is what the mesh says.
    """

    name: str
    namespace: str
    selector: Mapping[str, str] | None = None
    egress: tuple[EgressListener, ...] = ()
    registry_only: bool | None = None
    age: Age = UNKNOWN_AGE


def hosts_overlap(one: str, other: str) -> bool:
    """Whether there is a host that both are for (pkg/config/host/name.go, Matches)."""
    if one.startswith("*") and other.startswith("*"):
        return one[1:].endswith(other[1:]) or other[1:].endswith(one[1:])
    if one.startswith("*"):
        return other.endswith(one[1:])
    return one.endswith(other[1:]) if other.startswith("*") else one == other


def covers_host(wildcard: str, host: str) -> bool:
    """Whether a wildcard is for every host that `host` stands for, which may be a narrower wildcard.

    Source: istio/istio pilot/pkg/model/config.go, mostSpecificHostWildcardMatch.
    """
    return host.removeprefix("*").endswith(wildcard[1:])


def is_exported(export_to: Sequence[str], namespace: str, to: str) -> bool:
    """Whether clients of the namespace `to` see what is of a namespace.

    exportTo: `.` is the own namespace, `*` all of them, `~` none; without a list it is all of them.
    """
    return not export_to or "*" in export_to or to in export_to or ("." in export_to and namespace == to)


class MeshDefaults(Struct, frozen=True):
    """What of MeshConfig holds for clients where no rule of theirs says otherwise.

    Attributes:
        registry_only: Hosts that are no service must not be called (outboundTrafficPolicy).
        service_export_to, virtual_service_export_to, destination_rule_export_to: Empty is all namespaces.
    """

    registry_only: bool = False
    retry: HttpRetry | None = None
    locality: LocalitySetting | None = None
    connect_timeout_seconds: float | None = None
    service_export_to: tuple[str, ...] = ()
    virtual_service_export_to: tuple[str, ...] = ()
    destination_rule_export_to: tuple[str, ...] = ()
    logs: LogDefaults = LogDefaults()
    traces: TraceDefaults = TraceDefaults()


class World(Struct):
    """Everything that the documents of a folder say."""

    domain: str = "cluster.local"
    services: dict[str, Service] = field(default_factory=dict)
    workloads: list[Workload] = field(default_factory=list)
    virtual_services: list[VirtualService] = field(default_factory=list)
    destination_rules: list[DestinationRule] = field(default_factory=list)
    sidecars: list[Sidecar] = field(default_factory=list)
    telemetries: list[Telemetry] = field(default_factory=list)
    defaults: MeshDefaults = MeshDefaults()
    security: SecurityWorld = field(default_factory=SecurityWorld)
    warnings: list[str] = field(default_factory=list)

    def told_of(self, namespace: str, labels: Mapping[str, str], *, is_server: bool) -> ManagerTelemetry:
        """What is told of the requests of a workload."""
        root, logs = self.security.mesh.root_namespace, self.defaults.logs
        chosen = levels(self.telemetries, root, namespace, labels)
        traces = [rule for one in chosen for rule in one.tracing]
        metrics = [entry for one in chosen for entry in one.metrics]
        return ManagerTelemetry(
            access_logs(chosen, logs, is_server=is_server),
            trace_settings(traces, self.defaults.traces, namespace, labels, is_server=is_server),
            stats_filter(metrics, logs.metrics, logs.prometheus, is_server=is_server),
        )

    def full_host(self, host: str, namespace: str) -> str:
        """A host as Istio completes it: a name without dots is a service of the rule's own namespace."""
        return full_host(host, namespace, self.domain)
