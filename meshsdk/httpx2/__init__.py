"""httpx2 on the mesh (pydantic/httpx2): transports, and the mesh's errors as httpx2 exceptions.

    import httpx2
    from meshsdk.httpx2 import MeshTransport

    client = httpx2.Client(transport=MeshTransport(mesh))  # or mesh.client(library="httpx2")

Enters and leaves what `meshsdk.http` says, in httpx2's classes. Needs `pip install 'meshsdk[httpx2]'`.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import httpx2

from .. import errors
from ..http.async_transport import AsyncTransport
from ..http.errors import FromReply
from ..http.library import Library
from ..http.pool_rules import DEFAULT_LIMITS
from ..http.runtime import HasRuntime
from ..http.shapes import Limits
from ..http.sync_transport import SyncTransport

__all__ = ["HTTPX2", "AsyncMeshTransport", "MeshTransport"]


class Httpx2RequestError(FromReply, errors.RequestError, httpx2.TransportError):
    """A request error with no nearer kind."""


class Httpx2NoRouteError(FromReply, errors.NoRouteError, httpx2.ConnectError):
    """No route, as an httpx2.ConnectError."""


class Httpx2NoHealthyEndpointError(FromReply, errors.NoHealthyEndpointError, httpx2.ConnectError):
    """No endpoint, as an httpx2.ConnectError."""


class Httpx2CircuitOpenError(FromReply, errors.CircuitOpenError, httpx2.PoolTimeout):
    """A breaker is open, as an httpx2.PoolTimeout: the pool has no room for the request."""


class Httpx2RequestTimeoutError(FromReply, errors.RequestTimeoutError, httpx2.ReadTimeout):
    """The route's timeout, as an httpx2.ReadTimeout."""


class Httpx2PeerIdentityError(FromReply, errors.PeerIdentityError, httpx2.ConnectError):
    """A wrong peer, as an httpx2.ConnectError."""


HTTPX2 = Library(
    httpx2,
    {
        errors.NoRouteError: Httpx2NoRouteError,
        errors.NoHealthyEndpointError: Httpx2NoHealthyEndpointError,
        errors.CircuitOpenError: Httpx2CircuitOpenError,
        errors.RequestTimeoutError: Httpx2RequestTimeoutError,
        errors.PeerIdentityError: Httpx2PeerIdentityError,
        errors.RequestError: Httpx2RequestError,
    },
)


class MeshTransport(SyncTransport, httpx2.BaseTransport):
    """An httpx2 transport that sends requests where the mesh's configuration says.

    Args:
        mesh: The mesh; it must outlive the transport.
        verify: As httpx2.Client's, for https URLs to clusters that have no TLS settings of their own.
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
        super().__init__(mesh, HTTPX2, verify, http2, limits, allow_missing_close_notify, authority)

    if TYPE_CHECKING:

        def handle_request(self, request: httpx2.Request, outside: Any = None) -> httpx2.Response: ...


class AsyncMeshTransport(AsyncTransport, httpx2.AsyncBaseTransport):
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
        super().__init__(mesh, HTTPX2, verify, http2, limits, allow_missing_close_notify, authority)

    if TYPE_CHECKING:

        async def handle_async_request(self, request: httpx2.Request, outside: Any = None) -> httpx2.Response: ...
