"""The head of a request in an ASGI scope, as it came over the wire, and back into the scope.

The path is the request line's: a root_path that the server has put before it is taken off again, as a sidecar would
not have seen it. A protocol of ours tells the target itself; of other servers it is put together from the scope.

Sources: ASGI specification, HTTP; `strict_http` for what uvicorn is made to tell.
"""

from __future__ import annotations

import sys
import urllib.parse
from collections.abc import Mapping, MutableMapping
from typing import Any

from ..exchange.local_reply import LocalReply, path_refused
from ..inbound import Connection, InboundRequest
from ..inbound.peer import without_underscores
from ..routing import RequestHead
from .connections import ADMITTED, TARGET
from .inbound import rules_of_port
from .request_target import is_below

__all__ = ["read_head", "read_strictly", "write_back"]


def read_strictly() -> None:
    """Have uvicorn's own protocol tell what came over the wire, where this process may come to use it."""
    try:
        from .strict_http import install
    except ImportError:
        return  # There is no uvicorn here.
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


def write_back(scope: MutableMapping[str, Any], before: RequestHead, request: InboundRequest) -> LocalReply | None:
    """Give the application the request as policy has left it, or say why it cannot be.

    Args:
        scope: Of the request.
        before: As `read_head` has read it.
        request: As it is now.
    """
    head = request.head
    if head.target != before.target and not _set_path(scope, before.target, head.target):
        return path_refused()
    # A list of its own: what comes after the head, as trailers do, must not come to it.
    scope["headers"] = list(head.raw_headers)
    scope[ADMITTED] = True
    state = scope.get("state")
    if state is None:
        state = scope["state"] = {}
    state["mesh_peer"] = request.connection.principal
    return None


def _set_path(scope: MutableMapping[str, Any], before: str, target: str) -> bool:
    """Have the application see another target; False where that leads out of where the application is mounted.

    Whoever mounted it has chosen by the path as it came, and some take their prefix off.
    """
    path, _, query = target.partition("?")
    seen, judged, plain = scope["path"], urllib.parse.unquote(before.partition("?")[0]), urllib.parse.unquote(path)
    if seen.endswith(judged):
        added = seen.removesuffix(judged)
        root = scope.get("root_path") or ""
        if is_below(seen, root) and not is_below(added + plain, root):
            return False
        scope["path"], scope["raw_path"] = added + plain, (added + path).encode("latin-1")
    else:
        taken = judged.removesuffix(seen)
        if taken == judged or not is_below(plain, taken):
            return False
        scope["path"], scope["raw_path"] = plain.removeprefix(taken), path.encode("latin-1")
    scope["query_string"] = query.encode("latin-1")
    scope[TARGET] = target
    return True


# uvicorn imports one of them when it begins to serve.
_BY_UVICORN = frozenset({"uvicorn.lifespan.on", "uvicorn.lifespan.off"})


def _target(scope: Mapping[str, Any], receive: Any) -> str:
    raw = scope.get("raw_path")
    path = raw.decode("latin-1") if raw else urllib.parse.quote(scope["path"])
    # Starlette's mounts let root_path grow, and keep the server's own.
    root = scope.get("app_root_path", scope.get("root_path")) or ""
    server = getattr(receive, "__self__", None)
    if type(server).__module__.startswith("uvicorn."):
        told: Any = server
        protocol = told if hasattr(told, "root_path") else told.transport.get_protocol()
        path = path.removeprefix(protocol.root_path)
    elif root and path.startswith(root) and not _BY_UVICORN.isdisjoint(sys.modules):
        return ""  # It cannot be told whose path this is; it is none, and refused.
    query = scope.get("query_string")
    return f"{path}?{query.decode('latin-1')}" if query else path
