"""How many bytes headers have over HTTP/1.1.

Loops are written out: every request comes by here, and for so few headers they are faster than what joins or maps.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["REQUEST_LINE", "STATUS_LINE", "size_and_value", "size_of_headers"]

Headers = Iterable[tuple[bytes, bytes]]

# "GET ", " HTTP/1.1\r\n" and the empty line, but for the method; "HTTP/1.1 200 OK\r\n" and the empty line.
REQUEST_LINE, STATUS_LINE = 14, 19
# Colon, space and the end of the line.
_BESIDES = 4


def size_of_headers(headers: Headers) -> int:
    """All of them."""
    size = 0
    for name, value in headers:
        size += len(name) + len(value) + _BESIDES
    return size


def size_and_value(headers: Headers, wanted: bytes) -> tuple[int, bytes]:
    """All of them, and the value of one by its lower-case name; empty where it is missing."""
    size, found, length = 0, b"", len(wanted)
    for name, value in headers:
        own = len(name)
        if own == length and name.lower() == wanted:
            found = value
        size += own + len(value) + _BESIDES
    return size, found
