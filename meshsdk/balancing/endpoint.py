"""One endpoint as it lives: its configuration changes, its identity and statistics stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..node import Locality
from ..resources import Address, Cluster, EndpointConfig, HealthStatus
from ..resources.cluster import ClientSideWeightedRoundRobin
from .circuit_breaker import CircuitBreaker
from .load import ClusterLoad

__all__ = ["Endpoint"]


class OwnCluster(Protocol):
    """What is asked of the cluster that an endpoint belongs to."""

    name: str
    config: Cluster
    breaker: CircuitBreaker
    high_breaker: CircuitBreaker
    membership: int
    load_reports: ClientSideWeightedRoundRobin | None
    load: ClusterLoad | None
    is_retired: bool
    advice: Callable[[], str] | None


class Monitor(Protocol):
    """What an endpoint's requests are told to (outlier detection)."""

    def responded(self, status: int, now: float) -> None:
        """The endpoint answered."""

    def failed(self, now: float, *, timed_out: bool) -> None:
        """There was no answer."""


_HEALTHY = (HealthStatus.UNKNOWN, HealthStatus.HEALTHY)


class Endpoint:
    """A place to send requests to.

    Attributes:
        address: Identifies the endpoint within its cluster.
        cluster: The cluster it belongs to; below an aggregate cluster, the one that it really comes from.
        active_requests: Attempts that are under way.
        is_removed: It is no longer part of its cluster, or that is gone; its connections are closed as they fall idle.
        is_ejected: Outlier detection has taken it out.
        fails_checks: Active health checks have found it unhealthy.
        is_checked: False before the first active health check, where there are any.
        available_since: When it came, or became healthy again, on the cluster's clock.
        principal: SPIFFE ID that it has proven in the last handshake; empty where there was none.
        monitor: Outlier detection's memory of it, where there is any.
        reported_weight, reported_at, first_report_at: Of its own load reports; a weight of 0 is none.
    """

    __slots__ = (
        "_name",
        "active_requests",
        "address",
        "available_since",
        "cluster",
        "config",
        "fails_checks",
        "first_report_at",
        "is_checked",
        "is_degraded_by_check",
        "is_ejected",
        "is_removed",
        "locality",
        "monitor",
        "principal",
        "priority",
        "reported_at",
        "reported_weight",
    )

    def __init__(self, cluster: OwnCluster, config: EndpointConfig, locality: Locality) -> None:
        self.cluster = cluster
        self.address: Address = config.address
        self._name = ""
        self.config = config
        self.locality = locality
        self.active_requests = 0
        self.is_removed = False
        self.priority = 0
        self.principal = ""
        self.is_ejected = False
        self.fails_checks = False
        self.is_checked = True
        self.is_degraded_by_check = False
        self.available_since = 0.0
        self.monitor: Monitor | None = None
        self.reported_weight = 0.0
        self.reported_at = self.first_report_at = 0.0

    @property
    def name(self) -> str:
        """The address as text, made when it is first asked for: most endpoints of a mesh are never spoken to."""
        if not self._name:
            self._name = str(self.address)
        return self._name

    @property
    def skips_checks(self) -> bool:
        """Endpoint.HealthCheckConfig.disable_active_health_check."""
        return self.config.health_check.disabled

    @property
    def weight(self) -> int:
        """LbEndpoint.load_balancing_weight."""
        return self.config.weight

    @property
    def is_draining(self) -> bool:
        """Whether it is about to go: it gets nothing, and nobody minds that it is not healthy."""
        return self.config.health is HealthStatus.DRAINING

    @property
    def is_called_healthy(self) -> bool:
        """Whether the control plane calls it healthy, or says nothing of its health."""
        return self.config.health in _HEALTHY

    @property
    def is_healthy(self) -> bool:
        """Whether it gets traffic while enough like it are there (Envoy: UNKNOWN counts as healthy)."""
        return (
            self.config.health in _HEALTHY
            and not (self.is_ejected or self.fails_checks or self.is_degraded_by_check)
            and self.is_checked
        )

    @property
    def is_degraded(self) -> bool:
        """Whether it gets traffic only when there are not enough healthy ones."""
        is_degraded = self.config.health is HealthStatus.DEGRADED or (
            self.is_degraded_by_check and self.config.health in _HEALTHY
        )
        return is_degraded and not (self.is_ejected or self.fails_checks)

    @property
    def health(self) -> HealthStatus:
        """Its health as it is found: that which is configured, unless ejection or checks say worse."""
        if self.is_healthy:
            return self.config.health
        if self.is_degraded:
            return HealthStatus.DEGRADED
        configured = self.config.health
        is_found_here = configured in _HEALTHY or configured is HealthStatus.DEGRADED
        return HealthStatus.UNHEALTHY if is_found_here else configured

    def __repr__(self) -> str:
        return f"<Endpoint {self.address} of {self.cluster.name}>"
