"""Clients over the mesh, and their proxies and mounts: for hosts outside it, and for those alone.

A library gives a mounted transport every request that its pattern matches, whatever the client's transport would have
said. So what is mounted here asks the mesh first: a host of the mesh goes by the mesh, one that is denied is refused,
and only what would have been passed through to the real host goes by the transport that the user gave. The library owns
the mounts, so that closing the client closes the user's transports too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .library import Library

__all__ = ["Adapter", "make_async_client", "make_client"]


class Adapter(NamedTuple):
    """A library, and its transports."""

    library: Library
    transport: Any
    async_transport: Any


class _MeshFirst:
    """The mesh's transport, and another one for hosts outside the mesh. Only the other one is its own."""

    def __init__(self, mesh: Any, outside: Any) -> None:
        self._mesh = mesh
        self._outside = outside

    def handle_request(self, request: Any) -> Any:
        """See `httpx.BaseTransport`."""
        if self._mesh._leaves_out(request):
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


class _AsyncMeshFirst:
    """`_MeshFirst` for asyncio."""

    def __init__(self, mesh: Any, outside: Any) -> None:
        self._mesh = mesh
        self._outside = outside

    async def handle_async_request(self, request: Any) -> Any:
        """See `httpx.AsyncBaseTransport`."""
        if self._mesh._leaves_out(request):
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


def make_client(mesh: Any, adapter: Adapter, own: dict[str, Any], fast: bool, kwargs: dict[str, Any]) -> Any:
    """The client of `Mesh.client`.

    Args:
        mesh: The mesh.
        adapter: Of the library.
        own: Arguments of the transport.
        fast: Whether the client does the same in less.
        kwargs: Those of the library's client.
    """
    library = adapter.library
    transport = adapter.transport(mesh, **own)
    mounts = _mounts(library.module.HTTPTransport, own, kwargs)
    mounted = {
        pattern: _MeshFirst(transport, outside) if outside is not None else None for pattern, outside in mounts.items()
    }
    make = library.client_class if fast else library.module.Client
    return make(transport=transport, mounts=mounted, **kwargs)


def make_async_client(mesh: Any, adapter: Adapter, own: dict[str, Any], fast: bool, kwargs: dict[str, Any]) -> Any:
    """The client of `Mesh.async_client`; arguments as for `make_client`."""
    library = adapter.library
    transport = adapter.async_transport(mesh, **own)
    mounts = _mounts(library.module.AsyncHTTPTransport, own, kwargs)
    mounted = {
        pattern: _AsyncMeshFirst(transport, outside) if outside is not None else None
        for pattern, outside in mounts.items()
    }
    make = library.async_client_class if fast else library.module.AsyncClient
    return make(transport=transport, mounts=mounted, **kwargs)


def _mounts(make_transport: Any, own: Mapping[str, Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The user's mounts, and the proxy as one of them, by what the library makes of a client's arguments for it."""
    proxy, mounts = kwargs.pop("proxy", None), dict(kwargs.pop("mounts", None) or {})
    if proxy is None:
        return mounts
    taken: dict[str, Any] = {name: kwargs[name] for name in ("cert", "trust_env", "http1") if name in kwargs}
    taken |= {name: own[name] for name in ("verify", "http2", "limits") if name in own}
    return {"all://": make_transport(proxy=proxy, **taken), **mounts}
