"""Clusters: where endpoints come from and how one of them is chosen (envoy.config.cluster.v3.Cluster)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from ..tls import UpstreamTls, make_mesh_mutual, secret_names
from ..values import Metadatum, frozen
from .endpoints import EndpointConfig, Endpoints, HealthStatus
from .health import HealthCheck, OutlierDetection
from .lb_policy import LbPolicy, RoundRobin

__all__ = [
    "AggregateDiscovery",
    "CircuitBreakers",
    "Cluster",
    "Discovery",
    "DiscoveryKind",
    "DnsDiscovery",
    "EdsDiscovery",
    "HttpProtocol",
    "LoadReporting",
    "OriginalDiscovery",
    "StaticDiscovery",
    "TcpKeepalive",
    "Thresholds",
    "TlsMatch",
    "without_automatic_tls",
]


class DiscoveryKind(Enum):
    """The names of Cluster.DiscoveryType, and the aggregate extension."""

    STATIC = "STATIC"
    STRICT_DNS = "STRICT_DNS"
    LOGICAL_DNS = "LOGICAL_DNS"
    EDS = "EDS"
    AGGREGATE = "AGGREGATE"
    ORIGINAL_DST = "ORIGINAL_DST"


class EdsDiscovery(Struct, frozen=True, gc=False):
    """Endpoints by EDS under `service_name` (Cluster.EdsClusterConfig)."""

    service_name: str


class StaticDiscovery(Struct, frozen=True, gc=False):
    """Endpoints in the cluster itself (Cluster.load_assignment)."""

    endpoints: Endpoints


class DnsDiscovery(Struct, frozen=True, gc=False):
    """Endpoints by DNS.

    Attributes:
        endpoints: Host names where addresses will stand.
        logical: One endpoint whose address is the name's first (LOGICAL_DNS), rather than one for each (STRICT_DNS).
        refresh_seconds, failure_refresh_seconds: Time to the next look-up.
        family: `AUTO`, `V4_ONLY`, `V6_ONLY`, `V4_PREFERRED` or `ALL` (Cluster.DnsLookupFamily).
    """

    endpoints: Endpoints
    logical: bool
    refresh_seconds: float = 5.0
    failure_refresh_seconds: float = 5.0
    family: str = "AUTO"


class AggregateDiscovery(Struct, frozen=True, gc=False):
    """Other clusters, in order of preference (envoy.extensions.clusters.aggregate.v3.ClusterConfig)."""

    clusters: tuple[str, ...]


class OriginalDiscovery(Struct, frozen=True, gc=False):
    """Wherever the request was to go by itself (Cluster.DiscoveryType.ORIGINAL_DST): its own host, looked up."""


Discovery = EdsDiscovery | StaticDiscovery | DnsDiscovery | AggregateDiscovery | OriginalDiscovery


ROUND_ROBIN = RoundRobin()


class HttpProtocol(Enum):
    """What is spoken to the cluster's endpoints (HttpProtocolOptions.upstream_protocol_options)."""

    HTTP1 = "http/1.1"
    HTTP2 = "h2"
    NEGOTIATED = "by ALPN"


class Thresholds(Struct, frozen=True, gc=False):
    """Limits of one priority (CircuitBreakers.Thresholds); None is no limit.

    Attributes:
        retry_budget_percent: Of the requests under way, how many may be retries; it takes the place of max_retries.
        min_retry_concurrency: So many retries are allowed whatever the budget says.
    """

    max_connections: int | None = 1024
    max_pending_requests: int | None = 1024
    max_requests: int | None = 1024
    max_retries: int | None = 3
    retry_budget_percent: float | None = None
    min_retry_concurrency: int = 3


class CircuitBreakers(Struct, frozen=True, gc=False):
    """Limits of the DEFAULT and of the HIGH routing priority, and of each endpoint.

    Attributes:
        max_connections_per_host: None is no limit.
    """

    default: Thresholds = Thresholds()
    high: Thresholds = Thresholds()
    max_connections_per_host: int | None = None


class LoadReporting(Struct, frozen=True, gc=False):
    """Its load is reported to the server that it comes from (Cluster.lrs_server).

    Attributes:
        metrics: Which of an endpoint's own metrics, in gRFC A85's spelling (lrs_report_endpoint_metrics).
    """

    metrics: tuple[str, ...] = ()


class TcpKeepalive(Struct, frozen=True, gc=False):
    """When an idle connection is probed (envoy.config.core.v3.TcpKeepalive); None is the system's default."""

    probes: int | None = None
    time_seconds: int | None = None
    interval_seconds: int | None = None


# Endpoint metadata that chooses among transport_socket_matches; Istio sets `tlsMode: istio` there.
_TLS_METADATA = "envoy.transport_socket_match"
_TLS_MODE = "tlsMode"
_ISTIO = "istio"

# CommonLbConfig.override_host_status where it is not set.
OVERRIDABLE = frozenset({HealthStatus.UNKNOWN, HealthStatus.HEALTHY, HealthStatus.DEGRADED})


class TlsMatch(Struct, frozen=True, gc=False):
    """TLS settings for the endpoints whose metadata has all of these values (Cluster.TransportSocketMatch).

    Attributes:
        tls: None is plaintext.
        is_automatic: It is istiod's for sidecars: mutual TLS of the mesh where nobody has said anything of TLS.
    """

    criteria: tuple[tuple[str, Metadatum], ...]
    tls: UpstreamTls | None
    is_automatic: bool = False


class Cluster(Struct, frozen=True, gc=False):
    """A group of endpoints that offer the same service.

    Attributes:
        discovery: Where endpoints come from.
        connect_timeout_seconds: For a connection, TLS included.
        healthy_panic_threshold: Percent of healthy endpoints below which health is ignored; 0 never.
        locality_weighted: Whether localities get traffic by their weights.
        protocol: What HTTP is spoken.
        tls: None is plaintext.
        tls_matches: In order, what some endpoints have instead of `tls` (transport_socket_matches).
        metadata: filter_metadata by namespace.
        fail_traffic_on_panic: In panic nobody is picked.
        max_connection_seconds: Age at which a connection takes no further request; None is no limit.
        max_concurrent_streams: On one HTTP/2 connection; None leaves it to the peer.
        tcp_keepalive: Idle time and interval in seconds and number of probes; None switches it off.
        max_stream_duration_seconds: Longest time of a request; None is no limit.
        ignore_new_hosts_until_first_hc: Endpoints count only after their first health check.
        close_connections_on_host_set_change: All connections are closed when endpoints come or go.
        fallback: Where its endpoints are where EDS has none.
        only_healthy: Endpoints that the control plane calls anything worse than healthy do not count and get nothing
            (gRFC A27); else Envoy's rules hold.
        override_host_status: In which health an endpoint may be named against the policy.
        auto_mutual: Mutual TLS of the mesh is spoken to the endpoints that istiod marks as taking it.
        load_reporting: None is none.
    """

    name: str
    discovery: Discovery
    lb_policy: LbPolicy = ROUND_ROBIN
    connect_timeout_seconds: float = 5.0
    healthy_panic_threshold: float = 50.0
    locality_weighted: bool = False
    protocol: HttpProtocol = HttpProtocol.HTTP1
    tls: UpstreamTls | None = None
    tls_matches: tuple[TlsMatch, ...] = ()
    circuit_breakers: CircuitBreakers = CircuitBreakers()
    max_requests_per_connection: int | None = None
    idle_timeout_seconds: float | None = 3600.0
    metadata: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    outlier_detection: OutlierDetection | None = None
    health_checks: tuple[HealthCheck, ...] = ()
    fail_traffic_on_panic: bool = False
    max_connection_seconds: float | None = None
    max_concurrent_streams: int | None = None
    tcp_keepalive: TcpKeepalive | None = None
    max_stream_duration_seconds: float | None = None
    ignore_new_hosts_until_first_hc: bool = False
    close_connections_on_host_set_change: bool = False
    close_connections_on_health_failure: bool = False
    only_healthy: bool = False
    fallback: DnsDiscovery | None = None
    override_host_status: frozenset[HealthStatus] = OVERRIDABLE
    auto_mutual: bool = False
    load_reporting: LoadReporting | None = None
    notes: tuple[str, ...] = ()

    def tls_of(self, endpoint: EndpointConfig) -> UpstreamTls | None:
        """The TLS settings of one endpoint: those that are configured, or mutual TLS where its mark asks for it."""
        if self.auto_mutual and endpoint.metadata.get(_TLS_METADATA, {}).get(_TLS_MODE) == _ISTIO:
            return make_mesh_mutual(_namespace_of(endpoint))
        return self._matched(endpoint, self.tls_matches)

    def configured_tls_of(self, endpoint: EndpointConfig) -> UpstreamTls | None:
        """The same without what is automatic: for who cannot speak to sidecars in PERMISSIVE, which take plaintext."""
        return self._matched(endpoint, tuple(one for one in self.tls_matches if not one.is_automatic))

    def _matched(self, endpoint: EndpointConfig, matches: tuple[TlsMatch, ...]) -> UpstreamTls | None:
        if matches:
            values = endpoint.metadata.get(_TLS_METADATA, {})
            for match in matches:
                if all(key in values and frozen(values[key]) == wanted for key, wanted in match.criteria):
                    return match.tls
        return self.tls

    @property
    def secret_names(self) -> frozenset[str]:
        """Secrets to ask for (SDS)."""
        if self.tls is None and not self.tls_matches:
            return frozenset()
        return secret_names(self.tls, *(match.tls for match in self.tls_matches))

    @property
    def kind(self) -> DiscoveryKind:
        """The name of the way endpoints are found."""
        match self.discovery:
            case EdsDiscovery():
                return DiscoveryKind.EDS
            case StaticDiscovery():
                return DiscoveryKind.STATIC
            case DnsDiscovery(logical=True):
                return DiscoveryKind.LOGICAL_DNS
            case DnsDiscovery():
                return DiscoveryKind.STRICT_DNS
            case AggregateDiscovery():
                return DiscoveryKind.AGGREGATE
            case OriginalDiscovery():
                return DiscoveryKind.ORIGINAL_DST


def without_automatic_tls(cluster: Cluster) -> Cluster:
    """A cluster as a process has it that cannot show a certificate of the mesh."""
    kept = tuple(one for one in cluster.tls_matches if not one.is_automatic)
    return cluster if len(kept) == len(cluster.tls_matches) else replace(cluster, tls_matches=kept)


def _namespace_of(endpoint: EndpointConfig) -> str:
    """The namespace of an endpoint's workload, where istiod tells it.

    It writes name, namespace, canonical service, its revision and the cluster, and no service account
    (pilot/pkg/networking/util/util.go, AppendLbEndpointMetadata).
    """
    workload = endpoint.metadata.get(_ISTIO, {}).get("workload")
    parts = workload.split(";") if isinstance(workload, str) else []
    return parts[1] if len(parts) > 1 else ""
