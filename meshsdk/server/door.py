"""How connections come in: from a socket that was accepted to the protocol that serves it, or to its end.

Theory of operation. The first byte of a connection says whether it is TLS (a handshake record begins with 22, RFC 8446
section 5.1), and the port's filter chains say whether that may be: STRICT has no chain for plaintext, DISABLE none for
TLS, PERMISSIVE both. It is looked at and not taken, so whoever reads next finds it. A peer that says nothing is dropped
after a while, and when descriptors run short those that were silent longest go first (`crowd`). Peers are looked at
again while their connections last: whoever is trusted no more is cut off, and who came in by a chain that is gone is
sent away.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import IdentityError, PeerIdentityError, ResourceError, UnsupportedFeatureError
from ..http.breaking_off import break_off
from ..inbound import Connection
from ..log_lines import logger_of
from ..security import PeerChain, check_peer, check_trust_domain, peer_chain, still_trusted
from .connections import CONNECTION, TARGET, connection_of_transport
from .crowd import Crowd
from .held_transport import HeldTransport
from .inbound import Inbound
from .strict_http import DEFAULT_TIMEOUTS, StrictHttp, Timeouts
from .tls import RotatingContext, tls_of_policy

if TYPE_CHECKING:
    from ..inbound import InboundPolicy

__all__ = ["Door"]

logger = logger_of("meshsdk.server")

_TLS_HANDSHAKE = b"\x16"
_PLAINTEXT_ADVICE = (
    "callers of the mesh speak mutual TLS to it where its pod or WorkloadEntry has the label"
    " security.istio.io/tlsMode: istio; probes and others take mesh.serve(health=…), portLevelMtls or PERMISSIVE"
)
_SECONDS_BETWEEN_LOOKS = 2.0


class Door:
    """Lets connections of one port in, on one event loop.

    Args:
        inbound: The port's policy.
        config: uvicorn's, loaded.
        server_state, app_state: uvicorn's.
        timeouts: How long peers are waited for.

    Attributes:
        crowd: Connections that wait for their peers.
    """

    def __init__(
        self,
        inbound: Inbound,
        config: Any,
        server_state: Any,
        app_state: Any,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
    ) -> None:
        self._inbound = inbound
        self._config = config
        self._server_state = server_state
        self._app_state = app_state
        self._timeouts = timeouts
        self.crowd = Crowd()
        self._context: RotatingContext | None = None
        self._problem = ""
        self._has_warned = False
        self._preparing: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._peers: dict[Any, PeerChain] = {}
        self._generation: object = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._seen_policy: InboundPolicy | None = None

    def _drop_removed(self) -> None:
        """See `runtime.Transport`: on the control thread. The port's policy may have no place for some connections."""
        policy, loop = self._inbound.policy, self._loop
        if policy is not self._seen_policy:
            self._seen_policy = policy
            if loop is not None:
                with contextlib.suppress(RuntimeError):  # It has ended.
                    loop.call_soon_threadsafe(self._send_away)

    def _after_fork(self) -> None:
        """See `runtime.Transport`: a child has no event loop that goes on."""

    def _send_away(self) -> None:
        """End connections that no filter chain is for any more: at once where they are idle, else after the answer.

        As an Envoy drains those of a chain that goes. Their clients come again, and speak TLS where that is asked for
        now; a request that was under way is answered by what was decided at its beginning.
        """
        policy = self._inbound.policy
        if policy is None or policy.listener is None:
            return
        for protocol in list(self._server_state.connections):
            # uvicorn's protocols for websockets take the transport over from ours.
            transport = protocol.transport
            if isinstance(transport, HeldTransport) and policy.chain_of(self._connection_of(transport)) is None:
                protocol.shutdown()

    def _connection_of(self, transport: HeldTransport) -> Connection:
        if transport.connection is None:
            transport.connection = connection_of_transport(transport, self._own_uri())
        return transport.connection

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something until the door is closed."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Nobody comes in any more; who is in stays."""
        for task in list(self._tasks):
            task.cancel()

    def _watch_policy(self) -> None:
        if self._loop is None:
            self._loop, self._seen_policy = asyncio.get_running_loop(), self._inbound.policy
            self._inbound.control.register(self)

    async def prepare(self) -> None:
        """Have a certificate. The first may be long in coming, and must not be waited for on the event loop."""
        self._watch_policy()
        if self._context is not None:
            return
        if self._preparing is None or self._preparing.done():
            self._preparing = asyncio.get_running_loop().run_in_executor(None, self._make_context)
        # Whoever stops waiting leaves the others what they wait for.
        await asyncio.shield(self._preparing)

    def _make_context(self) -> None:
        try:
            self._context = RotatingContext(
                lambda: tls_of_policy(self._inbound.policy, self._inbound.port),
                self._inbound.secrets,
                federated=True,
            )
        except (ResourceError, UnsupportedFeatureError, OSError) as error:
            self._problem = str(error)
            policy = self._inbound.policy
            if policy is not None and policy.needs_peers(self._inbound.port):
                logger.error("port %d lets nobody in: %s", self._inbound.port, error)

    def enter(self, connection: socket.socket) -> None:
        """A connection was accepted."""
        self._watch_policy()
        self.crowd.admit(connection)
        task = asyncio.get_running_loop().create_task(self._begin(connection))
        self._tasks.add(task)
        self.crowd.waits(task, task.cancel)
        task.add_done_callback(partial(self._has_begun, connection))

    def _has_begun(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.crowd.leaves(task)
        if task.cancelled():
            # One that was cancelled before its first step has not done so.
            connection.close()

    async def _begin(self, connection: socket.socket) -> None:
        """From an accepted socket to a protocol of uvicorn's, or to its end."""
        connection.setblocking(False)
        try:
            if connection.family != socket.AF_UNIX:
                # asyncio does this for sockets that it accepts itself.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            policy = self._inbound.policy
            own = policy.connect_timeout_seconds if policy is not None else None
            async with asyncio.timeout(own or self._timeouts.transport_socket_connect_timeout):
                first = await _first_byte(connection)
                if not first:
                    connection.close()
                    return
                context = await self._context_for(first == _TLS_HANDSHAKE)
                loop = asyncio.get_running_loop()
                await loop.connect_accepted_socket(self._protocol, connection, ssl=context)
        except (OSError, TimeoutError, _RefusedError) as error:
            self._tell_of_refusal(connection, error)
            connection.close()
        except asyncio.CancelledError:
            connection.close()
            raise

    def _tell_of_refusal(self, connection: socket.socket, error: Exception) -> None:
        level, more = logging.INFO, ""
        if isinstance(error, _PlaintextError) and not self._has_warned:
            # Callers learn no more than that the connection was reset.
            self._has_warned = True
            level, more = logging.WARNING, f" ({_PLAINTEXT_ADVICE}; further ones are told of at INFO)"
        logger.log(
            level, "a connection from %s is refused: %s%s", _peer_name(connection), error or "it said nothing", more
        )

    async def _context_for(self, is_tls: bool) -> RotatingContext | None:
        policy: InboundPolicy | None = self._inbound.policy
        listener = policy.listener if policy is not None else None
        if policy is None or listener is None:
            raise _RefusedError("there is no policy for this port")
        if not is_tls:
            if not any(one.tls is None and one.manager is not None for one in listener.chains_of(self._inbound.port)):
                raise _PlaintextError(f"it is plaintext, and port {self._inbound.port} takes mutual TLS only")
            return None
        try:
            tls_of_policy(policy, self._inbound.port)
        except (ResourceError, UnsupportedFeatureError) as error:
            raise _RefusedError(f"TLS cannot be served: {error}") from error
        await self.prepare()
        if self._context is None:
            raise _RefusedError(f"TLS cannot be served: {self._problem}")
        return self._context

    def _protocol(self) -> asyncio.Protocol:
        """A protocol of uvicorn's whose application knows the connection."""
        made: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            transport = made[0].mesh_transport
            scope[CONNECTION] = self._connection_of(transport)
            if scope["type"] == "websocket":
                scope[TARGET] = made[0].url.decode("latin-1")
            await loaded(scope, receive, _in_one_piece(send, transport) if scope["type"] == "http" else send)

        loaded = self._config.loaded_app
        config = copy.copy(self._config)
        config.loaded_app = app
        protocol = _DoorHttp(config=config, server_state=self._server_state, app_state=self._app_state)
        policy = self._inbound.policy
        if policy is not None:
            protocol.rules = policy.rules
        protocol.timeouts = self._timeouts.within(protocol.rules)
        protocol.crowd = self.crowd
        protocol.mesh_admits = self._admits
        protocol.mesh_forgets = self._peers.pop
        made.append(protocol)
        return protocol

    def _own_uri(self) -> str:
        """Whom this side says to be, for X-Forwarded-Client-Cert."""
        identity = self._inbound.secrets.identity
        try:
            return identity.credentials().spiffe_id if identity is not None and self._context is not None else ""
        except IdentityError:
            return ""

    def _admits(self, transport: Any) -> bool:
        """Whether the peer's certificate names somebody whom the port takes."""
        secured = transport.get_extra_info("ssl_object")
        if secured is None:
            return True
        try:
            tls = self._inbound.secrets.of_server(
                tls_of_policy(self._inbound.policy, self._inbound.port), federated=True
            )
            chain = peer_chain(secured)
            if tls.trust is not None and (chain is not None or tls.require_client_certificate):
                check_peer(chain.leaf if chain is not None else None, tls.trust)
                bundles = tls.trust.bundles.read_bundles() if tls.trust.bundles is not None else {}
                if bundles and chain is not None:
                    check_trust_domain(chain, bundles)
        except (PeerIdentityError, ResourceError, UnsupportedFeatureError, OSError) as error:
            logger.warning("a peer is refused: %s", error)
            return False
        if chain is not None:
            self._peers[transport] = chain
            if self._timer is None:
                self._look_again_later()
        return True

    def _look_again_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_SECONDS_BETWEEN_LOOKS, self._drop_distrusted)

    def _drop_distrusted(self) -> None:
        """Close connections whose peers' roots are gone, or who are revoked, also under requests."""
        self._timer = None
        # Those that became websockets have another protocol, which does not say when they are gone.
        for transport in [one for one in self._peers if one.is_closing()]:
            self._peers.pop(transport, None)
        if self._peers:
            self._look_again_later()
        context = self._context
        if context is None or not self._peers or context.generation == self._generation:
            return
        try:
            self._generation, trust = context.generation, context.trust()
        except ResourceError:
            return
        for transport, chain in list(self._peers.items()):
            if trust is not None and not transport.is_closing() and not still_trusted(chain, trust):
                logger.warning("a connection is closed: its peer is trusted no more")
                break_off(transport)


class _RefusedError(Exception):
    """A connection may not be."""


class _PlaintextError(_RefusedError):
    """It is plaintext, at a port that takes none."""


class _DoorHttp(StrictHttp):
    """The protocol, with the one thing that uvicorn does not tell applications."""

    mesh_transport: HeldTransport
    mesh_admits: Callable[[Any], bool]
    mesh_forgets: Callable[[Any, None], Any]

    def connection_made(self, transport: Any) -> None:
        """See asyncio.Protocol."""
        self.mesh_transport = HeldTransport(transport)
        super().connection_made(self.mesh_transport)
        if not self.mesh_admits(transport):
            break_off(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self.mesh_forgets(self.mesh_transport.transport, None)
        super().connection_lost(exc)


def _in_one_piece(send: Any, transport: HeldTransport) -> Any:
    """Send an answer's head along with the beginning of its body."""

    async def send_held(message: Any) -> None:
        if message["type"] == "http.response.start":
            transport.hold()
            await send(message)
        else:
            await send(message)
            transport.release()

    return send_held


async def _first_byte(connection: socket.socket) -> bytes:
    """The first byte of a connection, which stays there to be read; empty where the peer has gone."""
    loop = asyncio.get_running_loop()
    readable = loop.create_future()
    loop.add_reader(connection, _wake, readable)
    try:
        await readable
    finally:
        loop.remove_reader(connection)
    return connection.recv(1, socket.MSG_PEEK)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _peer_name(connection: socket.socket) -> str:
    with contextlib.suppress(OSError):
        return str(connection.getpeername()[0])
    return "somebody"
