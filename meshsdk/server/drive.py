"""Carrying out what the engine waits for, in threads and in asyncio.

The two differ in nothing but how they wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any

from ..exchange.local_reply import LocalReply
from ..inbound import AskAuthorization, AskRateLimit, Delay, FetchKeys, InboundRequest, ReadBody, Wait
from ..inbound.replies import not_configured
from ..log_lines import logger_of
from .audit import audit
from .callouts import Callouts
from .peer_trust import PeerTrust
from .told_decision import told

if TYPE_CHECKING:
    from ..inbound import InboundPolicy
    from .inbound import Inbound

__all__ = ["AsyncDriver", "Driver"]

logger = logger_of("meshsdk.server")

ReadBodyAsync = Callable[[int], Awaitable[bytes]]
Deciding = Coroutine[Any, Any, LocalReply | None]
Waiting = Generator[Wait, Any, LocalReply | None]

_NO_PEERS = (
    "port %d takes mutual TLS only, and requests come of whose peers this server tells nothing: every one is refused."
    " Run a web application by mesh.serve(app, port=%d), or give gunicorn mesh.ssl_context(port=%d), uvicorn"
    " --http meshsdk.server.uvicorn_protocol:MeshProtocol, and a gRPC server mesh.server_credentials()"
)

# How long requests that come before the policy does are held back.
_FIRST_POLICY_SECONDS = 15.0


class _Refusals:
    """Answers with refusals; the first one for want of certificates is told to whoever runs the server."""

    def __init__(self, inbound: Inbound) -> None:
        self._inbound = inbound
        self._has_told = False

    def answer(self, request: InboundRequest, reply: LocalReply) -> LocalReply:
        """The reply, recorded."""
        connection, policy, port = request.connection, self._inbound.policy, self._inbound.port
        if not self._has_told and connection.peer is None and not connection.is_watched and policy is not None:
            self._has_told = policy.needs_peers(port)
            if self._has_told:
                logger.critical(_NO_PEERS, port, port, port)
        return audit(request, reply)


class Driver:
    """Decides on requests in threads.

    Args:
        inbound: The port's policy.

    Attributes:
        peers: Looks at peers that no handshake of ours has let in.
    """

    def __init__(self, inbound: Inbound) -> None:
        self.inbound = inbound
        self.peers = PeerTrust(inbound)
        self._refusals = _Refusals(inbound)
        self._callouts = Callouts(inbound.control)

    def decide(self, request: InboundRequest, read_body: Callable[[int], bytes]) -> LocalReply | None:
        """The answer, or None to let the request in.

        Args:
            request: It is left as the application is to get it.
            read_body: Reads the body's beginning: at most so many bytes and one more.
        """
        policy = self.inbound.policy
        if policy is None:
            try:
                policy = self.inbound.wait_ready(_FIRST_POLICY_SECONDS)
            except Exception as error:  # noqa: BLE001 - whatever it is, nobody gets in.
                return audit(request, not_configured(str(error)))
        result = self.peers.refusal(request.connection) or policy.begin(request)
        port = self.inbound.port
        if result is None:
            return told(request, port, None)
        if isinstance(result, LocalReply):
            return told(request, port, self._refusals.answer(request, result))
        try:
            wait = next(result)
            while True:
                wait = result.send(self._carry_out(wait, read_body))
        except StopIteration as stop:
            return told(request, port, None if stop.value is None else audit(request, stop.value))

    def _carry_out(self, wait: Wait, read_body: Callable[[int], bytes]) -> Any:
        match wait:
            case Delay(seconds=seconds):
                return time.sleep(seconds)
            case ReadBody(max_bytes=max_bytes):
                return read_body(max_bytes)
            case FetchKeys(remote=remote):
                return self._callouts.fetch_keys(remote)
            case AskAuthorization():
                return self._callouts.ask(wait)
            case AskRateLimit():
                return self._callouts.ask_limit(wait)

    def close(self) -> None:
        """Close the connections to servers that were asked."""
        self._callouts.close()


class AsyncDriver:
    """Decides on requests in asyncio. Twin of `Driver`."""

    def __init__(self, inbound: Inbound) -> None:
        self.inbound = inbound
        self.peers = PeerTrust(inbound)
        self._refusals = _Refusals(inbound)
        self._callouts = Callouts(inbound.control)

    def decide(self, request: InboundRequest, read_body: ReadBodyAsync) -> LocalReply | Deciding | None:
        """See `Driver.decide`; where something is waited for, what is to be awaited for the answer."""
        policy = self.inbound.policy
        return self._decide_late(request, read_body) if policy is None else self._begin(policy, request, read_body)

    async def _decide_late(self, request: InboundRequest, read_body: ReadBodyAsync) -> LocalReply | None:
        try:
            policy = await self.inbound.wait_ready_async(_FIRST_POLICY_SECONDS)
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody gets in.
            return audit(request, not_configured(str(error)))
        decided = self._begin(policy, request, read_body)
        return decided if decided is None or isinstance(decided, LocalReply) else await decided

    def _begin(
        self, policy: InboundPolicy, request: InboundRequest, read_body: ReadBodyAsync
    ) -> LocalReply | Deciding | None:
        result = self.peers.refusal(request.connection) or policy.begin(request)
        port = self.inbound.port
        if result is None:
            return told(request, port, None)
        if isinstance(result, LocalReply):
            return told(request, port, self._refusals.answer(request, result))
        return self._await(request, result, read_body)

    async def _await(self, request: InboundRequest, waiting: Waiting, read_body: ReadBodyAsync) -> LocalReply | None:
        try:
            wait = next(waiting)
            while True:
                wait = waiting.send(await self._carry_out(wait, read_body))
        except StopIteration as stop:
            return told(request, self.inbound.port, None if stop.value is None else audit(request, stop.value))

    async def _carry_out(self, wait: Wait, read_body: ReadBodyAsync) -> Any:
        match wait:
            case Delay(seconds=seconds):
                return await asyncio.sleep(seconds)
            case ReadBody(max_bytes=max_bytes):
                return await read_body(max_bytes)
            case FetchKeys(remote=remote):
                return await self._callouts.fetch_keys_async(remote)
            case AskAuthorization():
                return await self._callouts.ask_async(wait)
            case AskRateLimit():
                return await self._callouts.ask_limit_async(wait)

    async def close(self) -> None:
        """Close the connections to servers that were asked."""
        await self._callouts.close_async()
