"""A connection whose answers leave in one piece: the head waits for the beginning of the body.

ASGI asks for it ("the protocol server must not start sending the response to the client until it has received at least
one Response Body event", HTTP specification, Response Start), and over TLS it is one record and one system call instead
of two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..inbound import Connection

__all__ = ["HeldTransport"]


class HeldTransport:
    """An asyncio transport that can hold back for a moment what is written to it.

    Args:
        transport: The connection's.

    Attributes:
        connection: What is known of it; None where nobody has looked yet.
    """

    __slots__ = ("_held", "connection", "transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.connection: Connection | None = None
        self._held: list[bytes] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def hold(self) -> None:
        """What is written from here on waits for `release`."""
        if self._held is None:
            self._held = []

    def release(self) -> None:
        """Send what waits."""
        held, self._held = self._held, None
        if held:
            self.transport.write(b"".join(held))

    def write(self, data: bytes) -> None:
        """See asyncio.WriteTransport."""
        if self._held is None:
            self.transport.write(data)
        else:
            self._held.append(data)

    def writelines(self, list_of_data: Iterable[bytes]) -> None:
        """See asyncio.WriteTransport."""
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        """See asyncio.BaseTransport."""
        self.release()
        self.transport.close()
