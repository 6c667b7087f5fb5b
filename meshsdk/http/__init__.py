"""httpx on the mesh: transports over meshsdk's own HTTP/1.1 and HTTP/2 engine.

Enters: an `httpx.Request`. Leaves: an `httpx.Response`, or an httpx exception. What to do is decided in
`meshsdk.exchange`; here it is carried out, in terms of no library: each has one adapter, httpx's `of_httpx`.

    library      what the engine needs of a client library; front: clients that do the same as its own in less
    transports   the loop around one exchange: attempt, outcome, retry     (sync_transport, async_transport)
    dispatcher   from an httpx request to an exchange; from replies to httpx responses
    pools        connections by endpoint; the last one used goes out first  (sync_pool, async_pool)
    connections  sockets and asyncio protocols                               (sync_http1, async_http1, …)
    http1, http2 the protocols without I/O, over httptools (llhttp) and h2
"""

from .dispatcher import MeshResponseInfo
from .of_httpx import AsyncMeshTransport, MeshTransport

__all__ = ["AsyncMeshTransport", "MeshResponseInfo", "MeshTransport"]
