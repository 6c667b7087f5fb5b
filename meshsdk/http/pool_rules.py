"""What sync and async pools agree on: when a connection is kept, and for how long."""

from __future__ import annotations

from typing import Protocol

import httpx

from ..balancing import Endpoint
from ..resources import Cluster

__all__ = ["DEFAULT_LIMITS", "PooledConnection", "Slot", "connect_timeout", "keepalive_seconds"]

# No limit on connections of its own: a mesh's limits are the clusters' circuit breakers.
DEFAULT_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=None)

# How often idle connections are looked through.
SWEEP_SECONDS = 5.0


class PooledConnection(Protocol):
    """What a pool needs of a connection."""

    is_open: bool
    idle_since: float
    requests: int

    def is_usable(self) -> bool:
        """Whether it can take a request now."""

    def close(self) -> None:
        """Close it."""


class Slot:
    """Where a connection belongs: an endpoint, and the settings that it was opened with."""

    __slots__ = ("config", "endpoint", "is_secure")

    def __init__(self, endpoint: Endpoint, is_secure: bool) -> None:
        self.endpoint = endpoint
        self.is_secure = is_secure
        self.config: Cluster = endpoint.cluster.config

    def fits(self) -> bool:
        """Whether a new connection to the endpoint would be like this one."""
        current = self.endpoint.cluster.config
        if current is self.config:
            return True
        if current.tls != self.config.tls or current.protocol is not self.config.protocol:
            return False
        self.config = current
        return True

    def keeps(self, requests: int) -> bool:
        """Whether a connection that has served `requests` may serve another."""
        limit = self.endpoint.cluster.config.max_requests_per_connection
        return not self.endpoint.is_removed and (limit is None or requests < limit)


def keepalive_seconds(limits: httpx.Limits, endpoint: Endpoint) -> float:
    """How long a connection may be idle: the shorter of the client's and the cluster's limit."""
    bounds = [limits.keepalive_expiry, endpoint.cluster.config.idle_timeout_seconds]
    return min((bound for bound in bounds if bound is not None), default=float("inf"))


def connect_timeout(endpoint: Endpoint, seconds: float | None) -> float | None:
    """The shorter of the caller's connect timeout and Cluster.connect_timeout; None is no limit."""
    own = endpoint.cluster.config.connect_timeout_seconds
    shortest = own if seconds is None else min(own, seconds)
    return None if shortest == float("inf") else shortest
