"""What the engine asks of a request, whichever library made it."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["Limits", "Request", "Url"]


class Url(Protocol):
    """Where a request goes."""

    @property
    def scheme(self) -> str: ...
    @property
    def userinfo(self) -> bytes: ...
    @property
    def host(self) -> str: ...
    @property
    def raw_host(self) -> bytes: ...
    @property
    def port(self) -> int | None: ...
    @property
    def netloc(self) -> bytes: ...
    @property
    def raw_path(self) -> bytes: ...
    def copy_with(self, **parts: Any) -> Any: ...


class Request(Protocol):
    """A request, as its caller has made it."""

    method: str
    url: Any
    headers: Any
    extensions: Any
    stream: Any

    @property
    def content(self) -> bytes: ...


class Limits(Protocol):
    """How many connections a client may have, and for how many seconds one may be idle; None is no limit."""

    @property
    def max_connections(self) -> int | None: ...
    @property
    def keepalive_expiry(self) -> float | None: ...
