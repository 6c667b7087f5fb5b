"""One endpoint as it lives: its configuration changes, its identity and statistics stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..bootstrap import Locality
from ..resources import Address, EndpointConfig, HealthStatus

if TYPE_CHECKING:
    from .cluster import Cluster

__all__ = ["Endpoint"]

_HEALTHY = (HealthStatus.UNKNOWN, HealthStatus.HEALTHY)


class Endpoint:
    """A place to send requests to.

    Attributes:
        address: Identifies the endpoint within its cluster.
        name: The address as text.
        cluster: The cluster it belongs to; below an aggregate cluster, the one that it really comes from.
        active_requests: Attempts that are under way.
        is_removed: It is no longer part of its cluster; its connections are to be closed as they fall idle.
    """

    __slots__ = ("active_requests", "address", "cluster", "config", "is_removed", "locality", "name")

    def __init__(self, cluster: Cluster, config: EndpointConfig, locality: Locality) -> None:
        self.cluster = cluster
        self.address: Address = config.address
        self.name = str(config.address)
        self.config = config
        self.locality = locality
        self.active_requests = 0
        self.is_removed = False

    @property
    def weight(self) -> int:
        """LbEndpoint.load_balancing_weight."""
        return self.config.weight

    @property
    def is_healthy(self) -> bool:
        """Whether it gets traffic while enough like it are there (Envoy: UNKNOWN counts as healthy)."""
        return self.config.health in _HEALTHY

    @property
    def is_degraded(self) -> bool:
        """Whether it gets traffic only when there are not enough healthy ones."""
        return self.config.health is HealthStatus.DEGRADED

    def __repr__(self) -> str:
        return f"<Endpoint {self.address} of {self.cluster.name}>"
