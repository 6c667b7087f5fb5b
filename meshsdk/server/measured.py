"""What metrics and access logs say of a request that came to a server of this process.

Sizes are those of the request and the response as HTTP/1.1 writes them, heads included.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping, Sequence
from itertools import chain
from typing import Any

from ..access_log import AccessLogs, Entry, RemembersSteady
from ..access_log.metric_tags import Seen
from ..exchange import LocalReply
from ..inbound import Connection, InboundPolicy, InboundRequest
from ..routing import RequestHead
from ..routing.timeouts import is_grpc_content
from ..telemetry.cells import Rows
from ..telemetry.header_sizes import REQUEST_LINE, STATUS_LINE, size_of_headers
from ..telemetry.istio_metrics import IstioMetrics, Outcome
from ..telemetry.label_overrides import Chosen
from ..telemetry.peer_metadata import METADATA_HEADER, METADATA_ID_HEADER
from ..telemetry.workload import Workload
from .counted_input import CountedInput
from .logged import entry_of, listener_of

__all__ = ["InboundRecord", "take_metadata"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
StartResponse = Callable[..., Any]

_STARTS = ("http.response.start", "websocket.http.response.start")
# Whoever says more must send it to have it counted.
_DIGITS_BELIEVED = 6

_BODIES = ("http.response.body", "websocket.http.response.body")

_ID_VARIABLE = "HTTP_X_ENVOY_PEER_METADATA_ID"
_METADATA_VARIABLE = "HTTP_X_ENVOY_PEER_METADATA"


def take_metadata(environ: MutableMapping[str, Any]) -> tuple[bytes, bytes]:
    """What a WSGI environ has of the peer's metadata, which are not for the application: the id, and the metadata."""
    peer_id, metadata = environ.pop(_ID_VARIABLE, ""), environ.pop(_METADATA_VARIABLE, "")
    return peer_id.encode("latin-1", "replace"), metadata.encode("latin-1", "replace")


class InboundRecord:
    """One request, from its head until its response is out.

    Args:
        metrics: Where it is counted; None where it is not.
        logs: Where it is told; None where it is not.
        head: As it came.
        connection: That it came by.
        told: The peer's metadata, where they are no headers of `head` any more.

    Attributes:
        head: Without what is not for the application.
        status: Of the response, once it has begun.
        reply: The answer in the application's place, if there is one.
        request, policy: What was decided on, and by.
    """

    __slots__ = (
        "_answer",
        "_connection",
        "_has_left",
        "_head_size",
        "_headers",
        "_is_over",
        "_is_whole",
        "_logs",
        "_metrics",
        "_peer",
        "_received",
        "_responded",
        "_sent",
        "_started",
        "head",
        "policy",
        "reply",
        "request",
        "status",
    )

    def __init__(
        self,
        metrics: IstioMetrics | None,
        logs: AccessLogs | None,
        head: RequestHead,
        connection: Connection,
        told: tuple[bytes, bytes] | None = None,
    ) -> None:
        self._started = time.monotonic()
        self._metrics = metrics
        self._logs = logs
        self._connection = connection
        self._received = self._sent = self._head_size = 0
        self._responded: float | None = None
        self._headers: Sequence[tuple[Any, Any]] | None = None
        self._is_whole = self._has_left = self._is_over = False
        self._answer: list[tuple[bytes, bytes]] = []
        self._peer: Workload | None = None
        self.status: int | None = None
        self.reply: LocalReply | None = None
        self.request: InboundRequest | None = None
        self.policy: InboundPolicy | None = None
        self.head = head
        if metrics is not None:
            self._head_size = size_of_headers(head.raw_headers) + len(head.method) + len(head.target) + REQUEST_LINE
            self.head = self._read_peer(metrics, head, told)

    def _read_peer(self, metrics: IstioMetrics, head: RequestHead, told: tuple[bytes, bytes] | None) -> RequestHead:
        """What the peer says of itself, and the request without it."""
        if told is None:
            known = head.by_name()
            told = known.get(METADATA_ID_HEADER, b""), known.get(METADATA_HEADER, b"")
            if told[0] or told[1]:
                taken = (METADATA_HEADER, METADATA_ID_HEADER)
                head = head.with_headers([header for header in head.raw_headers if header[0].lower() not in taken])
        peer_id, metadata = told
        # What is not remembered of strangers stands in no key either.
        if peer_id or metadata:
            self._peer = metrics.callers.find(self._connection.principal, peer_id, metadata)
            # Each of the two is answered where it came.
            own = zip((peer_id, metadata), metrics.own_headers, strict=True)
            self._answer = [header for came, header in own if came]
        return head

    def receiving(self, receive: Receive) -> Receive:
        """ASGI's receive, watched where the length of the body is not said before."""
        known = self.head.by_name()
        declared = known.get(b"content-length")
        if declared is not None and self.has_body(declared.decode("latin-1")):
            return receive
        if (
            declared is None
            and b"transfer-encoding" not in known
            and (self.head.method in ("GET", "HEAD") or self._connection.protocol.startswith("HTTP/1"))
        ):
            return receive

        async def watched() -> Message:
            message = await receive()
            kind = message["type"]
            if kind == "http.request":
                self._received += len(message.get("body", b""))
            elif kind == "http.disconnect":
                self._has_left = True
            return message

        return watched

    def sending(self, send: Send) -> Send:
        """ASGI's send, watched."""

        async def watched(message: Message) -> None:
            kind = message["type"]
            if kind == "http.response.pathsend":
                # The server reads a file, and tells nobody its length.
                await send(message)
                self._is_whole = True
                self.end(None)
                return
            if kind in _BODIES:
                self._sent += len(message.get("body", b""))
                await send(message)
                if not message.get("more_body", False):
                    # What an application does after its answer is not part of the request.
                    self._is_whole = True
                    self.end(None)
                return
            if kind in _STARTS:
                message = self._started_response(message)
            elif kind == "websocket.accept":
                self.status, self._is_whole = 101, True
            elif kind == "websocket.close" and self.status is None:
                # ASGI specification: the handshake is answered with 403.
                self.status, self._is_whole = 403, True
            await send(message)

        return watched

    def _started_response(self, message: Message) -> Message:
        headers = message.get("headers", ())
        if self._answer:
            headers = [*headers, *self._answer]
            message = {**message, "headers": headers}
        elif not isinstance(headers, (list, tuple)):
            headers = list(headers)
            message = {**message, "headers": headers}
        self.status = message["status"]
        self._responds(headers)
        return message

    def _responds(self, headers: Sequence[tuple[Any, Any]]) -> None:
        """The response begins."""
        self._headers = headers
        if self._logs is not None:
            self._responded = time.monotonic()

    def starting(self, start_response: StartResponse) -> StartResponse:
        """WSGI's start_response, watched."""

        def watched(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            told = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in self._answer)
            headers = [*headers, *told]
            self.status = int(status[:3])
            self._responds(headers)
            return start_response(status, headers, *more)

        return watched

    def passing(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """A WSGI application's answer, watched."""
        for chunk in chunks:
            self._sent += len(chunk)
            yield chunk
        self._is_whole = True

    def has_body(self, length: str) -> bool:
        """A request's body, by its Content-Length; False where it must be counted as it comes."""
        is_believed = length.isascii() and length.isdecimal() and len(length) < _DIGITS_BELIEVED
        if is_believed:
            self._received += int(length)
        return is_believed

    def reading(self, environ: MutableMapping[str, Any]) -> None:
        """Watch a WSGI request's body where its length is not said before, or not believed."""
        length = environ.get("CONTENT_LENGTH", "")
        if "wsgi.input" in environ and (length or "HTTP_TRANSFER_ENCODING" in environ) and not self.has_body(length):
            environ["wsgi.input"] = CountedInput(environ["wsgi.input"], self._add_received)

    def _add_received(self, count: int) -> None:
        self._received += count

    def end(self, error: BaseException | None) -> None:
        """It is over; told once."""
        if self._is_over:
            return
        self._is_over = True
        status, flags = self._ending(error)
        seconds = time.monotonic() - self._started
        metrics, logs = self._metrics, self._logs
        listener = None
        if (logs is not None and logs.follows) or (metrics is not None and metrics.overrides):
            listener = listener_of(self.policy, self._connection)
        overrides = metrics.overrides_of(listener.stats) if metrics is not None and listener is not None else None
        keeper: RemembersSteady | None = logs or (metrics if overrides is not None else None)
        entry = self._entry(keeper, status, flags, seconds) if keeper is not None else None
        if metrics is not None:
            chosen = None
            if overrides is not None and entry is not None:
                chosen = overrides.chosen(Seen(entry, self._peer))
            self._count(metrics, status, flags, int(seconds * 1000), chosen)
        if logs is not None and entry is not None:
            logs.write(entry, listener.access_logs if listener is not None else ())

    def _count(self, metrics: IstioMetrics, status: int, flags: str, milliseconds: int, chosen: Chosen | None) -> None:
        connection = self._connection
        content_type = self.head.by_name().get(b"content-type")
        is_grpc = content_type is not None and is_grpc_content(content_type.decode("latin-1"))
        principal = connection.principal
        key: tuple[object, ...] = (principal, connection.own_uri, self._peer, status, flags, is_grpc)
        if chosen is not None:
            key = (*key, chosen)
        row: Rows | None = metrics.known.get(key)
        if row is None:
            # Servers of others do not tell which certificate they have shown. To a peer that has proven itself it was
            # the process's own; to others it may be any, and an identity that nobody uses must not be waited for.
            own = connection.own_uri or (metrics.own_principal() if principal else "")
            outcome = Outcome("grpc" if is_grpc else "http", status, flags=flags)
            row = metrics.remember(key, metrics.received(self._peer, principal, own, outcome, chosen=chosen))
        sent = self._sent
        if self._headers is not None:
            sent += STATUS_LINE + 4 * len(self._headers) + sum(map(len, chain.from_iterable(self._headers)))
        metrics.cells.count_request(row, milliseconds, self._head_size + self._received, sent)
        if metrics.recent is not None:
            metrics.recent.received(self.head, principal, self._peer, (status, "", flags), milliseconds)

    def _entry(self, keeper: RemembersSteady, status: int, flags: str, seconds: float) -> Entry:
        request = self.request or InboundRequest(self.head, self._connection)
        responded = self._responded
        to_head = responded - self._started if responded is not None and self.reply is None else None
        sizes = (self._received, self._sent)
        timing = (time.time(), seconds, to_head)
        return entry_of(keeper, request, self._headers or (), self.reply, status, flags, sizes, timing)

    def _ending(self, error: BaseException | None) -> tuple[int, str]:
        """Status and flags; 0 where the caller has left before there was a response."""
        status = self.status
        if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            return status or 0, "DC"
        if not self._is_whole and (self._has_left or (error is None and status is not None)):
            # An application that leaves its answer as it is has been told that nobody waits for it.
            return status or 0, "DC"
        if status is None:
            # Whoever serves the application answers in its place.
            return 500, ""
        flag = self.reply.flag if self.reply is not None else ""
        return status, flag or ("" if error is None or self._is_whole else "UC")
