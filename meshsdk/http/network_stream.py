"""What `response.extensions["network_stream"]` tells of a connection, in the words of httpcore's."""

from __future__ import annotations

import select
import ssl
from typing import Any

__all__ = ["NetworkStream", "stream_of"]


class NetworkStream:
    """A connection as its caller may look at it; its bytes are the engine's, so it neither reads nor writes.

    Args:
        sock: Its socket, or what an event loop shows of that.
        secured: TLS over it, if any.
    """

    __slots__ = ("_secured", "_sock")

    def __init__(self, sock: Any, secured: ssl.SSLObject | ssl.SSLSocket | None) -> None:
        self._sock = sock
        self._secured = secured

    def get_extra_info(self, info: str) -> Any:
        """What is known of the connection; None for what is not.

        Args:
            info: `ssl_object`, `client_addr`, `server_addr`, `socket`, or `is_readable`.

        Raises:
            OSError: It is closed.
        """
        match info:
            case "ssl_object":
                return self._secured
            case "client_addr":
                return self._sock.getsockname()
            case "server_addr":
                return self._sock.getpeername()
            case "socket":
                return self._sock
            case "is_readable":
                poll = select.poll()
                poll.register(self._sock.fileno(), select.POLLIN)
                return bool(poll.poll(0))
        return None


def stream_of(transport: Any) -> NetworkStream:
    """That of an event loop's transport."""
    return NetworkStream(transport.get_extra_info("socket"), transport.get_extra_info("ssl_object"))
