"""HTTP/2 without I/O (RFC 9113), over h2.

One `Http2Session` serves one connection and any number of streams. A stream shows what has come of its response, in
the same words as `Http1Reader`: `head_done`, `chunks`, `complete`.
"""

from __future__ import annotations

from collections.abc import Sequence

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import httpx

from .errors import RefusedStreamError
from .http1 import MAX_HEAD_BYTES

__all__ = ["Http2Session", "Http2Stream"]

# Flow-control window of a stream and of the connection: large enough that a fast local peer never waits for us.
_STREAM_WINDOW_BYTES = 1 << 20
_CONNECTION_WINDOW_BYTES = 16 << 20

# RFC 9113 section 8.2.2: these belong to a connection and must not be sent. Host becomes :authority.
_CONNECTION_HEADERS = frozenset(
    [b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"host"]
)

Headers = list[tuple[bytes, bytes]]


class Http2Stream:
    """One request and its response."""

    __slots__ = ("buffered", "chunks", "complete", "error", "head_done", "headers", "id", "status", "trailers")

    def __init__(self, stream_id: int) -> None:
        self.id = stream_id
        self.status = 0
        self.headers: Headers = []
        self.trailers: Headers = []
        self.chunks: list[bytes] = []
        self.buffered = 0
        self.head_done = False
        self.complete = False
        self.error: httpx.TransportError | None = None


class Http2Session:
    """The streams of one connection.

    Attributes:
        streams: Those that are open, by id.
        is_usable: New streams may be opened: no GOAWAY, no error.
    """

    def __init__(self, max_streams: int | None = None) -> None:
        self._max_streams = max_streams
        config = h2.config.H2Configuration(client_side=True, header_encoding=None)
        self._connection = h2.connection.H2Connection(config)
        self.streams: dict[int, Http2Stream] = {}
        self.is_usable = True
        self.error: httpx.TransportError | None = None

    def start(self) -> bytes:
        """The connection preface."""
        connection = self._connection
        connection.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                h2.settings.SettingCodes.ENABLE_PUSH: 0,
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: _STREAM_WINDOW_BYTES,
                h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEAD_BYTES,
            },
        )
        connection.initiate_connection()
        connection.increment_flow_control_window(_CONNECTION_WINDOW_BYTES)
        return connection.data_to_send()

    @property
    def has_room(self) -> bool:
        """Whether the peer, and the cluster's max_concurrent_streams, allow one more stream."""
        limit = self._connection.remote_settings.max_concurrent_streams
        if self._max_streams is not None:
            limit = min(limit, self._max_streams)
        return self.is_usable and len(self.streams) < limit

    def open(
        self, method: str, scheme: str, target: str, headers: Sequence[tuple[bytes, bytes]], *, end: bool
    ) -> tuple[Http2Stream, bytes]:
        """Begin a stream.

        Returns:
            The stream, and the bytes to send.

        Raises:
            httpx.LocalProtocolError: The request is not legal HTTP/2.
        """
        _refuse_illegal_characters(target, headers)
        try:
            stream_id = self._connection.get_next_available_stream_id()
            self._connection.send_headers(stream_id, _to_http2(method, scheme, target, headers), end_stream=end)
        except (h2.exceptions.ProtocolError, UnicodeError) as error:
            raise httpx.LocalProtocolError(str(error)) from error
        stream = self.streams[stream_id] = Http2Stream(stream_id)
        return stream, self._connection.data_to_send()

    def send(self, stream: Http2Stream, data: bytes, *, end: bool) -> tuple[int, bytes]:
        """Send as much of `data` as the peer's window takes.

        Returns:
            How much was taken, and the bytes to send. The end goes out only with the last of the data.
        """
        connection = self._connection
        taken = 0
        while taken < len(data):
            room = min(
                connection.local_flow_control_window(stream.id), connection.max_outbound_frame_size, len(data) - taken
            )
            if room <= 0:
                return taken, connection.data_to_send()
            connection.send_data(stream.id, data[taken : taken + room])
            taken += room
        if end:
            connection.end_stream(stream.id)
        return taken, connection.data_to_send()

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the peer; returns bytes to send. Errors end in `error` and in the streams'."""
        try:
            events = self._connection.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            self.fail(httpx.RemoteProtocolError(f"malformed HTTP/2: {error}"))
            return self._connection.data_to_send()
        try:
            for event in events:
                self._take(event)
        except (h2.exceptions.ProtocolError, ValueError, StopIteration) as error:
            self.fail(httpx.RemoteProtocolError(f"malformed HTTP/2: {error!r}"))
        return self._connection.data_to_send()

    def take(self, stream: Http2Stream) -> tuple[list[bytes], bytes]:
        """Body that has come since the last call, and the bytes that open the peer's window again."""
        chunks, size = stream.chunks, stream.buffered
        stream.chunks, stream.buffered = [], 0
        if size and self.is_usable:
            try:
                self._connection.acknowledge_received_data(size, stream.id)
            except h2.exceptions.ProtocolError:
                return chunks, b""  # The stream or the connection is over; nobody waits for the window.
            return chunks, self._connection.data_to_send()
        return chunks, b""

    def close(self, stream: Http2Stream) -> bytes:
        """Let go of a stream; one that is not complete is cancelled. Returns bytes to send."""
        self.streams.pop(stream.id, None)
        _, acknowledgement = self.take(stream)
        if not stream.complete and stream.error is None and self.error is None:
            try:
                self._connection.reset_stream(stream.id, h2.errors.ErrorCodes.CANCEL)
            except h2.exceptions.ProtocolError:
                return acknowledgement
        return acknowledgement + self._connection.data_to_send()

    def fail(self, error: httpx.TransportError) -> None:
        """The connection is over: every open stream fails."""
        self.is_usable = False
        if self.error is None:
            self.error = error
        for stream in self.streams.values():
            if not stream.complete and stream.error is None:
                stream.error = error

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            self._take_goaway(event)
            return
        stream = self.streams.get(getattr(event, "stream_id", None) or 0)
        if stream is None:
            if isinstance(event, h2.events.DataReceived):
                # Data of a stream that was let go still counts against the connection's window.
                self._connection.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
            return
        match event:
            case h2.events.ResponseReceived():
                headers = [(bytes(name), bytes(value)) for name, value in event.headers or ()]
                stream.status = int(next(value for name, value in headers if name == b":status"))
                stream.headers = [header for header in headers if not header[0].startswith(b":")]
                stream.head_done = True
            case h2.events.DataReceived():
                data = bytes(event.data or b"")
                padding = (event.flow_controlled_length or 0) - len(data)
                if padding:
                    self._connection.acknowledge_received_data(padding, stream.id)
                stream.chunks.append(data)
                stream.buffered += len(data)
            case h2.events.TrailersReceived():
                stream.trailers = [(bytes(name), bytes(value)) for name, value in event.headers or ()]
            case h2.events.StreamEnded():
                stream.complete = True
            case h2.events.StreamReset():
                self._take_reset(stream, event)

    def _take_reset(self, stream: Http2Stream, event: h2.events.StreamReset) -> None:
        if event.error_code == h2.errors.ErrorCodes.REFUSED_STREAM:
            stream.error = RefusedStreamError("the peer refused the stream")
        elif not stream.complete:
            stream.error = httpx.RemoteProtocolError(f"the peer reset the stream with {event.error_code!r}")

    def _take_goaway(self, event: h2.events.ConnectionTerminated) -> None:
        """GOAWAY: streams above the last one were not processed (RFC 9113 section 6.8)."""
        self.is_usable = False
        last = event.last_stream_id or 0
        for stream in self.streams.values():
            if stream.id > last and stream.error is None:
                stream.error = RefusedStreamError("the peer went away before it took the request")


def _refuse_illegal_characters(target: str, headers: Sequence[tuple[bytes, bytes]]) -> None:
    """RFC 9113 section 8.2.1: no CR, LF or NUL. h2 lets them through; a proxy to HTTP/1.1 would make lines of them."""
    text = b"".join([target.encode("utf-8", "replace"), *(part for header in headers for part in header)])
    if b"\r" in text or b"\n" in text or b"\0" in text or " " in target:
        raise httpx.LocalProtocolError("illegal character in the request's target or headers")


def _to_http2(method: str, scheme: str, target: str, headers: Sequence[tuple[bytes, bytes]]) -> Headers:
    authority = b""
    result: Headers = []
    for name, value in headers:
        lower = name.lower()
        if lower == b"host":
            authority = value
        if lower in _CONNECTION_HEADERS or (lower == b"te" and value.strip().lower() != b"trailers"):
            continue
        result.append((lower, value))
    return [
        (b":method", method.encode("ascii")),
        (b":scheme", scheme.encode("ascii")),
        (b":authority", authority),
        (b":path", target.encode("ascii")),
        *result,
    ]
