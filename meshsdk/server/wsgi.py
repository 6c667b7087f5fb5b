"""Policy in front of a WSGI application.

Twin of `asgi`. A WSGI server has put the request's headers into names that cannot be told apart any more (X-A and X_A
are both HTTP_X_A), so policy decides by those names, which are what the application sees.

Source: PEP 3333.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from contextvars import Token
from typing import TYPE_CHECKING, Any

from .. import deadline, request_id
from ..exchange.local_reply import LocalReply, payload_too_large
from ..inbound import Connection, InboundPolicy, InboundRequest
from ..routing import RequestHead
from ..telemetry.lookup import http_server_observer
from .connections import ADMITTED, wsgi_connection
from .drive import Driver
from .inbound import HasControl, Inbound
from .malformed import bad_request
from .measured import InboundRecord, take_metadata
from .traced import announced_size, end_observation, observe
from .uniform import make_uniform
from .wsgi_head import read_head, write_back
from .wsgi_start import check_start

if TYPE_CHECKING:
    from ..control import Control

__all__ = ["WsgiMiddleware"]

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
App = Callable[[Environ, StartResponse], Iterable[bytes]]


class WsgiMiddleware:
    """Has a WSGI application behind the mesh's inbound policy.

    Args:
        app: The application.
        mesh: Whose policy.
        port: That the server listens on, as configuration knows it; by default what each connection came to.
        address: That it listens on.

    Raises:
        UnsupportedFeatureError: The server that imports the application is known to tell nothing of its peers, and the
            port takes mutual TLS only.
        NoRouteError, TimeoutError: It is one, and there is no policy for the port.
    """

    def __init__(self, app: App, *, mesh: HasControl, port: int | None = None, address: str = "0.0.0.0") -> None:
        self.app = app
        self._mesh = mesh
        self._address = address
        self._port = port
        self._drivers: dict[int, Driver] = {}
        if port is not None:
            check_start(self._driver(port).inbound)

    def _driver(self, port: int) -> Driver:
        driver = self._drivers.get(port)
        if driver is None:
            driver = self._drivers.setdefault(port, Driver(Inbound(self._mesh._runtime, port, self._address)))
        return driver

    def _policy(self, connection: Connection) -> InboundPolicy | None:
        port = self._port if self._port is not None else connection.destination_port
        return self._driver(port).inbound.policy if port else None

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """See PEP 3333."""
        if environ.get(ADMITTED) or environ.get("asgi.scope", {}).get(ADMITTED):
            return self.app(environ, start_response)
        connection = wsgi_connection(environ, self._port)
        metrics, logs = self._mesh._runtime.metrics, self._mesh._runtime.access_logs
        told = take_metadata(environ) if metrics is not None else None
        request = InboundRequest(read_head(environ, connection), connection)
        call = _Call(request, self._policy(connection), self._mesh._runtime)
        if metrics is not None or logs is not None:
            record = call.record = InboundRecord(metrics, logs, call.request.head, connection, told)
            record.request = call.request
            record.reading(environ)
            start_response = record.starting(start_response)
        try:
            call.chunks = self._decide(environ, start_response, call)
        except BaseException as error:
            call.end(error)
            raise
        return call

    def _decide(self, environ: Environ, start_response: StartResponse, call: _Call) -> Iterable[bytes]:
        """Answer a request, or have the application do so."""
        request, body = call.request, _Body(environ)
        before = request.arrived
        port = self._port if self._port is not None else request.connection.destination_port
        policy = self._policy(request.connection)
        if call.record is not None:
            call.record.policy = policy
        protocol = environ.get("SERVER_PROTOCOL", "HTTP/1.1").removeprefix("HTTP/")
        reply = make_uniform(request, policy, port, protocol if protocol == "1.0" else protocol.removesuffix(".0"))
        if reply is None:
            driver = self._driver(port)
            reply = driver.decide(request, body.peek)
            if reply is None:
                driver.peers.hold(request)
        if reply is None and "HTTP_TRANSFER_ENCODING" in environ and not body.begins():
            reply = bad_request("the body does not begin with a chunk")
        if reply is None and request.max_body_bytes is not None:
            reply = _bound(request, request.max_body_bytes, body)
        if reply is None:
            call.pass_on()
            reply = write_back(environ, before, request)
        if reply is not None:
            call.status, call.flag, call.size = reply.status, reply.flag, str(len(reply.body))
            if call.record is not None:
                call.record.reply = reply
            return _answer(before, start_response, reply)
        call.begin(deadline.of_headers(request.head.header))
        return self.app(environ, call.watched(start_response))


class _Call:
    """One request, and the application's answer: it is over when its chunks are, or when the server closes them."""

    __slots__ = (
        "_control",
        "_limit",
        "_observation",
        "_token",
        "chunks",
        "flag",
        "record",
        "request",
        "size",
        "status",
    )

    def __init__(self, request: InboundRequest, policy: InboundPolicy | None, control: Control) -> None:
        self.request = request
        self._control = control
        self.size: str | None = None
        self.chunks: Iterable[bytes] = ()
        self.record: InboundRecord | None = None
        self.status: int | None = None
        self.flag = ""
        self._limit: AbstractContextManager[None] | None = None
        self._token: Token[bytes | None] | None = None
        observer = http_server_observer()
        self._observation = observe(observer, request, policy) if observer is not None else None
        if self._observation is not None:
            self._observation.enter()

    def pass_on(self) -> None:
        """The application's own spans are children of the request's."""
        if self._observation is not None:
            self.request.head = self._observation.passed_on(self.request.head)

    def begin(self, seconds: float | None) -> None:
        """The application begins; what is sent on the request's behalf has so long, and the request's id."""
        self._token = request_id.current.set(self.request.request_id)
        if seconds is not None:
            self._limit = deadline.limit(seconds)
            self._limit.__enter__()

    def watched(self, start_response: StartResponse) -> StartResponse:
        """Send what the application answers as the filters change it, and note what became of the request."""
        request = self.request
        changes_response = bool(request.response_changes)

        def answer(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            self.status, self.size = int(status[:3]), announced_size(headers)
            if changes_response:
                raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
                raw = request.changed_response(raw, self.status)
                headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in raw]
            return start_response(status, headers, exc_info) if exc_info else start_response(status, headers)

        return answer

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self.chunks if self.record is None else self.record.passing(self.chunks)
        except BaseException as error:
            self.end(error)
            raise

    def close(self) -> None:
        """See PEP 3333."""
        try:
            if hasattr(self.chunks, "close"):
                self.chunks.close()
        finally:
            self.end(None)

    def end(self, error: BaseException | None) -> None:
        """The request is over; told once."""
        token, self._token = self._token, None
        if token is not None:
            with suppress(ValueError):  # Some servers close an answer in another context than they asked for it.
                request_id.current.reset(token)
        limit, self._limit = self._limit, None
        if limit is not None:
            limit.__exit__(None, None, None)
        if self.request.on_done:
            self.request.done(self.status if error is None else None)
        observation, self._observation = self._observation, None
        if observation is not None:
            observation.exit()
            end_observation(observation, self._control, self.request, self.status, error, self.flag, "", self.size)
        if self.record is not None:
            self.record.end(error)


class _Body:
    """A request's body, of which policy may read the beginning before the application reads all."""

    def __init__(self, environ: Environ) -> None:
        self._environ = environ

    def begins(self) -> bool:
        """Whether the server takes what has come of a body for one: most look when the application reads it."""
        try:
            self.peek(0)
        except Exception:  # noqa: BLE001 - each server has its own for a body that is none.
            return False
        return True

    def peek(self, max_bytes: int) -> bytes:
        """At most so many bytes and one more."""
        stream = self._environ["wsgi.input"]
        declared = self._environ.get("CONTENT_LENGTH") or ""
        length: int | None = int(declared) if declared.isdecimal() else None
        ends_by_itself = self._environ.get("wsgi.input_terminated") or self._environ.get("HTTP_TRANSFER_ENCODING")
        if length is None and not ends_by_itself:
            return b""
        wanted = max_bytes + 1 if length is None else min(max_bytes + 1, length)
        read: bytes = stream.read(wanted) if wanted else b""
        left = None if length is None else length - len(read)
        self._environ["wsgi.input"] = io.BufferedReader(_Rejoined(read, stream, left))
        return read


class _Rejoined(io.RawIOBase):
    """What was read beforehand, and then the rest.

    Args:
        read: What was read.
        rest: Where the rest is.
        left: How long the rest is; None where it ends by itself. A server's stream may go on into the next request.
    """

    def __init__(self, read: bytes, rest: Any, left: int | None) -> None:
        self._read = io.BytesIO(read)
        self._rest = rest
        self._left = left

    def readable(self) -> bool:
        """See io.RawIOBase."""
        return True

    def readinto(self, buffer: Any) -> int:
        """See io.RawIOBase."""
        size = self._read.readinto(buffer)
        if size:
            return size
        wanted = len(buffer) if self._left is None else min(len(buffer), self._left)
        chunk = self._rest.read(wanted) if wanted else b""
        if self._left is not None:
            self._left -= len(chunk)
        buffer[: len(chunk)] = chunk
        return len(chunk)


def _bound(request: InboundRequest, max_bytes: int, body: _Body) -> LocalReply | None:
    """Refuse a body that is longer than the filter buffer takes."""
    declared = request.head.header("content-length")
    if declared is not None and declared.isdecimal():
        return payload_too_large(max_bytes) if int(declared) > max_bytes else None
    return payload_too_large(max_bytes) if len(body.peek(max_bytes)) > max_bytes else None


def _answer(head: RequestHead, start_response: StartResponse, reply: LocalReply) -> Iterable[bytes]:
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in reply.headers]
    headers.append(("content-length", str(len(reply.body))))
    start_response(f"{reply.status} {_REASONS.get(reply.status, 'Refused')}", headers)
    return [] if head.method == "HEAD" else [reply.body]


_REASONS = {
    200: "OK",
    301: "Moved Permanently",
    302: "Found",
    307: "Temporary Redirect",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    413: "Payload Too Large",
    426: "Upgrade Required",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    501: "Not Implemented",
    503: "Service Unavailable",
}
