"""uvicorn's protocol for HTTP/1.1, reading requests as Envoy reads them, and waiting for nobody without end.

Theory of operation. What an application is told of a request is what stood in its head and in nothing else:

- the target is the request line's, kept for policy as it came (`TARGET` in the scope); in absolute form its host counts
  and Host does not (RFC 9112 section 3.2.2);
- spaces around a value are no part of it (RFC 9110 section 5.5), and trailers are no headers;
- a head is bounded while it is read, and a request runs only when what came with its head could be read, too;
- after what cannot be read nothing more is read of a connection;
- of requests that are sent without waiting for answers, few are read before those before them are answered.

A peer is waited for as long as `Timeouts` say: for a head, for more of a body, for room to write. Meanwhile its
connection stands in the crowd, whose oldest go first when descriptors run short.

`install` has uvicorn's own class read the same way, for applications that uvicorn serves past the mesh's door.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sized
from typing import Any

import httptools
from msgspec import Struct
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from ..http.breaking_off import break_off
from ..resources.listener import NO_RULES, RequestRules
from .connections import TARGET
from .crowd import Crowd
from .request_target import origin_form

__all__ = ["DEFAULT_TIMEOUTS", "StrictHttp", "Timeouts", "install"]

# A piece of what was received that is read at once. What stands in one beyond the bounds is refused afterwards, and
# small ones hold few requests.
_PIECE_BYTES = 4 * 1024
_BODY_PIECE_BYTES = 64 * 1024
# What is kept of a connection whose requests wait for the answers to those before them.
_UNREAD_BYTES = 64 * 1024
# Colons, spaces and line ends, which Envoy does not count.
_SLACK_BYTES = 4 * 1024
# What ends an idle connection has left by then.
_FAREWELL_SECONDS = 0.1


class Timeouts(Struct, frozen=True):
    """How long a server waits for its peers, in seconds.

    Attributes:
        transport_socket_connect_timeout: For the first byte, and the end of the TLS handshake.
        request_headers_timeout: From a connection's, or a request's, beginning to the end of its head.
        stream_idle_timeout: For more of a body, and for a peer to take what it is sent; 0 is for ever.
    """

    transport_socket_connect_timeout: float = 10.0
    request_headers_timeout: float = 10.0
    stream_idle_timeout: float = 60.0

    def within(self, rules: RequestRules) -> Timeouts:
        """These, but for what the listener says."""
        head, idle = rules.request_headers_timeout_seconds, rules.stream_idle_timeout_seconds
        return Timeouts(
            self.transport_socket_connect_timeout,
            self.request_headers_timeout if head is None else head,
            self.stream_idle_timeout if idle is None else idle,
        )


DEFAULT_TIMEOUTS = Timeouts()


class _RefusedError(Exception):
    """Ends the reading of a connection; `StrictHttp._refusal` says why."""


class _Flow(FlowControl):
    """uvicorn's, but for an application that asks for more of a request when others wait behind it already.

    Args:
        transport: The connection's.
        pipeline: Those that wait.
    """

    def __init__(self, transport: Any, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        """See FlowControl."""
        if not self._pipeline:
            super().resume_reading()

    def listen(self) -> None:
        """Read, whoever waits."""
        super().resume_reading()


class StrictHttp(HttpToolsProtocol):
    """One connection. Whoever makes it may say more of it before it is made.

    Attributes:
        rules, timeouts: Of the port.
        crowd: Where connections wait.
    """

    rules: RequestRules = NO_RULES
    timeouts: Timeouts = DEFAULT_TIMEOUTS
    crowd: Crowd | None = None

    def connection_made(self, transport: Any) -> None:
        """See asyncio.Protocol."""
        self._is_in_body = False
        self._is_feeding = False
        self._is_deaf = False
        self._unfinished_bytes = 0
        self._refusal = 400
        self._held: list[tuple[Any, Any]] = []
        self._unread = b""
        self._running: Any = None
        self._timer: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._unsent_bytes = 0
        self._heard = 0.0
        self._bound = self.rules.max_head_bytes + _SLACK_BYTES
        super().connection_made(transport)
        self.flow = self._own_flow = _Flow(transport, self.pipeline)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._is_deaf = True
        self._end_timers()
        self._unread = b""
        super().connection_lost(exc)
        running = self._running
        if running is not None and not running.response_complete:
            # uvicorn tells the last request alone, which may still wait behind this one.
            running.disconnected = True
            running.message_event.set()

    def shutdown(self) -> None:
        """See HttpToolsProtocol: the server stops."""
        has_said_all = self._awaits_head() and not self.transport.get_write_buffer_size()
        super().shutdown()
        if has_said_all:
            # asyncio would wait 30 seconds for the end of the peer's side of TLS; a client that is idle reads nothing.
            self.loop.call_later(_FAREWELL_SECONDS, self._abort)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._is_deaf:
            return
        self._read(self._unread + data if self._unread else data)

    def _read(self, data: bytes) -> None:
        """Read what was received, until a request has to wait for the answers to those before it."""
        start = 0
        while start < len(data) and not self.pipeline and not self._is_deaf:
            end = start + (_BODY_PIECE_BYTES if self._is_in_body else _PIECE_BYTES)
            self._feed(data[start:end])
            start = end
        self._unread = data[start:]
        if not self._is_deaf:
            self._listen_while_others_wait()
        if self._held:
            held, self._held = self._held, []
            for cycle, app in held:
                self._start_asgi_task(cycle, app)
        if not self._is_deaf:
            self._wait()

    def _listen_while_others_wait(self) -> None:
        """Requests that wait are few, and still it is heard whether their client is there: by reading some more."""
        if self.pipeline and len(self._unread) < _UNREAD_BYTES:
            self._own_flow.listen()
        elif self.pipeline or len(self._unread) >= _UNREAD_BYTES:
            self.flow.pause_reading()

    def _read_on(self) -> None:
        if self._unread and not self.pipeline and not self._is_deaf:
            self._read(self._unread)
            self._resume_reading()

    def _resume_reading(self) -> None:
        if not (self._is_in_body and len(self.cycle.body) > HIGH_WATER_LIMIT):
            self.flow.resume_reading()

    def _feed(self, piece: bytes) -> None:
        self._unfinished_bytes += len(piece)
        self._is_feeding = True
        super().data_received(piece)
        self._is_feeding = False
        if self._unfinished_bytes > self._bound and not self._is_deaf:
            self._refusal = 431
            self.send_400_response("")

    # What the parser finds.

    def on_message_begin(self) -> None:
        """See httptools."""
        self._is_in_body = False
        # What it begins with may have come in one piece with the request before.
        self._unfinished_bytes = self._unfinished_bytes or 1
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools: a header, or a trailer."""
        if self._is_in_body:
            return
        if len(self.headers) >= self.rules.max_headers:
            self._refuse(431)
        super().on_header(name, value.strip(b" \t"))

    def on_headers_complete(self) -> None:
        """See httptools."""
        target, host = origin_form(self.url)
        if host is not None:
            self.headers[:] = [(b"host", host), *(one for one in self.headers if one[0] != b"host")]
        self.url = target
        self.scope[TARGET] = target.decode("latin-1")  # type: ignore[literal-required]
        is_upgrade = self.parser.should_upgrade()
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if is_upgrade and (is_answering or _has_body(self.headers)):
            # The parser takes what follows for another protocol, and not for the body; and that other protocol would
            # answer while the request before is answered, on the same connection.
            self._refuse(501)
        super().on_headers_complete()
        self._is_in_body = True
        self._unfinished_bytes = 0
        self._end_timer()
        if is_upgrade and not self._should_upgrade():
            self.cycle.keep_alive = False
            self._is_deaf = True
            self._end_timers()

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        self._unfinished_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """See httptools."""
        super().on_message_complete()
        self._is_in_body = False
        self._unfinished_bytes = 0
        self._end_timer()

    def handle_websocket_upgrade(self) -> None:
        """See HttpToolsProtocol."""
        self._end_timers()
        self._is_deaf = True
        super().handle_websocket_upgrade()

    def _refuse(self, status: int) -> None:
        self._refusal = status
        raise _RefusedError

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if self._is_feeding:
            self._held.append((cycle, app))
        else:
            self._running = cycle
            super()._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be read, where an answer can still be told from that to a request before it."""
        self._is_deaf = True
        self._end_timers()
        cycle = self.cycle
        if not self._is_in_body and cycle is not None and not cycle.response_complete:
            # The request before is whole, and still being answered.
            cycle.keep_alive = False
            return
        if cycle is not None and self._is_in_body:
            held = [one for one in self._held if one[0] is not cycle]
            was_held, self._held = len(held) != len(self._held), held
            if held or cycle.response_started or (not was_held and self.pipeline):
                # Others are being answered, or half an answer has left already.
                self._abort()
                return
            cycle.disconnected = True
            cycle.message_event.set()
        lines = [STATUS_LINE[self._refusal], *_default_headers(self), b"content-length: 0\r\nconnection: close\r\n\r\n"]
        self.transport.write(b"".join(lines))
        self.transport.close()

    # Waiting.

    def on_response_complete(self) -> None:
        """See HttpToolsProtocol."""
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self.pipeline or self._unread:
            self._listen_while_others_wait()
            self.loop.call_soon(self._read_on)
        else:
            self._resume_reading()
            if self._unfinished_bytes:
                self._wait()  # The next head has begun while this one was answered.
        if self.crowd is not None and self.cycle.response_complete:
            self.crowd.waits(self, self._abort)

    def _abort(self) -> None:
        break_off(self.transport)

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        super().pause_writing()
        if self._stall is None and self.timeouts.stream_idle_timeout:
            self._expect_taking()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        super().resume_writing()

    def _expect_taking(self) -> None:
        """The peer takes some of what it is sent in its time, or is not waited for."""
        self._unsent_bytes = self.transport.get_write_buffer_size()
        self._stall = self.loop.call_later(self.timeouts.stream_idle_timeout, self._is_stalled)

    def _is_stalled(self) -> None:
        self._stall = None
        if self.transport.get_write_buffer_size() < self._unsent_bytes:
            self._expect_taking()
        else:
            self._abort()

    def _awaits_head(self) -> bool:
        return not self._is_in_body and (self.cycle is None or self.cycle.response_complete)

    def _wait(self) -> None:
        """After something came, or the connection began: wait for what is missing."""
        awaits_head = self._awaits_head()
        if awaits_head or self._is_in_body:
            if self.crowd is not None:
                self.crowd.waits(self, self._abort)
            self._heard = self.loop.time()
            seconds = self.timeouts.request_headers_timeout if awaits_head else self.timeouts.stream_idle_timeout
            if self._timer is None and seconds:
                self._timer = self.loop.call_later(seconds, self._is_late)
        else:
            self._end_timer()
            if self.crowd is not None and (self.pipeline or self._unread):
                # Beyond what is read on, nobody would hear that the client has gone.
                self.crowd.waits(self, self._abort)
            elif self.crowd is not None:
                self.crowd.leaves(self)

    def _is_late(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self._is_in_body:
            left = self._heard + self.timeouts.stream_idle_timeout - self.loop.time()
            if self.flow.read_paused or self.cycle.waiting_for_100_continue:
                left = self.timeouts.stream_idle_timeout  # It is the application that is waited for.
            if left > 0:
                self._timer = self.loop.call_later(left, self._is_late)
                return
        elif not self._unfinished_bytes:
            self.transport.close()  # It has asked for nothing.
            return
        self._refusal = 408
        self.send_400_response("")

    def _end_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end_timers(self) -> None:
        self._end_timer()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        if self.crowd is not None:
            self.crowd.leaves(self)


def _has_body(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in headers)


def _default_headers(protocol: HttpToolsProtocol) -> Iterator[bytes]:
    for name, value in protocol.server_state.default_headers:
        yield b"%s: %s\r\n" % (name, value)


def install(rules_of_port: Callable[[int], RequestRules]) -> None:
    """Have each connection that uvicorn accepts by itself be read by `StrictHttp`, in this process; once is enough.

    uvicorn tells applications neither the target that came nor where the headers ended, so it cannot be done behind it.

    Args:
        rules_of_port: What a port takes.
    """
    uvicorns = HttpToolsProtocol.connection_made
    if getattr(uvicorns, "is_meshsdks", False):
        return

    def connection_made(self: HttpToolsProtocol, transport: Any) -> None:
        if type(self) is HttpToolsProtocol:
            self.__class__ = StrictHttp
            # A parser keeps the methods that it found when it was made.
            self.parser = httptools.HttpRequestParser(self)
            with contextlib.suppress(AttributeError):  # As uvicorn does.
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            address = transport.get_extra_info("sockname")
            port = address[1] if isinstance(address, tuple) else 0
            strict: Any = self
            strict.rules = rules_of_port(port)
            strict.timeouts = DEFAULT_TIMEOUTS.within(strict.rules)
            strict.connection_made(transport)
        else:
            uvicorns(self, transport)

    connection_made.is_meshsdks = True  # type: ignore[attr-defined]
    HttpToolsProtocol.connection_made = connection_made  # type: ignore[method-assign]
