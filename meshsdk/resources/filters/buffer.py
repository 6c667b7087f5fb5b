"""Requests held until they are whole (envoy.extensions.filters.http.buffer.v3.Buffer)."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from .. import protos
from ..notes import Notes
from ..values import unpack
from .settings import FilterSetting

__all__ = ["Buffer", "parse_buffer", "parse_buffer_per_route"]


class Buffer(FilterSetting, Struct, frozen=True, gc=False):
    """The longest body that is sent; a longer one is answered with 413. None switches the filter off."""

    max_request_bytes: int | None = None


def parse_buffer(container: Any, where: str, notes: Notes) -> Buffer:
    """The Buffer inside a google.protobuf.Any."""
    return Buffer(unpack(container, protos.buffer_pb2.Buffer, where).max_request_bytes.value)


def parse_buffer_per_route(container: Any, where: str, notes: Notes) -> Buffer:
    """The BufferPerRoute inside a google.protobuf.Any."""
    message = unpack(container, protos.buffer_pb2.BufferPerRoute, where)
    return Buffer() if message.disabled else Buffer(message.buffer.max_request_bytes.value)
