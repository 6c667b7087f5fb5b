"""The part of a Mesh that makes HTTP clients."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, Literal, overload

import httpx

from .configuration import check_choice
from .extras import needs_extra
from .http.outside import Adapter, make_async_client, make_client

if TYPE_CHECKING:
    import httpx2

    from .http.runtime import Runtime

__all__ = ["HttpClients", "LibraryName"]

LibraryName = Literal["httpx", "httpx2"]


class HttpClients:
    """What makes clients of a mesh."""

    _runtime: Runtime

    @overload
    def client(
        self,
        *,
        library: Literal["httpx"] = "httpx",
        verify: ssl.SSLContext | str | bool = True,
        http2: bool = False,
        limits: httpx.Limits | None = None,
        allow_missing_close_notify: bool = False,
        authority: str | None = None,
        fast: bool = True,
        **kwargs: Any,
    ) -> httpx.Client: ...

    @overload
    def client(
        self,
        *,
        library: Literal["httpx2"],
        verify: ssl.SSLContext | str | bool = True,
        http2: bool = False,
        limits: httpx2.Limits | None = None,
        allow_missing_close_notify: bool = False,
        authority: str | None = None,
        fast: bool = True,
        **kwargs: Any,
    ) -> httpx2.Client: ...

    def client(
        self,
        *,
        library: LibraryName = "httpx",
        verify: ssl.SSLContext | str | bool = True,
        http2: bool = False,
        limits: Any = None,
        allow_missing_close_notify: bool = False,
        authority: str | None = None,
        fast: bool = True,
        **kwargs: Any,
    ) -> Any:
        """A client on the mesh: an httpx.Client, or that of httpx2.

        Args:
            library: Whose client; `httpx2` needs `pip install 'meshsdk[httpx2]'`.
            verify: As the library's, for https hosts that have no TLS settings in the mesh.
            http2: Offer HTTP/2 to those.
            limits: Connections of this client; by default the mesh's own limits govern.
            allow_missing_close_notify: Take a response that ends with its TLS connection for whole, though the peer
                did not say so (RFC 9112 section 9.8); some old servers never do.
            authority: Whose hosts requests go to, of the bootstrap's `authorities`; None is the default one's.
            fast: Do what the library does in less (docs/httpx.md); it is the library's own client all the same.
            **kwargs: Anything else that the library's Client takes. `proxy` and `mounts` are for hosts outside the
                mesh alone; proxies of the environment are not used.
        """
        own = _options(verify, http2, limits, allow_missing_close_notify, authority)
        return make_client(self, _adapter(library), own, fast, kwargs)

    @overload
    def async_client(
        self,
        *,
        library: Literal["httpx"] = "httpx",
        verify: ssl.SSLContext | str | bool = True,
        http2: bool = False,
        limits: httpx.Limits | None = None,
        allow_missing_close_notify: bool = False,
        authority: str | None = None,
        fast: bool = True,
        **kwargs: Any,
    ) -> httpx.AsyncClient: ...

    @overload
    def async_client(
        self,
        *,
        library: Literal["httpx2"],
        verify: ssl.SSLContext | str | bool = True,
        http2: bool = False,
        limits: httpx2.Limits | None = None,
        allow_missing_close_notify: bool = False,
        authority: str | None = None,
        fast: bool = True,
        **kwargs: Any,
    ) -> httpx2.AsyncClient: ...

    def async_client(
        self,
        *,
        library: LibraryName = "httpx",
        verify: ssl.SSLContext | str | bool = True,
        http2: bool = False,
        limits: Any = None,
        allow_missing_close_notify: bool = False,
        authority: str | None = None,
        fast: bool = True,
        **kwargs: Any,
    ) -> Any:
        """An AsyncClient on the mesh, of httpx or httpx2.

        Args:
            library: Whose client it is.
            verify: As the library's, for https hosts that have no TLS settings in the mesh.
            http2: Offer HTTP/2 to those.
            limits: Connections of this client; by default the mesh's own limits govern.
            allow_missing_close_notify: Take a response that ends with its TLS connection for whole, though the peer
                did not say so (RFC 9112 section 9.8).
            authority: Whose hosts requests go to, of the bootstrap's `authorities`; None is the default one's.
            fast: Do in less what the library's client does; False takes the library's own.
            **kwargs: Anything else that the library's client takes. `proxy` and `mounts` are for hosts outside the
                mesh alone.
        """
        own = _options(verify, http2, limits, allow_missing_close_notify, authority)
        return make_async_client(self, _adapter(library), own, fast, kwargs)


def _options(
    verify: ssl.SSLContext | str | bool, http2: bool, limits: Any, allows_cut_tls: bool, authority: str | None
) -> dict[str, Any]:
    own: dict[str, Any] = {"verify": verify, "http2": http2, "allow_missing_close_notify": allows_cut_tls}
    own["authority"] = authority
    if limits is not None:
        own["limits"] = limits
    return own


def _adapter(library: str) -> Adapter:
    check_choice("library", library, ("httpx", "httpx2"))
    if library == "httpx":
        from .http.of_httpx import HTTPX, AsyncMeshTransport, MeshTransport

        return Adapter(HTTPX, MeshTransport, AsyncMeshTransport)
    with needs_extra("httpx2", "httpx2"):
        from . import httpx2 as of_httpx2
    return Adapter(of_httpx2.HTTPX2, of_httpx2.MeshTransport, of_httpx2.AsyncMeshTransport)
