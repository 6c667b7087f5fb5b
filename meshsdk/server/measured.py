"""What Istio's metrics say of a request that came to a server of this process.

Sizes are those of the request and the response as HTTP/1.1 writes them, heads included.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from itertools import chain
from typing import Any

from ..inbound import Connection
from ..routing import RequestHead
from ..routing.timeouts import is_grpc_content
from ..telemetry.header_sizes import REQUEST_LINE, STATUS_LINE, size_of_headers
from ..telemetry.istio_metrics import IstioMetrics, Outcome
from ..telemetry.peer_metadata import METADATA_HEADER, METADATA_ID_HEADER

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
        metrics: Where it is counted.
        head: As it came.
        connection: That it came by.
        told: The peer's metadata, where they are no headers of `head` any more.

    Attributes:
        head: Without what is not for the application.
        status: Of the response, once it has begun.
        flag: Of an answer in the application's place.
    """

    __slots__ = (
        "_answer",
        "_connection",
        "_has_left",
        "_is_over",
        "_is_whole",
        "_metrics",
        "_peer",
        "_received",
        "_sent",
        "_started",
        "flag",
        "head",
        "status",
    )

    def __init__(
        self,
        metrics: IstioMetrics,
        head: RequestHead,
        connection: Connection,
        told: tuple[bytes, bytes] | None = None,
    ) -> None:
        self._started = time.monotonic()
        self._metrics = metrics
        self._connection = connection
        self._received = size_of_headers(head.raw_headers) + len(head.method) + len(head.target) + REQUEST_LINE
        self._sent = 0
        self._is_whole = self._has_left = self._is_over = False
        self._answer: list[tuple[bytes, bytes]] = []
        self.status: int | None = None
        self.flag = ""
        if told is None:
            known = head.by_name()
            told = known.get(METADATA_ID_HEADER, b""), known.get(METADATA_HEADER, b"")
            if told[0] or told[1]:
                taken = (METADATA_HEADER, METADATA_ID_HEADER)
                head = head.with_headers([header for header in head.raw_headers if header[0].lower() not in taken])
        self.head = head
        peer_id, metadata = told
        # What is not remembered of strangers stands in no key either.
        is_told = bool(peer_id or metadata)
        self._peer = metrics.callers.find(connection.principal, peer_id, metadata) if is_told else None
        if is_told:
            # Each of the two is answered where it came.
            own = zip((peer_id, metadata), metrics.own_headers, strict=True)
            self._answer = [header for came, header in own if came]

    def receiving(self, receive: Receive) -> Receive:
        """ASGI's receive, watched where the length of the body is not said before."""
        known = self.head.by_name()
        declared = known.get(b"content-length")
        if declared is not None and len(declared) < _DIGITS_BELIEVED:
            self.has_body(declared.decode("latin-1"))
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
        self._sent += STATUS_LINE + size_of_headers(headers)
        return message

    def starting(self, start_response: StartResponse) -> StartResponse:
        """WSGI's start_response, watched."""

        def watched(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            told = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in self._answer)
            headers = [*headers, *told]
            self.status = int(status[:3])
            self._sent = STATUS_LINE + 4 * len(headers) + sum(map(len, chain.from_iterable(headers)))
            return start_response(status, headers, *more)

        return watched

    def passing(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """A WSGI application's answer, watched."""
        for chunk in chunks:
            self._sent += len(chunk)
            yield chunk
        self._is_whole = True

    def has_body(self, length: str | None) -> None:
        """A request's body, by its Content-Length."""
        if length and length.isdecimal() and len(length) < 16:
            self._received += int(length)

    def end(self, error: BaseException | None) -> None:
        """It is over; told once."""
        if self._is_over:
            return
        self._is_over = True
        status, flags = self._ending(error)
        connection, metrics = self._connection, self._metrics
        content_type = self.head.by_name().get(b"content-type")
        is_grpc = content_type is not None and is_grpc_content(content_type.decode("latin-1"))
        principal = connection.principal
        key = (principal, connection.own_uri, self._peer, status, flags, is_grpc)
        row: int | None = metrics.known.get(key)
        if row is None:
            # Servers of others do not tell which certificate they have shown. To a peer that has proven itself it was
            # the process's own; to others it may be any, and an identity that nobody uses must not be waited for.
            own = connection.own_uri or (metrics.own_principal() if principal else "")
            outcome = Outcome("grpc" if is_grpc else "http", status, flags=flags)
            row = metrics.remember(key, metrics.received(self._peer, principal, own, outcome))
        milliseconds = int((time.monotonic() - self._started) * 1000)
        metrics.cells.count_request(row, milliseconds, self._received, self._sent)
        if metrics.recent is not None:
            metrics.recent.received(self.head, principal, self._peer, (status, "", flags), milliseconds)

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
        return status, self.flag or ("" if error is None or self._is_whole else "UC")
