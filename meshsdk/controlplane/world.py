"""What the documents say, in one vocabulary: services, who serves them, and rules about them.

Kubernetes and Istio objects are read into these; xDS is made from these. Names follow Istio's model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from .security_world import SecurityWorld

__all__ = [
    "NO_POLICY",
    "Age",
    "DestinationRule",
    "EgressListener",
    "EndpointEntry",
    "LoadBalancer",
    "LocalitySetting",
    "MeshDefaults",
    "Port",
    "Resolution",
    "Service",
    "Sidecar",
    "Subset",
    "TlsMode",
    "TrafficPolicy",
    "VirtualService",
    "Warmup",
    "Workload",
    "World",
    "hosts_overlap",
    "is_internal_header",
]


# Of two rules the older one holds: when it was created, or where nobody knows its place in the folder; name, namespace.
Age = tuple[str, int, str, str]
_UNKNOWN_AGE: Age = ("", 0, "", "")


@dataclass(frozen=True, slots=True)
class Port:
    """A port of a service.

    Attributes:
        target: Port number or name at the workload; None is the same as `number`.
        protocol: `HTTP`, `HTTP2`, `GRPC`, `HTTPS`, `TCP` … (Istio docs, ops/configuration/traffic-management/
            protocol-selection).
    """

    name: str
    number: int
    target: int | str | None = None
    protocol: str = "HTTP"


@dataclass(frozen=True, slots=True)
class Workload:
    """Something that can serve: a Pod or a WorkloadEntry, selected by its labels."""

    address: str
    namespace: str
    labels: Mapping[str, str]
    ports: Mapping[str, int] = field(default_factory=dict)
    weight: int | None = None
    locality: str = ""
    is_ready: bool = True
    service_account: str = ""


@dataclass(frozen=True, slots=True)
class EndpointEntry:
    """One address that serves one port of a service."""

    address: str
    port: int
    labels: Mapping[str, str] = field(default_factory=dict)
    weight: int | None = None
    locality: str = ""
    is_ready: bool = True
    service_account: str = ""


class Resolution(Enum):
    """How the endpoints of a service are found (ServiceEntry.Resolution)."""

    STATIC = "STATIC"
    DNS = "DNS"
    DNS_ROUND_ROBIN = "DNS_ROUND_ROBIN"
    NONE = "NONE"


@dataclass(slots=True)
class Service:
    """A host name that others call.

    Attributes:
        host: `reviews.default.svc.cluster.local`, or an external name.
        endpoints: By port number.
        aliases: Other names: the short forms of a Kubernetes service, its cluster IP.
        export_to: Namespaces whose clients see it; empty is all.
        external_name: The host that it is a name of.
        subject_alt_names: Names of its servers' certificates, where they are not to be worked out.
    """

    host: str
    namespace: str
    ports: tuple[Port, ...]
    selector: Mapping[str, str] = field(default_factory=dict)
    resolution: Resolution = Resolution.STATIC
    aliases: tuple[str, ...] = ()
    endpoints: dict[int, list[EndpointEntry]] = field(default_factory=dict)
    where: str = ""
    export_to: tuple[str, ...] = ()
    external_name: str = ""
    subject_alt_names: tuple[str, ...] = ()


class TlsMode(Enum):
    """ClientTLSSettings.TLSmode."""

    DISABLE = "DISABLE"
    SIMPLE = "SIMPLE"
    MUTUAL = "MUTUAL"
    ISTIO_MUTUAL = "ISTIO_MUTUAL"


@dataclass(frozen=True, slots=True)
class ClientTls:
    """TLS towards a service (istio.networking.v1.ClientTLSSettings)."""

    mode: TlsMode
    sni: str = ""
    ca_certificates: str = ""
    client_certificate: str = ""
    private_key: str = ""
    subject_alt_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConsistentHash:
    """LoadBalancerSettings.ConsistentHashLB: one of the keys is set."""

    header: str = ""
    cookie: str = ""
    cookie_path: str = ""
    cookie_ttl_seconds: float | None = None
    query_parameter: str = ""
    source_ip: bool = False
    minimum_ring_size: int | None = None
    maglev_table_size: int | None = None
    is_maglev: bool = False
    is_ring: bool = False


@dataclass(frozen=True, slots=True)
class OutlierDetection:
    """istio.networking.v1.OutlierDetection; None is not set."""

    consecutive_5xx: int | None = None
    consecutive_gateway_errors: int | None = None
    consecutive_local_origin_failures: int | None = None
    split_local_origin: bool = False
    interval_seconds: float | None = None
    base_ejection_seconds: float | None = None
    max_ejection_percent: int | None = None
    min_health_percent: int | None = None


@dataclass(frozen=True, slots=True)
class ConnectionPool:
    """istio.networking.v1.ConnectionPoolSettings; None is not set."""

    max_connections: int | None = None
    connect_timeout_seconds: float | None = None
    pending_requests: int | None = None
    max_requests: int | None = None
    max_requests_per_connection: int | None = None
    max_retries: int | None = None
    idle_timeout_seconds: float | None = None
    use_http2: bool | None = None


@dataclass(frozen=True, slots=True)
class LocalitySetting:
    """istio.networking.v1.LocalityLoadBalancerSetting.

    Attributes:
        distribute: Where clients of a locality send to, with shares in percent.
        failover: From a region to the one that stands in for it.
        failover_priority: Labels by which endpoints are near.
    """

    is_enabled: bool = True
    distribute: tuple[tuple[str, Mapping[str, int]], ...] = ()
    failover: tuple[tuple[str, str], ...] = ()
    failover_priority: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Warmup:
    """istio.networking.v1.WarmupConfiguration."""

    seconds: float
    minimum_percent: float = 10.0
    aggression: float = 1.0


@dataclass(frozen=True, slots=True)
class LoadBalancer:
    """istio.networking.v1.LoadBalancerSettings."""

    simple: str = ""
    consistent_hash: ConsistentHash | None = None
    locality: LocalitySetting | None = None
    warmup: Warmup | None = None


@dataclass(frozen=True, slots=True)
class TrafficPolicy:
    """istio.networking.v1.TrafficPolicy; None is not set."""

    load_balancer: LoadBalancer | None = None
    connection_pool: ConnectionPool | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTls | None = None
    ports: Mapping[int, TrafficPolicy] = field(default_factory=dict)

    @property
    def consistent_hash(self) -> ConsistentHash | None:
        """What requests are hashed by."""
        return self.load_balancer.consistent_hash if self.load_balancer is not None else None

    def for_port(self, port: int) -> TrafficPolicy:
        """What holds for one port: portLevelSettings inherit nothing."""
        return self.ports.get(port, self)


NO_POLICY = TrafficPolicy()


@dataclass(frozen=True, slots=True)
class Subset:
    """A named part of a service's endpoints."""

    name: str
    labels: Mapping[str, str]
    policy: TrafficPolicy | None = None


@dataclass(frozen=True, slots=True)
class DestinationRule:
    """istio.networking.v1.DestinationRule.

    Attributes:
        export_to: Namespaces for whose clients it holds; empty is all.
        selector: Labels of the clients that it holds for; None is all.
        is_broken: It cannot be read. It may ask for TLS, so that nothing is sent to its hosts without it.
    """

    host: str
    namespace: str
    policy: TrafficPolicy | None = None
    subsets: tuple[Subset, ...] = ()
    where: str = ""
    export_to: tuple[str, ...] = ()
    selector: Mapping[str, str] | None = None
    age: Age = _UNKNOWN_AGE
    is_broken: bool = False

    def policy_for(self, port: int, subset: str = "") -> TrafficPolicy:
        """What holds for a port, or for a subset there: the subset's, field by field, over the rule's.

        Source: istio/istio pilot/pkg/networking/util/util.go, MergeSubsetTrafficPolicy.
        """
        below = (self.policy or NO_POLICY).for_port(port)
        of_subset = next((one.policy for one in self.subsets if one.name == subset), None) if subset else None
        if of_subset is None:
            return below
        over, is_whole = of_subset.for_port(port), port in of_subset.ports
        if is_whole:
            return over
        return TrafficPolicy(
            load_balancer=over.load_balancer or below.load_balancer,
            connection_pool=over.connection_pool or below.connection_pool,
            outlier_detection=over.outlier_detection or below.outlier_detection,
            tls=over.tls or below.tls,
        )

    def hash_for(self, port: int | None, subset: str, *, default_port: int | None = None) -> ConsistentHash | None:
        """What requests to a destination are hashed by (route.go, HashForHTTPDestination and hashForService).

        Args:
            port: That the destination names.
            subset: That it names.
            default_port: The service's own, for the route that it has without any rule.
        """
        rule = self.policy or NO_POLICY
        found = [rule.consistent_hash]
        number = port if port is not None else default_port
        if number is not None and number in rule.ports:
            found.append(rule.ports[number].consistent_hash)
        of_subset = next((one.policy for one in self.subsets if one.name == subset), None)
        if of_subset is not None:
            found.append(of_subset.consistent_hash)
            if port is not None and port in of_subset.ports:
                found.append(of_subset.ports[port].consistent_hash)
        return next((one for one in reversed(found) if one is not None), None)


@dataclass(frozen=True, slots=True)
class StringMatch:
    """istio.networking.v1.StringMatch: `kind` is exact, prefix or regex."""

    kind: str
    value: str


@dataclass(frozen=True, slots=True)
class HttpMatch:
    """istio.networking.v1.HTTPMatchRequest; all that is set must hold.

    Attributes:
        source_labels, source_namespace: Of clients.
    """

    name: str = ""
    uri: StringMatch | None = None
    ignore_uri_case: bool = False
    scheme: StringMatch | None = None
    method: StringMatch | None = None
    authority: StringMatch | None = None
    headers: Mapping[str, StringMatch | None] = field(default_factory=dict)
    without_headers: Mapping[str, StringMatch | None] = field(default_factory=dict)
    query_params: Mapping[str, StringMatch | None] = field(default_factory=dict)
    port: int | None = None
    source_labels: Mapping[str, str] = field(default_factory=dict)
    source_namespace: str = ""


@dataclass(frozen=True, slots=True)
class HeaderOperations:
    """istio.networking.v1.Headers.HeaderOperations."""

    set: Mapping[str, str] = field(default_factory=dict)
    add: Mapping[str, str] = field(default_factory=dict)
    remove: tuple[str, ...] = ()

    @property
    def authority(self) -> str:
        """What Host or :authority is set or added to; empty where it is left as it is (route.go, isAuthorityHeader)."""
        found = [
            value
            for headers in (self.set, self.add)
            for name, value in headers.items()
            if name.lower() in ("host", ":authority")
        ]
        return found[0] if found else ""


def is_internal_header(name: str) -> bool:
    """Whether Envoy does not change it as a header (route.go, isInternalHeader)."""
    return name.startswith(":") or name.lower() == "host"


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a route sends to (HTTPRouteDestination); host is a full name."""

    host: str
    subset: str = ""
    port: int | None = None
    weight: int = 0
    request_headers: HeaderOperations = HeaderOperations()
    response_headers: HeaderOperations = HeaderOperations()


@dataclass(frozen=True, slots=True)
class HttpRetry:
    """istio.networking.v1.HTTPRetry."""

    attempts: int
    per_try_timeout_seconds: float | None = None
    retry_on: str = ""
    backoff_seconds: float | None = None
    ignores_previous_hosts: bool | None = None
    uses_remote_localities: bool = False


@dataclass(frozen=True, slots=True)
class HttpFault:
    """istio.networking.v1.HTTPFaultInjection; percentages 0 to 100."""

    delay_seconds: float = 0.0
    delay_percent: float = 0.0
    abort_status: int = 0
    abort_grpc_status: int | None = None
    abort_percent: float = 0.0


@dataclass(frozen=True, slots=True)
class HttpRedirect:
    """istio.networking.v1.HTTPRedirect."""

    uri: str = ""
    authority: str = ""
    port: int | None = None
    scheme: str = ""
    code: int = 301
    keeps_request_port: bool = False


@dataclass(frozen=True, slots=True)
class HttpRoute:
    """istio.networking.v1.HTTPRoute.

    Attributes:
        delegate: Namespace and name of the VirtualService whose routes take its place.
    """

    name: str = ""
    matches: tuple[HttpMatch, ...] = ()
    destinations: tuple[Destination, ...] = ()
    redirect: HttpRedirect | None = None
    direct_status: int | None = None
    direct_body: str = ""
    rewrite_uri: str = ""
    rewrite_regex: tuple[str, str] | None = None
    rewrite_authority: str = ""
    timeout_seconds: float | None = None
    retry: HttpRetry | None = None
    fault: HttpFault | None = None
    mirrors: tuple[tuple[Destination, float], ...] = ()
    request_headers: HeaderOperations = HeaderOperations()
    response_headers: HeaderOperations = HeaderOperations()
    delegate: tuple[str, str] | None = None

    def every_destination(self) -> Iterator[Destination]:
        """Where it sends to, mirrors included."""
        yield from self.destinations
        yield from (destination for destination, _ in self.mirrors)


@dataclass(frozen=True, slots=True)
class VirtualService:
    """istio.networking.v1.VirtualService; hosts are full names. One without hosts is for others to delegate to.

    Attributes:
        export_to: Namespaces for whose clients it holds; empty is all.
    """

    name: str
    namespace: str
    hosts: tuple[str, ...]
    routes: tuple[HttpRoute, ...]
    where: str = ""
    export_to: tuple[str, ...] = ()
    age: Age = _UNKNOWN_AGE


@dataclass(frozen=True, slots=True)
class EgressListener:
    """What a workload uses on a port (istio.networking.v1.IstioEgressListener).

    Attributes:
        port: None is every port that no other has.
        hosts: Namespace and host of each; the namespace may be `.`, `*` or `~`, the host a wildcard.
    """

    port: int | None
    hosts: tuple[tuple[str, str], ...]

    def imports(self, client_namespace: str, namespace: str, host: str) -> bool:
        """Whether it has a host of some namespace."""
        return any(
            (of == "*" or (client_namespace if of == "." else of) == namespace) and hosts_overlap(pattern, host)
            for of, pattern in self.hosts
        )


@dataclass(frozen=True, slots=True)
class Sidecar:
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
    age: Age = _UNKNOWN_AGE

    def listener_for(self, port: int) -> EgressListener | None:
        """What there is on a port."""
        own = next((one for one in self.egress if one.port == port), None)
        return own or next((one for one in self.egress if one.port is None), None)


def hosts_overlap(one: str, other: str) -> bool:
    """Whether there is a host that both are for (pkg/config/host/name.go, Matches)."""
    if one.startswith("*") and other.startswith("*"):
        return one[1:].endswith(other[1:]) or other[1:].endswith(one[1:])
    if one.startswith("*"):
        return other.endswith(one[1:])
    return one.endswith(other[1:]) if other.startswith("*") else one == other


@dataclass(frozen=True, slots=True)
class MeshDefaults:
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


@dataclass(slots=True)
class World:
    """Everything that the documents of a folder say."""

    domain: str = "cluster.local"
    services: dict[str, Service] = field(default_factory=dict)
    workloads: list[Workload] = field(default_factory=list)
    virtual_services: list[VirtualService] = field(default_factory=list)
    destination_rules: list[DestinationRule] = field(default_factory=list)
    sidecars: list[Sidecar] = field(default_factory=list)
    defaults: MeshDefaults = MeshDefaults()
    security: SecurityWorld = field(default_factory=SecurityWorld)
    warnings: list[str] = field(default_factory=list)

    def full_host(self, host: str, namespace: str) -> str:
        """A host as Istio completes it: a name without dots is a service of the rule's own namespace."""
        return host.lower() if "." in host or host == "*" else f"{host.lower()}.{namespace}.svc.{self.domain}"
