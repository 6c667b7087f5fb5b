"""The mesh's way in for uvicorn's own command line:

    uvicorn app:app --port 8443 --http meshsdk.server.uvicorn_protocol:MeshProtocol

uvicorn accepts the connections; each is taken from it before a byte is read and comes in by the door, as with
`mesh.serve`: mutual TLS that rotates, the modes of PeerAuthentication, peers whom the application gets to know. Which
mesh and port these are, the `MeshMiddleware` of the application says. uvicorn's own TLS options stay unused.
"""

from __future__ import annotations

import asyncio
import os
import socket
from functools import partial
from typing import Any

from ..http.breaking_off import break_off
from ..log_lines import logger_of
from .connections import Teller
from .door import Door
from .inbound import Inbound, inbound_of_port

__all__ = ["MeshProtocol"]

logger = logger_of("meshsdk.server")

# How often it is tried to take a connection over while there are no descriptors; each time some others make room.
_TRIES = 100
_TRY_SECONDS = 0.01
_ROOM_MADE = 8

# uvicorn loads this module where it is told to use it, and then applications hear of their peers.
Teller.is_here = True


class MeshProtocol(asyncio.Protocol):
    """One connection that uvicorn has accepted.

    Args:
        config: uvicorn's, as are the others.
        server_state: Its connections and tasks.
        app_state: What the application's lifespan has left.
        **options: Of uvicorn's, unused.
    """

    def __init__(self, config: Any, server_state: Any, app_state: Any, **options: Any) -> None:
        self._config = config
        self._server_state = server_state
        self._app_state = app_state

    def connection_made(self, transport: Any) -> None:
        """See asyncio.Protocol."""
        if transport.get_extra_info("ssl_object") is not None:
            logger.error("TLS is the mesh's to speak: start uvicorn without its --ssl options")
            break_off(transport)
            return
        address = transport.get_extra_info("sockname")
        port = address[1] if isinstance(address, tuple) else 0
        inbound = inbound_of_port(port)
        if inbound is None:
            logger.error("port %d refuses connections: give the application a MeshMiddleware with port=%d", port, port)
            break_off(transport)
            return
        door = self._door(inbound)
        door.crowd.waits(transport, partial(break_off, transport))
        self._take_over(transport, door, _TRIES)

    def _take_over(self, transport: Any, door: Door, tries: int) -> None:
        """Have a connection come in by the door. Nothing was read yet, and what was not read stays with the socket."""
        if transport.is_closing():
            return  # It had to make room for others.
        try:
            connection: socket.socket | None = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        except OSError as error:
            # Out of file descriptors, of which this takes two for a moment.
            if tries and door.crowd.make_room(_ROOM_MADE):
                transport.pause_reading()
                asyncio.get_running_loop().call_later(_TRY_SECONDS, self._take_over, transport, door, tries - 1)
                return
            logger.warning("a connection cannot be taken over: %s", error)
            connection = None
        door.crowd.leaves(transport)
        break_off(transport)
        if connection is not None:
            door.enter(connection)

    def _door(self, inbound: Inbound) -> Door:
        # They last as long as uvicorn's server does.
        doors: dict[Inbound, Door] = vars(self._server_state).setdefault("mesh_doors", {})
        if inbound not in doors:
            doors[inbound] = Door(inbound, self._config, self._server_state, self._app_state)
        return doors[inbound]
