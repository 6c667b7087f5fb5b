"""Proxies and mounts of a client: for hosts outside the mesh, and for those alone.

httpx gives a mounted transport every request that its pattern matches, whatever the client's transport would have
said. So what is mounted here asks the mesh first: a host of the mesh goes by the mesh, one that is denied is refused,
and only what would have been passed through to the real host goes by the transport that the user gave. httpx owns the
mounts, so that closing the client closes the user's transports too.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

import httpx

from .async_transport import AsyncMeshTransport
from .library import HTTPX
from .sync_transport import MeshTransport

__all__ = ["make_async_client", "make_client"]


class _MeshFirst(httpx.BaseTransport):
    """The mesh's transport, and another one for hosts outside the mesh. Only the other one is its own."""

    def __init__(self, mesh: MeshTransport, outside: httpx.BaseTransport) -> None:
        self._mesh = mesh
        self._outside = outside

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """See `httpx.BaseTransport`."""
        if self._mesh.leaves_out(request):
            return self._outside.handle_request(request)
        return self._mesh.handle_request(request, self._outside)

    def __enter__(self) -> _MeshFirst:
        self._outside.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._outside.__exit__(*raised)

    def close(self) -> None:
        """Close the transport that the user gave."""
        self._outside.close()


class _AsyncMeshFirst(httpx.AsyncBaseTransport):
    """`_MeshFirst` for asyncio."""

    def __init__(self, mesh: AsyncMeshTransport, outside: httpx.AsyncBaseTransport) -> None:
        self._mesh = mesh
        self._outside = outside

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See `httpx.AsyncBaseTransport`."""
        if self._mesh.leaves_out(request):
            return await self._outside.handle_async_request(request)
        return await self._mesh.handle_async_request(request, self._outside)

    async def __aenter__(self) -> _AsyncMeshFirst:
        await self._outside.__aenter__()
        return self

    async def __aexit__(self, *raised: Any) -> None:
        await self._outside.__aexit__(*raised)

    async def aclose(self) -> None:
        """Close the transport that the user gave."""
        await self._outside.aclose()


def make_client(
    mesh: Any,
    verify: ssl.SSLContext | str | bool,
    http2: bool,
    limits: Any,
    allows_cut_tls: bool,
    authority: Any,
    kwargs: Any,
) -> httpx.Client:
    """The client of `Mesh.client`."""
    options = _transport_options(verify, http2, limits)
    transport = MeshTransport(mesh, **options, allow_missing_close_notify=allows_cut_tls, authority=authority)
    proxy, mounts = kwargs.pop("proxy", None), dict(kwargs.pop("mounts", None) or {})
    if proxy is not None:
        options = _proxy_options(proxy, verify, http2, limits, kwargs)
        mounts = {"all://": httpx.HTTPTransport(**options), **mounts}
    mounted: Mapping[str, httpx.BaseTransport | None] = {
        pattern: _MeshFirst(transport, outside) if outside is not None else None for pattern, outside in mounts.items()
    }
    make = HTTPX.client_class if kwargs.pop("fast", True) else httpx.Client
    return make(transport=transport, mounts=mounted, **kwargs)


def make_async_client(
    mesh: Any,
    verify: ssl.SSLContext | str | bool,
    http2: bool,
    limits: Any,
    allows_cut_tls: bool,
    authority: Any,
    kwargs: Any,
) -> httpx.AsyncClient:
    """The client of `Mesh.async_client`."""
    options = _transport_options(verify, http2, limits)
    transport = AsyncMeshTransport(mesh, **options, allow_missing_close_notify=allows_cut_tls, authority=authority)
    proxy, mounts = kwargs.pop("proxy", None), dict(kwargs.pop("mounts", None) or {})
    if proxy is not None:
        options = _proxy_options(proxy, verify, http2, limits, kwargs)
        mounts = {"all://": httpx.AsyncHTTPTransport(**options), **mounts}
    mounted: Mapping[str, httpx.AsyncBaseTransport | None] = {
        pattern: _AsyncMeshFirst(transport, outside) if outside is not None else None
        for pattern, outside in mounts.items()
    }
    make = HTTPX.async_client_class if kwargs.pop("fast", True) else httpx.AsyncClient
    return make(transport=transport, mounts=mounted, **kwargs)


def _transport_options(verify: ssl.SSLContext | str | bool, http2: bool, limits: httpx.Limits | None) -> dict[str, Any]:
    options: dict[str, Any] = {"verify": verify, "http2": http2}
    if limits is not None:
        options["limits"] = limits
    return options


def _proxy_options(
    proxy: Any, verify: ssl.SSLContext | str | bool, http2: bool, limits: httpx.Limits | None, kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """What httpx makes of a client's arguments for its proxy."""
    taken = {name: kwargs[name] for name in ("cert", "trust_env", "http1") if name in kwargs}
    return {"proxy": proxy, **_transport_options(verify, http2, limits), **taken}
