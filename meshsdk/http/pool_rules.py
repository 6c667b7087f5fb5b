"""What sync and async pools agree on: when a connection is kept, and for how long."""

from __future__ import annotations

import socket
import ssl
import time
from typing import Any, Protocol

from msgspec import Struct

from ..balancing import Endpoint
from ..balancing.circuit_breaker import CircuitBreaker
from ..resources import Cluster, TcpKeepalive
from ..security import PeerChain, TlsClientContext
from .asked import Asked
from .errors import ConnectError, ConnectTimeout, TransportError
from .shapes import Limits

__all__ = [
    "DEFAULT_LIMITS",
    "PooledConnection",
    "Slot",
    "address_of",
    "connect_error",
    "connect_timeout",
    "keepalive_seconds",
    "must_wait_for_connection",
    "secured_by",
    "set_keepalive",
]


class _NoLimits(Struct, frozen=True):
    max_connections: int | None = None
    keepalive_expiry: float | None = None


# No limit on connections of its own: a mesh's limits are the clusters' circuit breakers.
DEFAULT_LIMITS: Limits = _NoLimits()

# How often idle connections are looked through.
SWEEP_SECONDS = 5.0


class PooledConnection(Protocol):
    """What a pool needs of a connection."""

    is_open: bool
    idle_since: float
    requests: int
    own_address: str

    def is_usable(self) -> bool:
        """Whether it can take a request now."""

    def close(self) -> None:
        """Close it."""


class Slot:
    """Where a connection belongs: an endpoint, and the settings that it was opened with.

    Attributes:
        is_secure: Of https, and under which name, where that is not the URL's (`secured_by`).
        breaker: Counts the connection until it is closed.
        longest_idle: How long it may be idle, in seconds.
        tls: The context that it was secured with; None is plaintext, or a client's own https.
        chain: Of its peer.
        secured: Gives its session, until that is remembered.
    """

    __slots__ = (
        "_keepalive_expiry",
        "_membership",
        "_opened_at",
        "breaker",
        "chain",
        "config",
        "endpoint",
        "is_secure",
        "longest_idle",
        "secured",
        "tls",
    )

    def __init__(
        self, endpoint: Endpoint, is_secure: bool | str, breaker: CircuitBreaker, keepalive_expiry: float | None = None
    ) -> None:
        self.endpoint = endpoint
        self.is_secure = is_secure
        self.breaker = breaker
        self.config: Cluster = endpoint.cluster.config
        self.tls: TlsClientContext | None = None
        self.chain: PeerChain | None = None
        self.secured: ssl.SSLSocket | ssl.SSLObject | None = None
        self._membership = endpoint.cluster.membership
        self._opened_at = time.monotonic()
        self._keepalive_expiry = keepalive_expiry
        self.longest_idle = keepalive_seconds(keepalive_expiry, self.config)

    def fits(self, idle_since: float) -> bool:
        """Whether the connection may still be used: a new one would be like it, and it is not too old.

        Args:
            idle_since: When its last request ended, on the clock of `time.monotonic`.
        """
        if time.monotonic() - idle_since > self.longest_idle:
            return False
        if self.tls is not None and not self.tls.is_current:
            return False
        cluster = self.endpoint.cluster
        current = cluster.config
        if current.close_connections_on_host_set_change and self._membership != cluster.membership:
            return False
        longest = current.max_connection_seconds
        if longest is not None and time.monotonic() - self._opened_at >= longest:
            return False
        if current is self.config:
            return True
        if current.tls != self.config.tls or current.protocol is not self.config.protocol:
            return False
        self.config = current
        self.longest_idle = keepalive_seconds(self._keepalive_expiry, current)
        return True

    def keeps(self, requests: int) -> bool:
        """Whether a connection that has served `requests` may serve another."""
        endpoint = self.endpoint
        if self.tls is not None and not self.tls.is_current:
            return False
        config = endpoint.cluster.config
        limit = config.max_requests_per_connection
        if endpoint.is_removed or (limit is not None and requests >= limit):
            return False
        return not (config.close_connections_on_health_failure and endpoint.fails_checks)


def secured_by(scheme: str, asked: Asked | None) -> bool | str:
    """What parts connections to an endpoint: plaintext, the TLS of https, or that with a name of its own, since a
    server was proven to be whom it was asked for, and nobody else."""
    return scheme == "https" and ((asked.sni_hostname or True) if asked is not None else True)


def must_wait_for_connection(breaker: CircuitBreaker, endpoint: Endpoint, own_connections: int) -> bool:
    """Whether a circuit breaker lets no further connection be opened.

    An endpoint that has none always gets one, so that nobody waits for what cannot come (Envoy: ConnPoolImplBase,
    tryCreateNewConnection).

    Args:
        breaker: Counts the cluster's connections.
        endpoint: To connect to.
        own_connections: How many this pool has to it.
    """
    if not own_connections:
        return False
    per_host = endpoint.cluster.config.circuit_breakers.max_connections_per_host
    return breaker.connections >= breaker.max_connections or (per_host is not None and own_connections >= per_host)


def address_of(name: Any) -> str:
    """What a socket says is its own address, as text; empty for one without."""
    if not isinstance(name, tuple):
        return ""
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


def set_keepalive(sock: socket.socket, settings: TcpKeepalive) -> None:
    """Probe an idle connection (envoy.config.core.v3.TcpKeepalive)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPCNT", settings.probes),
        ("TCP_KEEPIDLE", settings.time_seconds),
        ("TCP_KEEPINTVL", settings.interval_seconds),
    ):
        if value is not None and hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def keepalive_seconds(keepalive_expiry: float | None, config: Cluster) -> float:
    """How long a connection may be idle: the shorter of the client's and the cluster's limit."""
    bounds = [keepalive_expiry, config.idle_timeout_seconds]
    return min((bound for bound in bounds if bound is not None), default=float("inf"))


def connect_timeout(endpoint: Endpoint, seconds: float | None) -> float | None:
    """The shorter of the caller's connect timeout and Cluster.connect_timeout; None is no limit."""
    own = endpoint.cluster.config.connect_timeout_seconds
    shortest = own if seconds is None else min(own, seconds)
    return None if shortest == float("inf") else shortest


def connect_error(error: OSError, endpoint: Endpoint) -> TransportError:
    """What a caller hears of a connection that could not be opened."""
    where = f"{endpoint.address} (cluster {endpoint.cluster.name})"
    hint = endpoint.cluster.advice() if endpoint.cluster.advice is not None else ""
    advice = f"; the mesh does not know {endpoint.address}, {hint}" if hint else ""
    if isinstance(error, TimeoutError):
        return ConnectTimeout(f"connecting to {where} took too long{advice}")
    if isinstance(error, socket.gaierror):
        return ConnectError(f"looking up {where} failed: {error}{advice}")
    what = "TLS with" if isinstance(error, ssl.SSLError) else "connecting to"
    return ConnectError(f"{what} {where} failed: {error}{advice}")
