"""What the documents say, in one vocabulary: services, who serves them, and rules about them.

Kubernetes and Istio objects are read into these; xDS is made from these. Names follow Istio's model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from .security_world import SecurityWorld

__all__ = [
    "DestinationRule",
    "EndpointEntry",
    "Port",
    "Resolution",
    "Service",
    "Subset",
    "TlsMode",
    "TrafficPolicy",
    "VirtualService",
    "Workload",
    "World",
    "is_internal_header",
]


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
    """

    host: str
    namespace: str
    ports: tuple[Port, ...]
    selector: Mapping[str, str] = field(default_factory=dict)
    resolution: Resolution = Resolution.STATIC
    aliases: tuple[str, ...] = ()
    endpoints: dict[int, list[EndpointEntry]] = field(default_factory=dict)
    where: str = ""


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
class TrafficPolicy:
    """istio.networking.v1.TrafficPolicy; None is not set, and falls back to the level above."""

    load_balancer: str = ""
    consistent_hash: ConsistentHash | None = None
    connection_pool: ConnectionPool | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTls | None = None
    ports: Mapping[int, TrafficPolicy] = field(default_factory=dict)

    def over(self, below: TrafficPolicy) -> TrafficPolicy:
        """This policy where it says something, otherwise `below`."""
        has_balancer = bool(self.load_balancer or self.consistent_hash)
        return TrafficPolicy(
            load_balancer=self.load_balancer if has_balancer else below.load_balancer,
            consistent_hash=self.consistent_hash if has_balancer else below.consistent_hash,
            connection_pool=self.connection_pool or below.connection_pool,
            outlier_detection=self.outlier_detection or below.outlier_detection,
            tls=self.tls or below.tls,
            ports=self.ports or below.ports,
        )

    def for_port(self, port: int) -> TrafficPolicy:
        """What holds for one port (portLevelSettings win, whole fields at a time)."""
        level = self.ports.get(port)
        return level.over(self) if level is not None else self


@dataclass(frozen=True, slots=True)
class Subset:
    """A named part of a service's endpoints."""

    name: str
    labels: Mapping[str, str]
    policy: TrafficPolicy = TrafficPolicy()


@dataclass(frozen=True, slots=True)
class DestinationRule:
    """istio.networking.v1.DestinationRule.

    Attributes:
        is_broken: It cannot be read. It may ask for TLS, so that nothing is sent to its hosts without it.
    """

    host: str
    namespace: str
    policy: TrafficPolicy = TrafficPolicy()
    subsets: tuple[Subset, ...] = ()
    where: str = ""
    is_broken: bool = False


@dataclass(frozen=True, slots=True)
class StringMatch:
    """istio.networking.v1.StringMatch: `kind` is exact, prefix or regex."""

    kind: str
    value: str


@dataclass(frozen=True, slots=True)
class HttpMatch:
    """istio.networking.v1.HTTPMatchRequest; all that is set must hold."""

    uri: StringMatch | None = None
    ignore_uri_case: bool = False
    scheme: StringMatch | None = None
    method: StringMatch | None = None
    authority: StringMatch | None = None
    headers: Mapping[str, StringMatch | None] = field(default_factory=dict)
    without_headers: Mapping[str, StringMatch | None] = field(default_factory=dict)
    query_params: Mapping[str, StringMatch | None] = field(default_factory=dict)
    port: int | None = None


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
    """istio.networking.v1.HTTPRoute."""

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


@dataclass(frozen=True, slots=True)
class VirtualService:
    """istio.networking.v1.VirtualService; hosts are full names."""

    name: str
    namespace: str
    hosts: tuple[str, ...]
    routes: tuple[HttpRoute, ...]
    where: str = ""


@dataclass(slots=True)
class World:
    """Everything that the documents of a folder say."""

    domain: str = "cluster.local"
    services: dict[str, Service] = field(default_factory=dict)
    workloads: list[Workload] = field(default_factory=list)
    virtual_services: list[VirtualService] = field(default_factory=list)
    destination_rules: list[DestinationRule] = field(default_factory=list)
    security: SecurityWorld = field(default_factory=SecurityWorld)
    warnings: list[str] = field(default_factory=list)

    def full_host(self, host: str, namespace: str) -> str:
        """A host as Istio completes it: a name without dots is a service of the rule's own namespace."""
        return host.lower() if "." in host or host == "*" else f"{host.lower()}.{namespace}.svc.{self.domain}"
