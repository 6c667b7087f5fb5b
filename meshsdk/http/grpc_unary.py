"""Unary gRPC calls as HTTP requests.

A call is a POST with five bytes before its message (gRPC PROTOCOL-HTTP2), so it takes the same way as every other
request, in threads and in any event loop.
"""

from __future__ import annotations

import struct
import urllib.parse
from collections.abc import Iterable

import httpx

__all__ = ["read_call", "write_call"]


def write_call(
    cluster: str, method: str, message: bytes, timeout_seconds: float, metadata: Iterable[tuple[str, str]]
) -> httpx.Request:
    """The call."""
    milliseconds = max(1, round(timeout_seconds * 1000))
    headers = [
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *metadata,
        ("grpc-timeout", f"{milliseconds}m"),
    ]
    content = struct.pack(">BI", 0, len(message)) + message
    host = urllib.parse.quote(cluster, safe="") or "service"
    return httpx.Request("POST", f"http://{host}{method}", headers=headers, content=content)


def read_call(answer: httpx.Response) -> bytes:
    """The message that the call ended with.

    Raises:
        ValueError: It failed, or the answer is none.
    """
    trailers = answer.extensions.get("trailing_headers") or []
    status = answer.headers.get("grpc-status") or next(
        (value.decode("latin-1") for name, value in trailers if name.lower() == b"grpc-status"), ""
    )
    if answer.status_code != 200 or status != "0":
        raise ValueError(f"HTTP {answer.status_code}, gRPC status {status or 'missing'}")
    content = answer.content
    if len(content) < 5 or content[0] != 0:
        raise ValueError("the answer holds no message, or a compressed one")
    (length,) = struct.unpack(">I", content[1:5])
    if len(content) != 5 + length:
        # Cut off, it could still parse: an empty message is an authorization server's OK.
        raise ValueError(f"the answer's message has {len(content) - 5} bytes, and not {length}")
    return content[5:]
