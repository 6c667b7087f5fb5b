"""The head of a request in an ASGI scope, as it came over the wire.

The path is the request line's: a root_path that the server has put before it is taken off again, as a sidecar would
not have seen it. A protocol of ours tells the target itself; of other servers it is put together from the scope.

Sources: ASGI specification, HTTP; `strict_http` for what uvicorn is made to tell.
"""

from __future__ import annotations

import sys
import urllib.parse
from collections.abc import Mapping
from typing import Any

from ..inbound import Connection
from ..inbound.proxy_headers import without_underscores
from ..routing import RequestHead
from .connections import TARGET
from .inbound import rules_of_port

__all__ = ["path_prefix", "read_head", "read_strictly"]


def read_strictly() -> None:
    """Where this process has uvicorn's own protocol, have it tell what came over the wire."""
    if "uvicorn.protocols.http.httptools_impl" in sys.modules:
        from .strict_http import install

        install(rules_of_port)


def read_head(
    scope: Mapping[str, Any], receive: Any, connection: Connection, *, drops_underscores: bool
) -> RequestHead:
    """The head of a request.

    Args:
        scope: ASGI's.
        receive: The server's, as far as nobody has wrapped it.
        connection: That it came by.
        drops_underscores: See `AsgiMiddleware`.
    """
    headers: list[tuple[bytes, bytes]] = list(scope["headers"])
    target = scope.get(TARGET)
    if target is None:
        headers = [(name, value.strip(b" \t")) for name, value in headers]
        target = _target(scope, receive)
    scheme = "https" if connection.is_tls else "http"
    head = RequestHead(scope.get("method", "GET"), scheme, "", target, headers)
    by_name = head.by_name()
    authority = by_name.get(b"host") or by_name.get(b":authority")
    if authority:
        head.authority = authority.decode("latin-1")
    return without_underscores(head) if drops_underscores else head


def path_prefix(scope: Mapping[str, Any], target: str) -> str:
    """What of the application's path stands before the path of the request line."""
    path, judged = scope["path"], urllib.parse.unquote(target.partition("?")[0])
    return str(path.removesuffix(judged)) if path.endswith(judged) else ""


def _target(scope: Mapping[str, Any], receive: Any) -> str:
    raw = scope.get("raw_path")
    path = raw.decode("latin-1") if raw else urllib.parse.quote(scope["path"])
    # Starlette's mounts let root_path grow, and keep the server's own.
    root = scope.get("app_root_path", scope.get("root_path")) or ""
    if root and path.startswith(root):
        server = getattr(receive, "__self__", None)
        if type(server).__module__.startswith("uvicorn."):
            path = path[len(root) :]
        elif server is None and "uvicorn.server" in sys.modules:
            return ""  # It cannot be told whose path this is; it is none, and refused.
    query = scope.get("query_string")
    return f"{path}?{query.decode('latin-1')}" if query else path
