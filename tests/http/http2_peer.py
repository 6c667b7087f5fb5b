"""An HTTP/2 server's side of one connection, for scripts that misbehave."""

from __future__ import annotations

import contextlib
import socket
from typing import Any, TypeVar

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

__all__ = ["Http2Peer", "frame"]

E = TypeVar("E", bound=h2.events.Event)
OK = [(":status", "200")]


def frame(kind: int, flags: int, stream: int, payload: bytes, length: int | None = None) -> bytes:
    """A frame, whatever it says of itself (RFC 9113 section 4.1)."""
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


class Http2Peer:
    """Speaks HTTP/2 over a socket.

    Args:
        connection: The socket.
        is_held: Says nothing yet, not even its settings.
        **settings: By name, as in h2.settings.SettingCodes.

    Attributes:
        h2: Does the protocol; what it has to say goes out with `flush`.
    """

    def __init__(self, connection: socket.socket, *, is_held: bool = False, **settings: int) -> None:
        self._socket = connection
        self._events: list[h2.events.Event] = []
        self._answered: set[int] = set()
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8", validate_outbound_headers=False)
        self.h2 = h2.connection.H2Connection(config)
        codes = {h2.settings.SettingCodes[name.upper()]: value for name, value in settings.items()}
        self.h2.local_settings = h2.settings.Settings(client=False, initial_values=codes)
        self.h2.initiate_connection()
        self.is_held = is_held
        self.flush()

    def flush(self) -> None:
        """Send what h2 has to say, unless it is held."""
        if self.is_held:
            return
        self._socket.sendall(self.h2.data_to_send())

    def read(self) -> None:
        """Read once.

        Raises:
            OSError: The peer has closed.
        """
        data = self._socket.recv(1 << 20)
        if not data:
            raise ConnectionError("closed")
        self._events += self.h2.receive_data(data)

    def wait_for(self, kind: type[E]) -> E:
        """The next event of a kind; others before it are forgotten, and data is acknowledged."""
        while True:
            while self._events:
                event = self._events.pop(0)
                if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id or 0)
                if isinstance(event, kind):
                    return event
            self.flush()
            self.read()

    def request(self) -> int:
        """The id of the next request, whose head has come."""
        return self.wait_for(h2.events.RequestReceived).stream_id or 0

    def answer(self, stream: int, body: bytes = b"ok", headers: Any = OK) -> None:
        """A whole answer."""
        self._answered.add(stream)
        self.h2.send_headers(stream, headers)
        self.h2.send_data(stream, body, end_stream=True)
        self.flush()

    def serve(self, body: bytes = b"own") -> None:
        """Answer every request to its end, as a good server does, until the peer closes."""
        while True:
            stream = self.wait_for(h2.events.StreamEnded).stream_id or 0
            if stream not in self._answered:
                with contextlib.suppress(h2.exceptions.ProtocolError):  # It was cancelled.
                    self.answer(stream, body)
