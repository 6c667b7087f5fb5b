"""Connections of a sync transport. Its async twin is `async_pool`.

Taking an idle connection is one `dict.popitem`, which is atomic, so threads share a pool without a lock. The lock is
for the slow path only: opening and closing connections, and waiting for one at `max_connections`.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, TypeAlias

from ..balancing import Endpoint
from ..balancing.circuit_breaker import CircuitBreaker
from .asked import Asked, Trace
from .errors import ConnectError, PendingOverflowError, PoolTimeout
from .network_stream import NetworkStream
from .pool_rules import (
    SWEEP_SECONDS,
    Slot,
    connect_error,
    connect_timeout,
    keepalive_seconds,
    must_wait_for_connection,
    secured_by,
    set_keepalive,
)
from .shapes import Limits, Url
from .sync_http1 import SyncHttp1Connection
from .timeouts import Timeouts
from .tls import TlsChooser, keep_session, speaks_http2, verify_peer

if TYPE_CHECKING:
    from .sync_http2 import SyncHttp2Connection

__all__ = ["SyncConnection", "SyncPool"]

SyncConnection: TypeAlias = "SyncHttp1Connection | SyncHttp2Connection"
Key = tuple[Endpoint, bool | str]


class SyncPool:
    """Idle connections by endpoint, the last one used on top.

    Args:
        tls: Which TLS connections use.
        limits: `max_connections` over all endpoints, and `keepalive_expiry` in seconds.
    """

    def __init__(self, tls: TlsChooser, limits: Limits) -> None:
        self._tls = tls
        self._limits = limits
        # As with httpx, a connection is busy until its response is read or closed, where they are counted.
        self._holds = limits.max_connections is not None
        # In the order in which they were put away: who leaves out of turn costs nothing, however many there are.
        self._idle: dict[Key, dict[SyncConnection, None]] = {}
        self._slots: dict[SyncConnection, Slot] = {}
        self._condition = threading.Condition(threading.RLock())
        self._waiting = 0
        self._opening = 0
        self._counts: dict[Key, int] = {}
        self._next_sweep = time.monotonic() + SWEEP_SECONDS
        self._closed = False

    def acquire(
        self,
        endpoint: Endpoint,
        scheme: str,
        url: Url,
        timeouts: Timeouts,
        breaker: CircuitBreaker,
        asked: Asked | None = None,
    ) -> SyncConnection:
        """An idle connection to an endpoint, or a new one.

        Args:
            endpoint: Where to.
            scheme: The request's.
            url: The request's; a new connection of https proves its host, unless `asked` has another name.
            timeouts: The caller's.
            breaker: Counts new connections.
            asked: What else the request asks of its connection.

        Raises:
            ConnectError, ConnectTimeout, PoolTimeout, PendingOverflowError
        """
        connection = self._take_idle((endpoint, secured_by(scheme, asked)))
        return connection or self.open(endpoint, scheme, url, timeouts, breaker, asked)

    def _take_idle(self, key: Key) -> SyncConnection | None:
        idle = self._idle.get(key)
        while idle:
            try:
                connection, _ = idle.popitem()
            except KeyError:  # Another thread was faster.
                break
            slot = self._slots.get(connection)
            if slot is not None and slot.fits(connection.idle_since) and connection.is_usable():
                return connection
            connection.close()
        return None

    def open(
        self,
        endpoint: Endpoint,
        scheme: str,
        url: Url,
        timeouts: Timeouts,
        breaker: CircuitBreaker,
        asked: Asked | None = None,
    ) -> SyncConnection:
        """A new connection, whatever is idle. Raises as `acquire` does."""
        if breaker.pending >= breaker.max_pending:
            raise PendingOverflowError
        breaker.pending += 1
        try:
            return self._open(endpoint, scheme, url, timeouts, breaker, asked)
        finally:
            breaker.pending -= 1

    def _open(
        self,
        endpoint: Endpoint,
        scheme: str,
        url: Url,
        timeouts: Timeouts,
        breaker: CircuitBreaker,
        asked: Asked | None,
    ) -> SyncConnection:
        key = (endpoint, secured_by(scheme, asked))
        reused = self._take_room(key, timeouts.pool, breaker)
        if reused is not None:
            return reused
        connection: SyncConnection | None = None
        slot = Slot(endpoint, key[1], breaker, self._limits.keepalive_expiry)
        try:
            connection = self._connect(slot, scheme, url.host, connect_timeout(endpoint, timeouts.connect), asked)
        except OSError as error:
            raise connect_error(error, endpoint) from error
        finally:
            with self._condition:
                self._opening -= 1
                if connection is None:
                    self._uncount(key, breaker)
                    breaker.connect_failures += 1
                self._condition.notify()
        self._slots[connection] = slot
        breaker.connected(is_secured=slot.tls is not None)
        if self._closed:
            connection.close()
            raise ConnectError("the client was closed")
        return connection

    def _count(self, key: Key, breaker: CircuitBreaker) -> None:
        self._opening += 1
        self._counts[key] = self._counts.get(key, 0) + 1
        breaker.connections += 1

    def _uncount(self, key: Key, breaker: CircuitBreaker) -> None:
        breaker.connections -= 1
        left = self._counts.get(key, 0) - 1
        if left > 0:
            self._counts[key] = left
        else:
            self._counts.pop(key, None)

    def release(self, connection: SyncConnection) -> None:
        """A connection is idle again, or closed. Called by the connection itself."""
        slot = self._slots.get(connection)
        if slot is None:
            return
        key = (slot.endpoint, slot.is_secure)
        if slot.secured is not None and connection.is_open:
            keep_session(slot)
        if not connection.is_open:
            if self._slots.pop(connection, None) is not None:
                with self._condition:
                    self._uncount(key, slot.breaker)
            idle = self._idle.get(key)
            if idle is not None:
                idle.pop(connection, None)
                if not idle and slot.endpoint.is_removed:
                    self._idle.pop(key, None)
        elif self._closed or not slot.keeps(connection.requests):
            connection.close()
        else:
            now = connection.idle_since = time.monotonic()
            idle = self._idle.setdefault(key, {})
            idle[connection] = None
            if slot.endpoint.is_removed:
                # It went while this one was being put away, and whoever clears up may have taken its place away.
                _close_idle(connection, idle)
                self.drop_removed()
            if now >= self._next_sweep:
                self._sweep(now)
        if self._waiting:
            with self._condition:
                self._condition.notify()

    def close(self) -> None:
        """Close every connection; requests under way fail."""
        self._closed = True
        for connection in list(self._slots):
            connection.close()
        with self._condition:
            self._condition.notify_all()

    def _take_room(self, key: Key, seconds: float | None, breaker: CircuitBreaker) -> SyncConnection | None:
        """Room for one more connection; or, after a wait for it, an idle one that came back meanwhile."""
        with self._condition:
            if self._has_room(key, breaker):
                self._count(key, breaker)
                return None
            deadline = None if seconds is None else time.monotonic() + seconds
            self._waiting += 1
            try:
                while not self._closed:
                    connection = self._take_idle(key)
                    if connection is not None:
                        return connection
                    if self._has_room(key, breaker):
                        self._count(key, breaker)
                        return None
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        raise PoolTimeout(f"no connection to {key[0].name} became free in {seconds:g} s")
                    self._condition.wait(left)
            finally:
                self._waiting -= 1
        raise ConnectError("the client was closed")

    def _has_room(self, key: Key, breaker: CircuitBreaker) -> bool:
        """Whether neither the cluster's circuit breaker nor the client's own limit is in the way."""
        if must_wait_for_connection(breaker, key[0], self._counts.get(key, 0)):
            return False
        limit = self._limits.max_connections
        return limit is None or len(self._slots) + self._opening < limit or self._evict()

    def _evict(self) -> bool:
        """Close one idle connection to make room."""
        for idle in list(self._idle.values()):
            while idle:
                with contextlib.suppress(StopIteration, RuntimeError):  # Other threads put away and take.
                    if _close_idle(next(iter(idle)), idle):
                        return True
        return False

    def drop_distrusted(self) -> None:
        """Close connections whose peers are trusted no more, also under requests, and what would not be used again.

        From any thread.
        """
        self.drop_removed()
        for connection, slot in list(self._slots.items()):
            if slot.tls is None or slot.tls.is_current or self._tls.trusts(slot.endpoint, slot.chain):
                continue
            self._idle.get((slot.endpoint, slot.is_secure), {}).pop(connection, None)
            connection.close()

    def drop_removed(self) -> None:
        """Close idle connections that would not be used again, as to endpoints that are gone; busy ones, when done.

        From any thread.
        """
        for key, idle in list(self._idle.items()):
            for connection in list(idle):
                slot = self._slots.get(connection)
                if slot is None or key[0].is_removed or not slot.fits(connection.idle_since):
                    _close_idle(connection, idle)
            if key[0].is_removed:
                self._idle.pop(key, None)

    def _sweep(self, now: float) -> None:
        """Close what was idle for too long."""
        self._next_sweep = now + SWEEP_SECONDS
        for key, idle in list(self._idle.items()):
            longest = keepalive_seconds(self._limits.keepalive_expiry, key[0].cluster.config)
            for connection in list(idle):
                if now - connection.idle_since > longest:
                    _close_idle(connection, idle)
        self.drop_removed()

    def connect_socket(self, endpoint: Endpoint, seconds: float | None) -> socket.socket:
        """A socket of one's own to an endpoint, through the cluster's TLS where it has some.

        Raises:
            OSError, ConnectError
        """
        chosen = self._tls.choose(endpoint, "http", "")
        sock = _open_socket(endpoint, seconds)
        if chosen is None:
            return sock
        context, server_name = chosen
        try:
            secured = context.context.wrap_socket(sock, server_hostname=server_name or None)
            verify_peer(context, secured, Slot(endpoint, False, endpoint.cluster.breaker))
        except BaseException:
            sock.close()
            raise
        return secured

    def _connect(
        self, slot: Slot, scheme: str, host: str, seconds: float | None, asked: Asked | None
    ) -> SyncConnection:
        endpoint, trace = slot.endpoint, asked.trace if asked is not None else None
        chosen = self._tls.choose(endpoint, scheme, (asked.sni_hostname or host) if asked is not None else host)
        sock = _open_socket(endpoint, seconds) if trace is None else _open_told_socket(endpoint, seconds, trace)
        try:
            protocol: str | None = None
            if chosen is not None:
                context, server_name = chosen
                known = context.sessions.get((endpoint, server_name or None))
                session = known[0] if known is not None else None
                if trace is not None:
                    trace.tell(trace.securing(context.context, server_name, seconds))
                sock = context.context.wrap_socket(
                    sock, server_hostname=server_name or None, session=session, suppress_ragged_eofs=False
                )
                verify_peer(context, sock, slot)
                protocol = sock.selected_alpn_protocol()
                if trace is not None:
                    trace.tell(trace.end(NetworkStream(sock, sock)))
            if speaks_http2(protocol, endpoint.cluster.config.protocol):
                from .sync_http2 import SyncHttp2Connection  # h2 is loaded when a peer speaks HTTP/2.

                return SyncHttp2Connection(sock, self.release)
            return SyncHttp1Connection(sock, self.release, must_be_told=self._tls.must_be_told, holds=self._holds)
        except BaseException as error:
            sock.close()
            if trace is not None:
                trace.tell(trace.failed(error))
            raise


def _close_idle(connection: SyncConnection, idle: dict[SyncConnection, None]) -> bool:
    """Close a connection unless another thread has taken it meanwhile; whether it has not."""
    try:
        del idle[connection]
    except KeyError:
        return False
    connection.close()
    return True


def _open_told_socket(endpoint: Endpoint, seconds: float | None, trace: Trace) -> socket.socket:
    trace.tell(trace.connecting(endpoint.address, seconds))
    try:
        sock = _open_socket(endpoint, seconds)
    except OSError as error:
        trace.tell(trace.failed(connect_error(error, endpoint)))
        raise
    trace.tell(trace.end(NetworkStream(sock, None)))
    return sock


def _open_socket(endpoint: Endpoint, seconds: float | None) -> socket.socket:
    address = endpoint.address
    if address.is_unix:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(seconds)
            sock.connect(address.host)
        except BaseException:
            sock.close()
            raise
        return sock
    sock = socket.create_connection((address.host, address.port), seconds)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if endpoint.cluster.config.tcp_keepalive is not None:
        set_keepalive(sock, endpoint.cluster.config.tcp_keepalive)
    return sock
