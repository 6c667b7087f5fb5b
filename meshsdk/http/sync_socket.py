"""A socket that one thread uses, and that any thread may end meanwhile."""

from __future__ import annotations

import contextlib
import socket
import ssl

__all__ = ["GONE", "end_socket", "is_broken_end"]

# What reading and writing raise when another thread ends a socket: ssl looks at what it has twice, and what was there
# at its first look may be gone at the second.
GONE = (OSError, ValueError, AttributeError)


def is_broken_end(error: BaseException) -> bool:
    """Whether reading found that a connection of TLS had ended without close_notify."""
    # Older releases of Python do not give OpenSSL 3's error its class.
    reason = getattr(error, "reason", None)
    return isinstance(error, ssl.SSLEOFError) or reason == "UNEXPECTED_EOF_WHILE_READING"


def end_socket(sock: socket.socket) -> None:
    """Close a socket, and wake a thread that waits for it, which closing alone would not.

    ssl's own shutdown takes TLS off the socket first: whoever reads it would get what is still encrypted.
    """
    with contextlib.suppress(OSError):  # The peer may have been faster.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    sock.close()
