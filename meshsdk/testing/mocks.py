"""Requests of a mesh's clients, mocked as those over httpx's own transports are: by respx and by pytest-httpx.

Both put themselves in the place of httpx's transports, or of what lies below them. The mesh's have another engine, so a
mocked request would go out to the network. The plugin has them take part: a mock answers before the mesh decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx
    import pytest

__all__ = ["share_pytest_httpx", "share_respx"]

_SYNC, _ASYNC = "meshsdk.http.MeshTransport", "meshsdk.http.AsyncMeshTransport"


def share_respx() -> None:
    """Whatever a router of respx mocks below httpx, it mocks of the mesh's transports as well; once is enough."""
    from respx import mocks

    if "meshsdk" in mocks.Mocker.registry:
        return

    class MeshMocker(mocks.AbstractRequestMocker):  # type: ignore[misc]
        name = "meshsdk"
        targets = [_SYNC, _ASYNC]  # noqa: RUF012 - respx's own are lists.
        target_methods = ["handle_request", "handle_async_request"]  # noqa: RUF012

        @classmethod
        def to_httpx_request(cls, **arguments: Any) -> httpx.Request:
            request: httpx.Request = arguments["request"]
            return request

        @classmethod
        def from_sync_httpx_response(cls, httpx_response: Any, target: Any, **arguments: Any) -> Any:
            return httpx_response

        @classmethod
        async def from_async_httpx_response(cls, httpx_response: Any, target: Any, **arguments: Any) -> Any:
            return httpx_response

    # What is done to the mocker that routers use by default.
    for name in ("register", "unregister", "start", "stop"):
        setattr(mocks.HTTPCoreMocker, name, _both(getattr(mocks.HTTPCoreMocker, name), getattr(MeshMocker, name)))


def _both(first: Any, second: Any) -> Any:
    def call(*arguments: Any, **named: Any) -> Any:
        second(*arguments, **named)
        return first(*arguments, **named)

    return call


class _NotMocked(Exception):
    """A mock lets a request through."""


class _Through:
    """Stands for the transport that a mock gives a request to that it lets through."""

    class _pool:
        @staticmethod
        def handle_request(request: Any) -> Any:
            raise _NotMocked

        @staticmethod
        async def handle_async_request(request: Any) -> Any:
            raise _NotMocked


def share_pytest_httpx(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the fixture `httpx_mock` has put in the place of httpx's transports takes the place of the mesh's, too."""
    import httpx

    from ..http import AsyncMeshTransport, MeshTransport

    mocked, own = httpx.HTTPTransport.handle_request, MeshTransport.handle_request
    mocked_async, own_async = httpx.AsyncHTTPTransport.handle_async_request, AsyncMeshTransport.handle_async_request

    def handle_request(self: MeshTransport, request: httpx.Request, *more: Any, **named: Any) -> httpx.Response:
        try:
            return mocked(_Through(), request)  # type: ignore[arg-type]
        except _NotMocked:
            return own(self, request, *more, **named)

    async def handle_async_request(
        self: AsyncMeshTransport, request: httpx.Request, *more: Any, **named: Any
    ) -> httpx.Response:
        try:
            return await mocked_async(_Through(), request)  # type: ignore[arg-type]
        except _NotMocked:
            return await own_async(self, request, *more, **named)

    monkeypatch.setattr(MeshTransport, "handle_request", handle_request)
    monkeypatch.setattr(AsyncMeshTransport, "handle_async_request", handle_async_request)
