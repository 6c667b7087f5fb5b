"""Protobuf's wire format, as far as it takes to find the parts of a message without parsing it.

Source: protobuf.dev, "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["LENGTH", "fields", "span"]

# The wire type of what has its length before it: texts, bytes, messages.
LENGTH = 2


def fields(packed: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of the message between two places: number, wire type, and where its value and the next field begin.

    The value of one that has its length before it begins with that (`span`).

    Raises:
        ValueError, IndexError: It is no message.
    """
    while at < end:
        tag, value = _varint(packed, at)
        at = _skip(packed, tag & 7, value)
        if at > end:
            raise ValueError("it ends in the middle of a field")
        yield tag >> 3, tag & 7, value, at


def span(packed: bytes, at: int) -> tuple[int, int]:
    """Where what has its length at a place begins and ends.

    Raises:
        ValueError: It ends after the message does.
    """
    length, begin = _varint(packed, at)
    if begin + length > len(packed):
        raise ValueError("it ends in the middle of a field")
    return begin, begin + length


def _varint(packed: bytes, at: int) -> tuple[int, int]:
    value = packed[at]
    if value < 0x80:
        return value, at + 1
    value &= 0x7F
    shift = 7
    while True:
        at += 1
        byte = packed[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at + 1
        shift += 7
        if shift > 63:
            raise ValueError("a number has more than ten bytes")


def _skip(packed: bytes, wire: int, at: int) -> int:
    """Where a field whose value begins at a place ends."""
    if wire == 0:
        return _varint(packed, at)[1]
    if wire == LENGTH:
        return span(packed, at)[1]
    if wire in (1, 5):
        return at + (8 if wire == 1 else 4)
    raise ValueError(f"wire type {wire}")
