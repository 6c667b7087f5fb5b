"""`mesh.serve`: an ASGI or WSGI application on a port, with the TLS and the policy that the mesh has for it.

uvicorn runs the application; connections are accepted here, and come in by the door.
"""

from __future__ import annotations

import asyncio
import errno
import inspect
import math
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

import uvicorn

from ..errors import UnsupportedFeatureError
from ..log_lines import logger_of
from .asgi import AsgiMiddleware
from .connections import TELLS_PEERS
from .door import Door
from .health_port import HealthPort
from .inbound import HasControl, Inbound
from .strict_http import DEFAULT_TIMEOUTS, Timeouts
from .told_at_start import is_open_to_everybody, what_stands_in_front
from .wsgi_threads import MAX_REQUEST_BYTES, in_threads

if TYPE_CHECKING:
    from ..inbound import InboundPolicy

__all__ = ["MeshServer", "make_server"]

logger = logger_of("meshsdk.server")


def make_server(
    app: Any, mesh: HasControl, port: int, *, host: str = "0.0.0.0", health: int | None = None, **options: Any
) -> MeshServer:
    """A server for an application.

    Args:
        app: ASGI, or WSGI, which then runs in threads.
        mesh: Whose policy.
        port: To listen on; 0 takes any, and then the policy is that of `policy_port`.
        host: Address to listen on.
        health: A plaintext port for probes; None is none.
        **options: uvicorn.Config's; those of `Timeouts`, in seconds; and max_request_bytes, the longest body that a
            WSGI application is given.

    Raises:
        UnsupportedFeatureError: `http` names a protocol class that reads requests in its own way; or an option is for
            several processes.
    """
    for name, usual in _OF_SUPERVISORS.items():
        if options.get(name, usual) not in (usual, None):
            raise UnsupportedFeatureError(
                f"{name}={options[name]!r}: mesh.serve runs the application in this process alone; {_INSTEAD}"
            )
    policy_port = options.pop("policy_port", port)
    timeouts = Timeouts(**{name: options.pop(name) for name in _TIMEOUTS if name in options})
    if options.setdefault("http", "httptools") not in ("auto", "httptools"):
        raise UnsupportedFeatureError(f"http={options['http']!r}: the mesh's own protocol reads requests")
    is_wsgi = not _is_asgi(app)
    longest = options.pop("max_request_bytes", MAX_REQUEST_BYTES)
    wrapped = AsgiMiddleware(
        in_threads(app, longest) if is_wsgi else app,
        mesh=mesh,
        port=policy_port,
        address=host,
        closes_mesh=False,
        drops_underscores=is_wsgi,
    )
    is_announced = options.pop("announce", False)
    options.setdefault("log_level", "warning")
    options.setdefault("lifespan", "off" if is_wsgi else "on")

    async def told(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            scope[TELLS_PEERS] = True
        await wrapped(scope, receive, send)

    config = uvicorn.Config(told, host=host, port=port, **options)
    inbound = Inbound(mesh._runtime, policy_port, host)
    return MeshServer(config, inbound, timeouts, health=health, announce=is_announced)


_TIMEOUTS = Timeouts.__struct_fields__
# uvicorn.run has a supervisor of processes carry these out, and a server by itself passes over them.
_OF_SUPERVISORS: dict[str, Any] = {"workers": 1, "reload": False}
_INSTEAD = "start several processes, or gunicorn with MeshMiddleware (docs/security.md)"


def _is_asgi(app: Any) -> bool:
    call = app if inspect.isfunction(app) or inspect.ismethod(app) else getattr(app, "__call__", app)  # noqa: B004
    return inspect.iscoroutinefunction(call)


class MeshServer(uvicorn.Server):
    """uvicorn's server, with connections that are accepted by the mesh's rules.

    Args:
        config: uvicorn's.
        inbound: The port's policy.
        timeouts: How long peers are waited for.
        health: A plaintext port for probes; None is none.
        announce: Say on standard error that it runs, where, and what stands in front of it.

    Attributes:
        port: That it listens on, once it does.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        inbound: Inbound,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        *,
        health: int | None = None,
        announce: bool = False,
    ) -> None:
        super().__init__(config)
        self._health = HealthPort(health, self._takes_requests) if health is not None else None
        self._is_announced = announce
        self._timeouts = timeouts
        self._inbound = inbound
        self._listener: socket.socket | None = None
        self._door: Door | None = None
        self.port = config.port

    def _takes_requests(self) -> bool:
        return self._listener is not None and self.started and not self.should_exit

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn.Server; probes are answered from before the application starts until it has ended."""
        if self._health is not None:
            self._health.start(asyncio.get_running_loop())
        try:
            await super().serve(sockets)
        finally:
            if self._health is not None:
                self._health.close()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn.Server: the application starts, and then connections are accepted, on one socket."""
        policy = await self._inbound.wait_ready_async()
        config = self.config
        door = self._door = Door(self._inbound, config, self.server_state, self.lifespan.state, self._timeouts)
        await door.prepare()
        await super().startup(sockets=[])
        if not self.started:
            return
        self.started = False  # Not before somebody listens.
        try:
            listener = sockets[0] if sockets else _listen(config.host, config.port)
        except OSError as error:
            # As uvicorn's own server ends.
            why = os.strerror(error.errno) if error.errno else error
            logger.error("%s:%d cannot be listened on: %s", config.host, config.port, why)
            await self.lifespan.shutdown()
            sys.exit(1)
        listener.setblocking(False)
        self._listener = listener
        self.port = listener.getsockname()[1]
        door.spawn(_accept(listener, door))
        self.started = True
        self._tell(policy)

    def _tell(self, policy: InboundPolicy) -> None:
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        text = f"meshsdk serves on {host}:{self.port} ({what_stands_in_front(policy)})"
        logger.info("%s", text)
        if self._is_announced:
            print(text, file=sys.stderr, flush=True)
        source = self._inbound.control.source
        if is_open_to_everybody(policy) and getattr(source, "has_authorization_policies", False):
            logger.warning(
                "no AuthorizationPolicy is for port %d, so everybody is let in, though the folder has some: do their"
                " namespace and selector fit this workload's?",
                self._inbound.port,
            )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn.Server: no new connections, then what is under way ends."""
        if self._door is not None:
            self._door.close()
        if self._listener is not None:
            self._listener.close()
        await super().shutdown(sockets=[])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048)


async def _accept(listener: socket.socket, door: Door) -> None:
    loop = asyncio.get_running_loop()
    told = -math.inf
    while True:
        try:
            connection, _ = await loop.sock_accept(listener)
        except OSError as error:
            # Out of file descriptors, or the peer is gone already: the next one may do better.
            has_room = error.errno in _OUT_OF_DESCRIPTORS and door.crowd.make_room(_ROOM_MADE)
            if loop.time() - told > 1:
                told = loop.time()
                doing = "those that were silent longest are ended" if has_room else "it waits"
                logger.warning("a connection cannot be accepted: %s; %s", error, doing)
            await asyncio.sleep(0.005 if has_room else 0.05)
            continue
        door.enter(connection)


_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_ROOM_MADE = 8
