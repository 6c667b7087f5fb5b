"""httpx on the engine: its transports, and the mesh's errors as httpx exceptions, so that `except` clauses work."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import httpx

from .. import errors
from .async_transport import AsyncTransport
from .errors import FromReply
from .library import Library
from .pool_rules import DEFAULT_LIMITS
from .runtime import HasRuntime
from .shapes import Limits
from .sync_transport import SyncTransport

__all__ = ["HTTPX", "AsyncMeshTransport", "MeshTransport"]


class HttpxRequestError(FromReply, errors.RequestError, httpx.TransportError):
    """A request error with no nearer kind."""


class HttpxNoRouteError(FromReply, errors.NoRouteError, httpx.ConnectError):
    """No route, as an httpx.ConnectError."""


class HttpxNoHealthyEndpointError(FromReply, errors.NoHealthyEndpointError, httpx.ConnectError):
    """No endpoint, as an httpx.ConnectError."""


class HttpxCircuitOpenError(FromReply, errors.CircuitOpenError, httpx.PoolTimeout):
    """A breaker is open, as an httpx.PoolTimeout: the pool has no room for the request."""


class HttpxRequestTimeoutError(FromReply, errors.RequestTimeoutError, httpx.ReadTimeout):
    """The route's timeout, as an httpx.ReadTimeout."""


class HttpxPeerIdentityError(FromReply, errors.PeerIdentityError, httpx.ConnectError):
    """A wrong peer, as an httpx.ConnectError."""


HTTPX = Library(
    httpx,
    {
        errors.NoRouteError: HttpxNoRouteError,
        errors.NoHealthyEndpointError: HttpxNoHealthyEndpointError,
        errors.CircuitOpenError: HttpxCircuitOpenError,
        errors.RequestTimeoutError: HttpxRequestTimeoutError,
        errors.PeerIdentityError: HttpxPeerIdentityError,
        errors.RequestError: HttpxRequestError,
    },
)


class MeshTransport(SyncTransport, httpx.BaseTransport):
    """An httpx transport that sends requests where the mesh's configuration says.

    Args:
        mesh: The mesh; it must outlive the transport.
        verify: As httpx.Client's, for https URLs to clusters that have no TLS settings of their own.
        http2: Offer HTTP/2 to those.
        limits: `max_connections` and `keepalive_expiry` (seconds) of this transport; unlimited by default, since a
            mesh's limits are the clusters' own.
        allow_missing_close_notify: Take a body that ends with its TLS connection for whole, though the peer did not
            say so (RFC 9112 section 9.8); some old servers never do.
        authority: Whose hosts requests go to, of the bootstrap's `authorities` (gRFC A47); None is the default one's.

    Raises:
        BootstrapError: There is no such authority.
    """

    def __init__(
        self,
        mesh: HasRuntime,
        *,
        verify: ssl.SSLContext | str | bool = True,
        http2: bool = False,
        limits: Limits = DEFAULT_LIMITS,
        allow_missing_close_notify: bool = False,
        authority: str | None = None,
    ) -> None:
        super().__init__(mesh, HTTPX, verify, http2, limits, allow_missing_close_notify, authority)

    if TYPE_CHECKING:

        def handle_request(self, request: httpx.Request, outside: Any = None) -> httpx.Response: ...


class AsyncMeshTransport(AsyncTransport, httpx.AsyncBaseTransport):
    """`MeshTransport` for asyncio, with the same arguments."""

    def __init__(
        self,
        mesh: HasRuntime,
        *,
        verify: ssl.SSLContext | str | bool = True,
        http2: bool = False,
        limits: Limits = DEFAULT_LIMITS,
        allow_missing_close_notify: bool = False,
        authority: str | None = None,
    ) -> None:
        super().__init__(mesh, HTTPX, verify, http2, limits, allow_missing_close_notify, authority)

    if TYPE_CHECKING:

        async def handle_async_request(self, request: httpx.Request, outside: Any = None) -> httpx.Response: ...
