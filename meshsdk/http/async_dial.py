"""New connections of an async transport: a socket, TLS over it, and the protocol that ALPN chose."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from ..resources import Address
from ..security import TlsClientContext
from .asked import Asked, Trace
from .async_http1 import AsyncHttp1Connection
from .breaking_off import break_off
from .errors import ConnectError
from .network_stream import NetworkStream, stream_of
from .pool_rules import Slot, connect_error, set_keepalive
from .tls import ResumedContext, TlsChooser, speaks_http2, verify_peer

if TYPE_CHECKING:
    from .async_http2 import AsyncHttp2Connection

__all__ = ["AsyncConnection", "AsyncDialer"]

AsyncConnection: TypeAlias = "AsyncHttp1Connection | AsyncHttp2Connection"

# RFC 8305: how long the first address of a name has before the next one is tried beside it.
_HAPPY_EYEBALLS_SECONDS = 0.25


class AsyncDialer:
    """Opens connections on one event loop.

    Args:
        loop: The event loop.
        tls: Which TLS connections use.
        release: What a connection calls when it is idle again, or closed.
        room_appeared: What it calls when it takes a request more than before.
        holds: A response that has come whole keeps its connection until it is read or closed.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tls: TlsChooser,
        release: Callable[[AsyncConnection], None],
        room_appeared: Callable[[], None],
        *,
        holds: bool,
    ) -> None:
        self._loop = loop
        # uvloop has no such argument; it tries the addresses of a name one after the other.
        is_own = isinstance(loop, asyncio.BaseEventLoop)
        self._by_turns: dict[str, Any] = {"happy_eyeballs_delay": _HAPPY_EYEBALLS_SECONDS} if is_own else {}
        self._tls = tls
        self._release = release
        self._room_appeared = room_appeared
        self._holds = holds

    async def dial(self, slot: Slot, scheme: str, host: str, asked: Asked | None) -> AsyncConnection:
        """A new connection.

        Args:
            slot: Whose it is to be.
            scheme: The request's.
            host: That https is to prove, unless `asked` has another name.
            asked: What else the request asks of its connection.

        Raises:
            OSError, ConnectError
        """
        address = slot.endpoint.address
        chosen = self._tls.choose(slot.endpoint, scheme, (asked.sni_hostname or host) if asked is not None else host)
        secured: dict[str, Any] = {}
        if chosen is not None:
            context, server_name = chosen
            known = context.sessions.get((slot.endpoint, server_name or None))
            resumed = context.context if known is None else ResumedContext(context.context, known[0])
            secured = {"ssl": resumed, "server_hostname": server_name}

        def negotiator() -> _Negotiator:
            return _Negotiator(self, slot, None if chosen is None else chosen[0])

        if asked is not None and asked.trace is not None:
            protocol = await self._dial_told(asked.trace, slot, negotiator, secured)
        elif address.is_unix:
            _, protocol = await self._loop.create_unix_connection(negotiator, address.host, **secured)
        else:
            by_turns = {} if _is_literal(address.host) else self._by_turns
            _, protocol = await self._loop.create_connection(
                negotiator, address.host, address.port, **secured, **by_turns
            )
        if protocol.error is not None:
            raise protocol.error
        assert protocol.connection is not None
        return protocol.connection

    async def _dial_told(
        self, trace: Trace, slot: Slot, negotiator: Callable[[], _Negotiator], secured: dict[str, Any]
    ) -> _Negotiator:
        """Socket and TLS one after the other, since each is told of."""
        address = slot.endpoint.address
        try:
            await trace.atell(trace.connecting(address, None))
            sock = await self._open_socket(address)
            try:
                await trace.atell(trace.end(NetworkStream(sock, None)))
                if secured:
                    context, name = secured["ssl"], secured["server_hostname"]
                    await trace.atell(trace.securing(getattr(context, "context", context), name, None))
                create = self._loop.create_unix_connection if address.is_unix else self._loop.create_connection
                transport, protocol = await create(negotiator, sock=sock, **secured)
            except BaseException:
                sock.close()
                raise
        except OSError as error:
            await trace.atell(trace.failed(connect_error(error, slot.endpoint)))
            raise
        if secured:
            failed: Exception | None = protocol.error
            await trace.atell(trace.end(stream_of(transport)) if failed is None else trace.failed(failed))
        return protocol

    async def _open_socket(self, address: Address) -> socket.socket:
        loop = self._loop
        if address.is_unix:
            found: list[Any] = [(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", address.host)]
        else:
            found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        failure: OSError | None = None
        for family, kind, protocol, _, where in found:
            sock = socket.socket(family, kind, protocol)
            sock.setblocking(False)
            try:
                await loop.sock_connect(sock, where)
            except OSError as error:
                sock.close()
                failure = error
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        raise failure or OSError(f"{address.host} has no address")

    def take(self, transport: Any, slot: Slot, *, is_http2: bool) -> AsyncConnection:
        """The connection that a fresh transport becomes."""
        connection: AsyncConnection
        if is_http2:
            from .async_http2 import AsyncHttp2Connection  # h2 is loaded when a peer speaks HTTP/2.

            limit = slot.endpoint.cluster.config.max_concurrent_streams
            connection = AsyncHttp2Connection(self._loop, self._release, limit, self._room_appeared)
        else:
            told = self._tls.must_be_told
            connection = AsyncHttp1Connection(self._loop, self._release, must_be_told=told, holds=self._holds)
        transport.set_protocol(connection)
        connection.connection_made(transport)
        return connection


def _is_literal(host: str) -> bool:
    """Whether a host is an IP address, which has no other to be tried beside it."""
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    except (OSError, ValueError):
        return False
    return True


class _Negotiator(asyncio.Protocol):
    """Takes a fresh connection, checks the peer, and hands over to the protocol that ALPN chose."""

    def __init__(self, dialer: AsyncDialer, slot: Slot, tls: TlsClientContext | None) -> None:
        self._dialer = dialer
        self._slot = slot
        self._tls = tls
        self.connection: AsyncConnection | None = None
        self.error: Exception | None = None

    def connection_made(self, transport: Any) -> None:  # uvloop's are no asyncio.Transport by class.
        endpoint = self._slot.endpoint
        keepalive = endpoint.cluster.config.tcp_keepalive
        if keepalive is not None and not endpoint.address.is_unix:
            set_keepalive(transport.get_extra_info("socket"), keepalive)
        protocol: str | None = None
        if self._tls is not None:
            ssl_object = transport.get_extra_info("ssl_object")
            try:
                verify_peer(self._tls, ssl_object, self._slot)
            except ConnectError as error:
                self.error = error
                break_off(transport)
                return
            protocol = ssl_object.selected_alpn_protocol()
        is_http2 = speaks_http2(protocol, endpoint.cluster.config.protocol)
        self.connection = self._dialer.take(transport, self._slot, is_http2=is_http2)
