"""How a service is to be called: DestinationRules and what stands in them, by Istio's names."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from msgspec import Struct, field

from .age import UNKNOWN_AGE, Age

__all__ = [
    "NO_POLICY",
    "ClientTls",
    "ConnectionPool",
    "ConsistentHash",
    "DestinationRule",
    "LoadBalancer",
    "LocalitySetting",
    "OutlierDetection",
    "Subset",
    "TcpKeepalive",
    "TlsMode",
    "TrafficPolicy",
    "Warmup",
]


class TlsMode(Enum):
    """ClientTLSSettings.TLSmode."""

    DISABLE = "DISABLE"
    SIMPLE = "SIMPLE"
    MUTUAL = "MUTUAL"
    ISTIO_MUTUAL = "ISTIO_MUTUAL"


class ClientTls(Struct, frozen=True):
    """TLS towards a service (istio.networking.v1.ClientTLSSettings)."""

    mode: TlsMode
    sni: str = ""
    ca_certificates: str = ""
    client_certificate: str = ""
    private_key: str = ""
    subject_alt_names: tuple[str, ...] = ()


class ConsistentHash(Struct, frozen=True):
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


class OutlierDetection(Struct, frozen=True):
    """istio.networking.v1.OutlierDetection; None is not set."""

    consecutive_5xx: int | None = None
    consecutive_gateway_errors: int | None = None
    consecutive_local_origin_failures: int | None = None
    split_local_origin: bool = False
    interval_seconds: float | None = None
    base_ejection_seconds: float | None = None
    max_ejection_percent: int | None = None
    min_health_percent: int | None = None


class TcpKeepalive(Struct, frozen=True):
    """istio.networking.v1.ConnectionPoolSettings.TCPSettings.TcpKeepalive; None is the system's own."""

    probes: int | None = None
    time_seconds: float | None = None
    interval_seconds: float | None = None


class ConnectionPool(Struct, frozen=True):
    """istio.networking.v1.ConnectionPoolSettings; None is not set."""

    max_connections: int | None = None
    connect_timeout_seconds: float | None = None
    pending_requests: int | None = None
    max_requests: int | None = None
    max_requests_per_connection: int | None = None
    max_retries: int | None = None
    max_concurrent_streams: int | None = None
    max_connection_seconds: float | None = None
    idle_timeout_seconds: float | None = None
    keepalive: TcpKeepalive | None = None
    use_http2: bool | None = None
    uses_clients_protocol: bool = False


class LocalitySetting(Struct, frozen=True):
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


class Warmup(Struct, frozen=True):
    """istio.networking.v1.WarmupConfiguration."""

    seconds: float
    minimum_percent: float = 10.0
    aggression: float = 1.0


class LoadBalancer(Struct, frozen=True):
    """istio.networking.v1.LoadBalancerSettings."""

    simple: str = ""
    consistent_hash: ConsistentHash | None = None
    locality: LocalitySetting | None = None
    warmup: Warmup | None = None


class TrafficPolicy(Struct, frozen=True):
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


class Subset(Struct, frozen=True):
    """A named part of a service's endpoints."""

    name: str
    labels: Mapping[str, str]
    policy: TrafficPolicy | None = None


class DestinationRule(Struct, frozen=True):
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
    age: Age = UNKNOWN_AGE
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

    def tls_mode(self, port: int, subset: str = "") -> TlsMode | None:
        """How the endpoints of a port are marked, whatever else holds there: ports do not hide what stands above them.

        Source: istio/istio pilot/pkg/xds/endpoints/mtls_checker.go, tlsModeForDestinationRule.
        """
        policies = [one.policy for one in self.subsets if subset and one.name == subset]
        for policy in (*policies, self.policy):
            if policy is not None:
                own = policy.ports.get(port)
                tls = (own.tls if own is not None else None) or policy.tls
                if tls is not None:
                    return tls.mode
        return None

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
