"""Policy in front of an ASGI application.

Theory of operation. A request's scope becomes a head and a connection; policy decides; the application gets the scope
with the head as policy left it, so that both have seen the same path and headers. What it answers passes the response
changes on its way out. Streams and websockets go through untouched.

Sources: ASGI specification (HTTP and WebSocket, TLS extension, lifespan).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from .. import deadline, request_id
from ..errors import MeshError, UnsupportedFeatureError
from ..exchange.local_reply import LocalReply, payload_too_large
from ..inbound import Connection, InboundPolicy, InboundRequest
from ..log_lines import logger_of
from ..telemetry.lookup import http_server_observer
from .asgi_head import read_head, read_strictly, write_back
from .connections import ADMITTED, TELLS_PEERS, Teller, asgi_connection
from .drive import AsyncDriver
from .inbound import HasControl, Inbound
from .measured import InboundRecord
from .traced import announced_size, end_observation, observe
from .uniform import make_uniform

if TYPE_CHECKING:
    from ..telemetry.http_server import InboundObservation

__all__ = ["AsgiMiddleware"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logger_of("meshsdk.server")

_NO_PEERS = (
    "port {port} takes mutual TLS only, and this server does not tell applications whose certificate it has verified:"
    " run the application by mesh.serve(app, port={port}), or give uvicorn"
    " --http meshsdk.server.uvicorn_protocol:MeshProtocol"
)
_HTTP_DENIAL = "websocket.http.response"


class AsgiMiddleware:
    """Has an ASGI application behind the mesh's inbound policy.

    Args:
        app: The application.
        mesh: Whose policy.
        port: That the server listens on, as configuration knows it; by default what each connection came to.
        address: That it listens on.
        closes_mesh: Close the mesh when the application's lifespan ends.
        drops_underscores: Headers with an underscore in their name are dropped, for an application that takes them for
            those with a hyphen, as WSGI applications do.
    """

    def __init__(
        self,
        app: App,
        *,
        mesh: HasControl,
        port: int | None = None,
        address: str = "0.0.0.0",
        closes_mesh: bool = True,
        drops_underscores: bool = False,
    ) -> None:
        self.app = app
        self._mesh = mesh
        self._address = address
        self._closes_mesh = closes_mesh
        self._drops_underscores = drops_underscores
        self._port = port
        self._drivers: dict[int, AsyncDriver] = {}
        if port is not None:
            self._driver(port)

    def _driver(self, port: int) -> AsyncDriver:
        driver = self._drivers.get(port)
        if driver is None:
            driver = self._drivers[port] = AsyncDriver(Inbound(self._mesh._runtime, port, self._address))
        return driver

    def _policy(self, connection: Connection) -> InboundPolicy | None:
        port = self._port if self._port is not None else connection.destination_port
        return self._driver(port).inbound.policy if port else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        kind = scope["type"]
        if kind == "lifespan":
            return await self._lifespan(scope, receive, send)
        if (kind != "http" and kind != "websocket") or scope.get(ADMITTED):
            return await self.app(scope, receive, send)
        connection = asgi_connection(scope, receive, self._port)
        head = read_head(scope, receive, connection, drops_underscores=self._drops_underscores)
        record: InboundRecord | None = None
        metrics, logs = self._mesh._runtime.metrics, self._mesh._runtime.access_logs
        if metrics is not None or logs is not None:
            record = InboundRecord(metrics, logs, head, connection)
            head, receive, send = record.head, record.receiving(receive), record.sending(send)
        request = InboundRequest(head, connection)
        if record is not None:
            record.request = request
        outcome = _Outcome()
        observer = http_server_observer()
        observation = observe(observer, request, self._policy(connection)) if observer is not None else None
        error: BaseException | None = None
        if observation is not None:
            observation.enter()
        try:
            await self._decide(scope, receive, send, request, outcome, observation, record)
        except BaseException as raised:
            error = raised
            raise
        finally:
            if request.on_done:
                request.done(outcome.status if error is None else None)
            if observation is not None:
                observation.exit()
                control, route = self._mesh._runtime, _route_path(scope)
                end_observation(observation, control, request, outcome.status, error, outcome.flag, route, outcome.size)
            if record is not None:
                record.end(error)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The policy is here before the application starts, and the mesh is closed after it ended."""
        first = await receive()
        try:
            for driver in list(self._drivers.values()):
                policy = await driver.inbound.wait_ready_async()
                tells = scope.get(TELLS_PEERS) or Teller.is_here
                if policy.needs_peers(driver.inbound.port) and not tells:
                    raise UnsupportedFeatureError(_NO_PEERS.format(port=driver.inbound.port))
                driver.inbound.has_started()
        except (MeshError, TimeoutError) as error:
            # Servers take an exception for an application without a lifespan, and go on.
            logger.critical("the application does not start: %s", error)
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            # Whoever waits for the application's end (Starlette's TestClient) learns why.
            raise
        unread = [first]

        async def received() -> MutableMapping[str, Any]:
            return unread.pop() if unread else await receive()

        try:
            await self.app(scope, received, send)
        finally:
            for driver in self._drivers.values():
                driver.inbound.has_ended()
                await driver.close()
            if self._closes_mesh:
                await asyncio.get_running_loop().run_in_executor(None, self._mesh.close)

    async def _decide(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        request: InboundRequest,
        outcome: _Outcome,
        observation: InboundObservation | None,
        record: InboundRecord | None,
    ) -> None:
        """Answer a request, or have the application do so."""
        before, body = request.arrived, _Body(receive)
        port = self._port if self._port is not None else request.connection.destination_port
        policy = self._policy(request.connection)
        if record is not None:
            record.policy = policy
        reply = make_uniform(request, policy, port, scope.get("http_version", "1.1"))
        if reply is None:
            decided = self._driver(port).decide(request, body.peek)
            reply = decided if decided is None or isinstance(decided, LocalReply) else await decided
        if reply is None and request.max_body_bytes is not None:
            reply = await _bound(request, request.max_body_bytes, body)
        if reply is None:
            if observation is not None:
                request.head = observation.passed_on(request.head)
            reply = write_back(scope, before, request)
        if reply is not None:
            if record is not None:
                record.reply = reply
            return await _answer(scope, send, reply, outcome)
        answer = send
        if observation is not None or request.response_changes or request.on_done:
            answer = _watched(send, request, outcome)
        if body.is_read:
            receive = body.receive
        limit = deadline.of_headers(request.head.header)
        token = request_id.current.set(request.request_id)
        try:
            if limit is None:
                await self.app(scope, receive, answer)
            else:
                with deadline.limit(limit):
                    await self.app(scope, receive, answer)
        finally:
            request_id.current.reset(token)


def _watched(send: Send, request: InboundRequest, outcome: _Outcome) -> Send:
    """Send what the application answers as the filters change it, and note what became of the request."""
    changes_response = bool(request.response_changes)

    async def answer(message: MutableMapping[str, Any]) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            outcome.status, outcome.size = message["status"], announced_size(message.get("headers", ()))
            if changes_response:
                headers = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
                message = {**message, "headers": request.changed_response(headers, message["status"])}
        elif kind == "websocket.accept":
            outcome.status = 101
        await send(message)
        if kind == "http.response.body" and request.on_done and not message.get("more_body", False):
            # What an application does after its answer is not part of the request.
            request.done(outcome.status)

    return answer


class _Outcome:
    """What became of a request."""

    __slots__ = ("flag", "size", "status")

    def __init__(self) -> None:
        self.status: int | None = None
        self.flag = ""
        self.size: str | None = None


class _Body:
    """A request's body, of which policy may read the beginning before the application reads all."""

    __slots__ = ("_messages", "_receive", "is_read")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._messages: list[MutableMapping[str, Any]] = []
        self.is_read = False

    async def peek(self, max_bytes: int) -> bytes:
        """At most so many bytes and one more."""
        self.is_read = True
        read = b"".join(message.get("body", b"") for message in self._messages)
        while len(read) <= max_bytes and not self._is_whole():
            message = await self._receive()
            self._messages.append(message)
            if message["type"] != "http.request":
                break
            read += message.get("body", b"")
        return read[: max_bytes + 1]

    def _is_whole(self) -> bool:
        return bool(self._messages) and not self._messages[-1].get("more_body", False)

    async def receive(self) -> MutableMapping[str, Any]:
        """The next message: what was read beforehand comes first."""
        return self._messages.pop(0) if self._messages else await self._receive()


async def _bound(request: InboundRequest, max_bytes: int, body: _Body) -> LocalReply | None:
    """Refuse a body that is longer than the filter buffer takes."""
    declared = request.head.header("content-length")
    if declared is not None and declared.isdecimal():
        return payload_too_large(max_bytes) if int(declared) > max_bytes else None
    # HTTP/2 announces neither a length nor chunks.
    return payload_too_large(max_bytes) if len(await body.peek(max_bytes)) > max_bytes else None


def _route_path(scope: Scope) -> str:
    """The template that a framework matched, such as /users/{id}; empty where it does not tell."""
    path = getattr(scope.get("route"), "path", "")
    return path if isinstance(path, str) else ""


async def _answer(scope: Scope, send: Send, reply: LocalReply, outcome: _Outcome) -> None:
    outcome.status, outcome.flag, outcome.size = reply.status, reply.flag, str(len(reply.body))
    headers = [*reply.headers, (b"content-length", b"%d" % len(reply.body))]
    prefix = "http.response"
    if scope["type"] == "websocket":
        if _HTTP_DENIAL not in scope.get("extensions", {}):
            # The handshake is answered with 403, whatever the reason (ASGI specification, WebSocket close).
            await send({"type": "websocket.close", "code": 1008})
            return
        prefix = _HTTP_DENIAL
    body = b"" if scope.get("method") == "HEAD" else reply.body
    await send({"type": f"{prefix}.start", "status": reply.status, "headers": headers})
    await send({"type": f"{prefix}.body", "body": body})


# Not with the first middleware: one of an application that is mounted in another is made for its first request, which
# has been read by then.
read_strictly()
