"""A WSGI application in threads of an ASGI server: a2wsgi, given requests only when they have come whole.

A thread that reads a body from its peer is a thread that its peer holds. So bodies are read on the event loop first,
into memory or, when they are long, into a file; how long their peers may take is the server's to say.
"""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable, MutableMapping
from typing import IO, Any

from ..extras import needs_extra

__all__ = ["in_threads"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# What is longer lies in a file.
_MAX_IN_MEMORY_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 18
_FRAMING = (b"content-length", b"transfer-encoding")

MAX_REQUEST_BYTES = 1 << 30


def in_threads(app: Any, max_request_bytes: int = MAX_REQUEST_BYTES) -> Any:
    """An ASGI application that runs the WSGI application `app`.

    Args:
        app: The application.
        max_request_bytes: A body that is longer is answered with 413 (named as Envoy's filter buffer names it).
    """
    with needs_extra("serve", "a2wsgi"):
        from a2wsgi import WSGIMiddleware  # Who serves ASGI applications needs none of it.

    bridge = WSGIMiddleware(app)

    async def whole(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await bridge(scope, receive, send)  # type: ignore[arg-type]
        with tempfile.SpooledTemporaryFile(_MAX_IN_MEMORY_BYTES) as body:
            left = await _read(receive, body, max_request_bytes)
            if left is None:
                return
            if left > max_request_bytes:
                return await _refuse(send)
            body.seek(0)
            if left:
                # WSGI applications read as much as the length says, and take chunks for none.
                headers = [header for header in scope["headers"] if header[0] not in _FRAMING]
                scope = {**scope, "headers": [*headers, (b"content-length", b"%d" % left)]}

            async def receive_whole() -> Message:
                nonlocal left
                chunk = body.read(_CHUNK_BYTES)
                left -= len(chunk)
                return {"type": "http.request", "body": chunk, "more_body": left > 0}

            await bridge(scope, receive_whole, send)  # type: ignore[arg-type]

    return whole


async def _read(receive: Receive, body: IO[bytes], longest: int) -> int | None:
    """Read a request's body, as far as it is not longer than that: its length, or None where its peer is gone."""
    length = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        chunk = message.get("body", b"")
        length += len(chunk)
        if length > longest:
            return length
        body.write(chunk)
        if not message.get("more_body", False):
            return length


async def _refuse(send: Send) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"17"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": b"Payload Too Large"})
