"""A port of the loopback that stays a test's own while nobody listens on it."""

from __future__ import annotations

import socket
import sys

__all__ = ["HOST", "HeldPort"]

HOST = "127.0.0.1"


class HeldPort:
    """A port that the system gives to nobody else before `close`.

    On Linux a socket that is bound, and does not listen, keeps it, and others of this process may listen beside it
    (SO_REUSEADDR, socket(7)). Elsewhere the port is free while nobody listens.
    """

    def __init__(self) -> None:
        self._holder: socket.socket | None = _bound(0)
        self.port: int = self._holder.getsockname()[1]
        if sys.platform != "linux":
            self.close()

    def listen(self) -> socket.socket:
        """A socket that listens on it."""
        listener = _bound(self.port)
        listener.listen(2048)
        return listener

    def close(self) -> None:
        """Let go of it."""
        holder, self._holder = self._holder, None
        if holder is not None:
            holder.close()


def _bound(port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((HOST, port))
    return made
