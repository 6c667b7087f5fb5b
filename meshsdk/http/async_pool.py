"""Connections of an async transport on one event loop. Its sync twin is `sync_pool`."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from copy import copy
from typing import TYPE_CHECKING, Any

from ..balancing import Endpoint
from ..balancing.circuit_breaker import CircuitBreaker
from .asked import Asked
from .async_dial import AsyncConnection, AsyncDialer
from .async_http1 import AsyncHttp1Connection
from .errors import ConnectError, PendingOverflowError, PoolTimeout, TransportError
from .pool_rules import (
    SWEEP_SECONDS,
    Slot,
    connect_error,
    connect_timeout,
    keepalive_seconds,
    must_wait_for_connection,
    secured_by,
)
from .shapes import Limits, Url
from .timeouts import Timeouts
from .tls import TlsChooser, keep_session

if TYPE_CHECKING:
    from .async_http2 import AsyncHttp2Connection

__all__ = ["AsyncConnection", "AsyncPool"]

Key = tuple[Endpoint, bool | str]

# Turns of the event loop in which it reads what a socket has: it looks in one, and reads in the next.
_TURNS = 4


class AsyncPool:
    """Idle connections by endpoint, the last one used on top; HTTP/2 connections are shared.

    Args:
        loop: The event loop; all calls come from it.
        tls: Which TLS connections use.
        limits: `max_connections` over all endpoints, and `keepalive_expiry` in seconds.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, tls: TlsChooser, limits: Limits) -> None:
        self.loop = loop
        self._tls = tls
        self._limits = limits
        # As with httpx, a connection is busy until its response is read or closed, where they are counted.
        holds = limits.max_connections is not None
        self._dialer = AsyncDialer(loop, tls, self.release, self.room_appeared, holds=holds)
        # In the order in which they were put away: who leaves out of turn costs nothing, however many there are.
        self._idle: dict[Key, dict[AsyncHttp1Connection, None]] = {}
        self._shared: dict[Key, dict[AsyncHttp2Connection, None]] = {}
        self._slots: dict[AsyncConnection, Slot] = {}
        # What is being connected to now, with how that ends; and what is known to carry one request at a time.
        self._openings: dict[Key, asyncio.Future[TransportError | None]] = {}
        self._unshared: set[Key] = set()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._opening = 0
        self._counts: dict[Key, int] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    async def acquire(
        self,
        endpoint: Endpoint,
        scheme: str,
        url: Url,
        timeouts: Timeouts,
        breaker: CircuitBreaker,
        asked: Asked | None = None,
    ) -> AsyncConnection:
        """An idle or shared connection to an endpoint, or a new one. Arguments as for `SyncPool.acquire`.

        Raises:
            ConnectError, ConnectTimeout, PoolTimeout, PendingOverflowError
        """
        connection = self.try_acquire((endpoint, secured_by(scheme, asked)))
        if connection is None:
            return await self.open(endpoint, scheme, url, timeouts, breaker, asked, joins=True)
        if type(connection) is AsyncHttp1Connection or not connection.has_unread():  # type: ignore[union-attr]
            return connection
        # What an idle peer has said (that it goes away, perhaps) is read before it is asked anything more.
        for _ in range(_TURNS):
            await asyncio.sleep(0)
            if not connection.has_unread():  # type: ignore[union-attr]
                break
        else:
            connection.close()
        return await self.acquire(endpoint, scheme, url, timeouts, breaker, asked)

    def try_acquire(self, key: Key) -> AsyncConnection | None:
        """A connection that can be used at once, or None."""
        idle = self._idle.get(key)
        while idle:
            connection, _ = idle.popitem()
            if self._slots[connection].fits(connection.idle_since) and connection.is_usable():
                return connection
            connection.close()
        for shared in tuple(self._shared.get(key, ())):
            if shared.is_usable():
                if self._slots[shared].fits(shared.idle_since if shared.is_idle else math.inf):
                    return shared
                if shared.is_idle:
                    shared.close()
        return None

    async def open(
        self,
        endpoint: Endpoint,
        scheme: str,
        url: Url,
        timeouts: Timeouts,
        breaker: CircuitBreaker,
        asked: Asked | None = None,
        *,
        joins: bool = False,
    ) -> AsyncConnection:
        """A new connection, whatever is idle (unless it has to wait for room). Raises as `acquire` does.

        Args:
            joins: One that others are opening will do, where it can be shared.
        """
        if breaker.pending >= breaker.max_pending:
            raise PendingOverflowError
        breaker.pending += 1
        try:
            if joins and self._tls.may_share(endpoint, scheme):
                joined = await self._join((endpoint, secured_by(scheme, asked)), timeouts)
                if joined is not None:
                    return joined
            return await self._open(endpoint, scheme, url, timeouts, breaker, asked)
        finally:
            breaker.pending -= 1

    async def _join(self, key: Key, timeouts: Timeouts) -> AsyncConnection | None:
        """A connection to which others have just begun to connect; None where none is coming, or none to share.

        Raises:
            ConnectTimeout, ConnectError: As it did for them.
        """
        endpoint = key[0]
        try:
            async with asyncio.timeout(connect_timeout(endpoint, timeouts.connect)):
                while not self._closed and key not in self._unshared:
                    opening = self._openings.get(key)
                    if opening is not None:
                        error = await asyncio.shield(opening)
                        if error is not None:
                            raise copy(error) from error
                    elif any(shared.is_settling for shared in self._shared.get(key, ())):
                        await self._something_changed()
                    else:
                        return None
                    connection = self.try_acquire(key)
                    if connection is not None:
                        return connection
        except TimeoutError as error:
            raise connect_error(error, endpoint) from error
        return None

    def _something_changed(self) -> asyncio.Future[None]:
        """Done when a connection opens or closes, or when one may take a request more than before."""
        waiter: asyncio.Future[None] = self.loop.create_future()
        self._waiters.append(waiter)
        return waiter

    async def _open(
        self,
        endpoint: Endpoint,
        scheme: str,
        url: Url,
        timeouts: Timeouts,
        breaker: CircuitBreaker,
        asked: Asked | None,
    ) -> AsyncConnection:
        key = (endpoint, secured_by(scheme, asked))
        reused = await self._take_room(key, timeouts.pool, breaker)
        if reused is not None:
            return reused
        connection: AsyncConnection | None = None
        failure: TransportError | None = None
        slot = Slot(endpoint, key[1], breaker, self._limits.keepalive_expiry)
        opening = self._openings.setdefault(key, self.loop.create_future())
        try:
            async with asyncio.timeout(connect_timeout(endpoint, timeouts.connect)):
                connection = await self._dialer.dial(slot, scheme, url.host, asked)
        except OSError as error:  # TimeoutError is one.
            failure = connect_error(error, endpoint)
            raise failure from error
        except TransportError as error:
            failure = error
            raise
        else:
            if not connection.is_open:
                # Its end came with the handshake's, and so before it was told to anybody.
                connection, failure = None, ConnectError(f"{endpoint.address} closed the connection at once")
                raise failure
        finally:
            self._opening -= 1
            if connection is None:
                self._uncount(key, breaker)
                breaker.connect_failures += failure is not None
            else:
                self._take_in(key, connection, slot)
            if self._openings.get(key) is opening:
                del self._openings[key]
                opening.set_result(failure)
            self._wake_waiters()
        if self._closed:
            connection.close()
            raise ConnectError("the client was closed")
        return connection

    def _take_in(self, key: Key, connection: AsyncConnection, slot: Slot) -> None:
        self._slots[connection] = slot
        slot.breaker.connected(is_secured=slot.tls is not None)
        connection.idle_since = time.monotonic()
        if not isinstance(connection, AsyncHttp1Connection):
            self._unshared.discard(key)
            self._shared.setdefault(key, {})[connection] = None
        elif self._tls.may_share(slot.endpoint, "https" if slot.is_secure else "http"):
            self._unshared.add(key)

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

    def release(self, connection: AsyncConnection) -> None:
        """A connection is idle again, or closed. Called by the connection itself."""
        slot = self._slots.get(connection)
        if slot is None:
            return
        key = (slot.endpoint, slot.is_secure)
        if slot.secured is not None and connection.is_open:
            keep_session(slot)
        if not connection.is_open:
            del self._slots[connection]
            self._uncount(key, slot.breaker)
            self._forget(key, connection)
        elif self._closed or not slot.keeps(connection.requests):
            connection.close()
        else:
            connection.idle_since = time.monotonic()
            if isinstance(connection, AsyncHttp1Connection):
                idle = self._idle.get(key)
                if idle is None:
                    idle = self._idle[key] = {}
                idle[connection] = None
            if self._sweeper is None:
                self._sweeper = self.loop.call_later(SWEEP_SECONDS, self._sweep)
        if self._waiters:
            self._wake_waiters()

    def close(self) -> None:
        """Close every connection; requests under way fail."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self._slots):
            connection.close()
        self._wake_waiters()

    def _forget(self, key: Key, connection: AsyncConnection) -> None:
        table: dict[Key, Any] = self._idle if isinstance(connection, AsyncHttp1Connection) else self._shared
        entries = table.get(key)
        if entries is not None:
            entries.pop(connection, None)
            if not entries and key[0].is_removed:
                del table[key]
                self._unshared.discard(key)

    def room_appeared(self) -> None:
        """A shared connection takes a request more than before. Called by the connection itself."""
        if self._waiters:
            self._wake_waiters()

    def _wake_waiters(self) -> None:
        """Something became free: everyone who waits looks whether it is for them."""
        waiters, self._waiters = self._waiters, deque()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _take_room(self, key: Key, seconds: float | None, breaker: CircuitBreaker) -> AsyncConnection | None:
        """Room for one more connection; or, after a wait for it, one that can be used now."""
        if self._has_room(key, breaker):
            self._count(key, breaker)
            return None
        try:
            async with asyncio.timeout(seconds):
                while not self._closed:
                    await self._something_changed()
                    connection = self.try_acquire(key)
                    if connection is not None:
                        return connection
                    if self._has_room(key, breaker):
                        self._count(key, breaker)
                        return None
        except TimeoutError as error:
            raise PoolTimeout(f"no connection to {key[0].name} became free in {seconds:g} s") from error
        raise ConnectError("the client was closed")

    def _has_room(self, key: Key, breaker: CircuitBreaker) -> bool:
        """Whether neither the cluster's circuit breaker nor the client's own limit is in the way."""
        if must_wait_for_connection(breaker, key[0], self._counts.get(key, 0)):
            return False
        limit = self._limits.max_connections
        return limit is None or len(self._slots) + self._opening < limit or self._evict()

    def _evict(self) -> bool:
        """Close one idle connection to make room."""
        for idle in self._idle.values():
            if idle:
                next(iter(idle)).close()
                return True
        for shared in self._shared.values():
            for connection in shared:
                if connection.is_idle:
                    connection.close()
                    return True
        return False

    def drop_distrusted(self) -> None:
        """Close connections whose peers are trusted no more, also under requests, and what would not be used again."""
        self.drop_removed()
        for connection, slot in list(self._slots.items()):
            if slot.tls is not None and not slot.tls.is_current and not self._tls.trusts(slot.endpoint, slot.chain):
                connection.close()

    def drop_removed(self) -> None:
        """Close idle connections that would not be used again, as to endpoints that are gone; busy ones, when done."""
        for connection, slot in list(self._slots.items()):
            if self._is_idle(connection, slot) and (slot.endpoint.is_removed or not slot.fits(connection.idle_since)):
                connection.close()
        tables: tuple[dict[Key, Any], ...] = (self._idle, self._shared)
        for table in tables:
            for key in [key for key, connections in table.items() if key[0].is_removed and not connections]:
                del table[key]
        self._unshared = {key for key in self._unshared if not key[0].is_removed}

    def _is_idle(self, connection: AsyncConnection, slot: Slot) -> bool:
        if isinstance(connection, AsyncHttp1Connection):
            return connection in self._idle.get((slot.endpoint, slot.is_secure), ())
        return connection.is_idle

    def _sweep(self) -> None:
        """Close what was idle for too long."""
        self._sweeper = None
        now = time.monotonic()
        for connection, slot in list(self._slots.items()):
            longest = keepalive_seconds(self._limits.keepalive_expiry, slot.endpoint.cluster.config)
            if self._is_idle(connection, slot) and now - connection.idle_since > longest:
                connection.close()
        self.drop_removed()
        if self._slots:
            self._sweeper = self.loop.call_later(SWEEP_SECONDS, self._sweep)
