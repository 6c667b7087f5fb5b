"""HTTP/2 without I/O (RFC 9113), over h2.

One `Http2Session` serves one connection and any number of streams. A stream shows what has come of its response, in
the same words as `Http1Reader`: `head_done`, `chunks`, `complete`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from .errors import (
    LocalProtocolError,
    RefusedStreamError,
    RemoteProtocolError,
    TransportError,
    UnprocessedStreamError,
    WriteError,
)
from .http1 import MAX_HEAD_BYTES
from .request_rules import NO_FRAMING, Framing, check_target, without_length

__all__ = ["Http2Session", "Http2Stream"]

# Flow-control window of a stream and of the connection: large enough that a fast local peer never waits for us.
_STREAM_WINDOW_BYTES = 1 << 20
_CONNECTION_WINDOW_BYTES = 16 << 20

# So much of a body is sent before it is looked whether the peer takes it; each piece has the write timeout for itself.
PIECE_BYTES = 128 * 1024

# RFC 9113 section 8.2.2: these belong to a connection and must not be sent. Host becomes :authority.
_CONNECTION_HEADERS = frozenset(
    [b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"host"]
)

Headers = list[tuple[bytes, bytes]]


class Http2Stream:
    """One request and its response.

    Attributes:
        all_sent: The request went out to its end.
        complete: The response is complete.
        is_head: It answers HEAD, and so has no body whatever the peer sends.
    """

    __slots__ = (
        "all_sent",
        "buffered",
        "chunks",
        "complete",
        "error",
        "head_done",
        "headers",
        "id",
        "is_head",
        "status",
        "trailers",
    )

    def __init__(self, stream_id: int, *, is_head: bool, all_sent: bool) -> None:
        self.id = stream_id
        self.is_head = is_head
        self.all_sent = all_sent
        self.status = 0
        self.headers: Headers = []
        self.trailers: Headers = []
        self.chunks: list[bytes] = []
        self.buffered = 0
        self.head_done = False
        self.complete = False
        self.error: TransportError | None = None


class _Connection(h2.connection.H2Connection):
    """h2's, but for two things that it takes too seriously.

    A GOAWAY ends the connection for h2, which then takes the rest of the streams that the peer promised to finish for
    a breach of the protocol (RFC 9113 section 6.8). And what came before a frame that breaks the protocol is lost with
    it, though it answers.
    """

    def __init__(self, config: h2.config.H2Configuration) -> None:
        super().__init__(config)
        self.events: list[h2.events.Event] = []

    def _receive_goaway_frame(self, frame: Any) -> tuple[list[Any], list[h2.events.Event]]:
        event = h2.events.ConnectionTerminated()
        event.error_code, event.last_stream_id = frame.error_code, frame.last_stream_id
        return [], [event]

    def _receive_frame(self, frame: Any) -> list[h2.events.Event]:
        events = super()._receive_frame(frame)
        self.events += events
        return events

    def take_events(self) -> list[h2.events.Event]:
        """What has come since the last call."""
        events, self.events = self.events, []
        return events

    def refuse_long_frame(self) -> None:
        """A frame that is announced longer than allowed never needs to come whole (RFC 9113 section 4.2). h2 would wait
        for it: for 4 MB, where a peer that speaks HTTP/1.1 begins with `HTTP`.

        Raises:
            h2.exceptions.FrameTooLargeError
        """
        waiting = self.incoming_buffer._data
        if len(waiting) >= 3 and int.from_bytes(waiting[:3], "big") > self.max_inbound_frame_size:
            is_http1 = waiting[:5] == b"HTTP/"
            raise h2.exceptions.FrameTooLargeError("the peer speaks HTTP/1.1" if is_http1 else "a frame is too long")


class Http2Session:
    """The streams of one connection.

    Attributes:
        streams: Those that are open, by id.
        is_usable: New streams may be opened: no GOAWAY, no error.
        is_settled: The peer's settings have come, so that it is known how many streams it takes.
        touched: Streams of which something came since the list was emptied last.
        is_window_open: A window that all streams share was opened since this was unset last.
    """

    def __init__(self, max_streams: int | None = None) -> None:
        self._max_streams = max_streams
        config = h2.config.H2Configuration(client_side=True, header_encoding=None)
        self._connection = _Connection(config)
        self.streams: dict[int, Http2Stream] = {}
        self.is_usable = True
        self.is_settled = False
        self.touched: list[Http2Stream] = []
        self.is_window_open = False
        self.error: TransportError | None = None

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
        connection.decoder.max_header_list_size = MAX_HEAD_BYTES  # h2 takes it from changes of settings alone.
        connection.initiate_connection()
        connection.increment_flow_control_window(_CONNECTION_WINDOW_BYTES)
        return connection.data_to_send()

    @property
    def has_room(self) -> bool:
        """Whether the peer, and the cluster's max_concurrent_streams, allow one more stream. Before the peer has said
        how many it takes, one goes out: more might be refused."""
        if not self.is_settled:
            return self.is_usable and not self.streams
        limit = self._connection.remote_settings.max_concurrent_streams
        if self._max_streams is not None:
            limit = min(limit, self._max_streams)
        return self.is_usable and len(self.streams) < limit

    def open(
        self,
        method: str,
        scheme: str,
        target: str,
        headers: Sequence[tuple[bytes, bytes]],
        *,
        end: bool,
        framing: Framing = NO_FRAMING,
    ) -> tuple[Http2Stream, bytes]:
        """Begin a stream; `framing` is that of the headers (`request_rules`).

        Returns:
            The stream, and the bytes to send.

        Raises:
            LocalProtocolError: The request is not legal HTTP/2.
        """
        check_target(target)
        _refuse_illegal_characters(headers)
        if framing.drops_length:
            headers = without_length(headers)
        try:
            stream_id = self._connection.get_next_available_stream_id()
            self._connection.send_headers(stream_id, _to_http2(method, scheme, target, headers), end_stream=end)
        except (h2.exceptions.ProtocolError, UnicodeError) as error:
            raise LocalProtocolError(str(error)) from error
        stream = self.streams[stream_id] = Http2Stream(stream_id, is_head=method == "HEAD", all_sent=end)
        return stream, self._connection.data_to_send()

    def send(self, stream: Http2Stream, data: bytes | memoryview, *, end: bool) -> tuple[int, bytes]:
        """Send as much of `data` as the peer's window takes.

        Returns:
            How much was taken, and the bytes to send. The end goes out only with the last of the data.
        """
        connection = self._connection
        taken, length = 0, len(data)
        try:
            while taken < length:
                room = min(
                    connection.local_flow_control_window(stream.id), connection.max_outbound_frame_size, length - taken
                )
                if room <= 0:
                    return taken, connection.data_to_send()
                connection.send_data(stream.id, data[taken : taken + room])
                taken += room
            if end:
                connection.end_stream(stream.id)
                stream.all_sent = True
        except h2.exceptions.ProtocolError as error:
            raise WriteError(f"sending the request failed: {error}") from error
        return taken, connection.data_to_send()

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the peer; returns bytes to send. Errors end in `error` and in the streams'."""
        connection = self._connection
        failure: Exception | None = None
        try:
            connection.receive_data(data)
            connection.refuse_long_frame()
        except h2.exceptions.ProtocolError as error:
            failure = error
        try:
            for event in connection.take_events():
                self._take(event)
        except (h2.exceptions.ProtocolError, ValueError, StopIteration) as error:
            failure = error
        if failure is not None:
            self.fail(RemoteProtocolError(f"malformed HTTP/2: {str(failure) or repr(failure)}"))
        return connection.data_to_send()

    def ping(self) -> bytes:
        """Bytes that a peer which is alive answers (RFC 9113 section 6.7)."""
        if self.error is None:
            self._connection.ping(b"meshsdk?")
        return self._connection.data_to_send()

    def take(self, stream: Http2Stream) -> tuple[list[bytes], bytes]:
        """Body that has come since the last call, and the bytes that open the peer's window again."""
        chunks, size = stream.chunks, stream.buffered
        stream.chunks, stream.buffered = [], 0
        if size and self.error is None:
            try:
                self._connection.acknowledge_received_data(size, stream.id)
            except h2.exceptions.ProtocolError:
                return chunks, b""  # The stream or the connection is over; nobody waits for the window.
            return chunks, self._connection.data_to_send()
        return chunks, b""

    def close(self, stream: Http2Stream) -> bytes:
        """Let go of a stream; one that is not complete, in either direction, is cancelled. Returns bytes to send."""
        self.streams.pop(stream.id, None)
        _, acknowledgement = self.take(stream)
        is_over = stream.complete and stream.all_sent
        if not is_over and stream.error is None and self.error is None:
            try:
                self._connection.reset_stream(stream.id, h2.errors.ErrorCodes.CANCEL)
            except h2.exceptions.ProtocolError:
                return acknowledgement
        return acknowledgement + self._connection.data_to_send()

    def fail(self, error: TransportError) -> None:
        """The connection is over: every open stream fails."""
        self.is_usable = False
        if self.error is None:
            self.error = error
        for stream in self.streams.values():
            if stream.is_head and stream.head_done:
                stream.complete = True  # What it answers was asked and is answered; the rest is no part of it.
            if not stream.complete and stream.error is None:
                stream.error = error

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            self._take_goaway(event)
            return
        if isinstance(event, h2.events.RemoteSettingsChanged):
            self.is_settled = self.is_window_open = True
            return
        if isinstance(event, h2.events.WindowUpdated) and not event.stream_id:
            self.is_window_open = True
            return
        stream = self.streams.get(getattr(event, "stream_id", None) or 0)
        if stream is None:
            if isinstance(event, h2.events.DataReceived):
                # Data of a stream that was let go still counts against the connection's window.
                self._connection.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
            return
        self.touched.append(stream)
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
                # Into the list that the response has had from its beginning.
                stream.trailers += [(bytes(name), bytes(value)) for name, value in event.headers or ()]
            case h2.events.StreamEnded():
                stream.complete = True
            case h2.events.StreamReset():
                self._take_reset(stream, event)

    def _take_reset(self, stream: Http2Stream, event: h2.events.StreamReset) -> None:
        if event.error_code == h2.errors.ErrorCodes.REFUSED_STREAM:
            limit = self._connection.remote_settings.max_concurrent_streams
            if len(self.streams) > limit:
                # It was sent before the peer said how many streams it takes.
                stream.error = UnprocessedStreamError("the peer takes fewer streams at once")
            else:
                stream.error = RefusedStreamError("the peer refused the stream")
        elif stream.is_head and stream.head_done:
            stream.complete = True
        elif not stream.complete:
            stream.error = RemoteProtocolError(f"the peer reset the stream with {event.error_code!r}")

    def _take_goaway(self, event: h2.events.ConnectionTerminated) -> None:
        """GOAWAY: streams above the last one were not processed; the others go on to their ends (RFC 9113 section 6.8).
        It may come again, with a lower last stream."""
        self.is_usable = False
        last = event.last_stream_id or 0
        for stream in self.streams.values():
            if stream.id > last and stream.error is None and not stream.head_done:
                stream.error = UnprocessedStreamError("the peer went away before it took the request")
                self.touched.append(stream)


def _refuse_illegal_characters(headers: Sequence[tuple[bytes, bytes]]) -> None:
    """RFC 9113 section 8.2.1: no CR, LF or NUL. h2 lets them through; a proxy to HTTP/1.1 would make lines of them."""
    text = b"".join([part for header in headers for part in header])
    if b"\r" in text or b"\n" in text or b"\0" in text:
        raise LocalProtocolError("illegal character in the request's headers")


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
