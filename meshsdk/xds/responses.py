"""Responses of a management server, from bytes.

A response with a whole mesh in it has ten megabytes and more. Parsed as one message it would take as much again, in
pieces that the C library keeps for a long time; so the resources of a large one are parsed one after the other, as
somebody looks at them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError

from ..resources.wire import LENGTH, fields, span

__all__ = ["LargeResponse", "reader"]

_LARGE_BYTES = 256 << 10

# Of DiscoveryResponse and of DeltaDiscoveryResponse.
_RESOURCES = 2


class LargeResponse:
    """A response of which the resources are still packed. All else is the message's own."""

    def __init__(self, kind: Any, of: Any, packed: bytes) -> None:
        self.resources = _Resources(of, packed)
        rest = bytearray()
        start = 0
        try:
            for number, wire, value, end in fields(packed, 0, len(packed)):
                if number == _RESOURCES and wire == LENGTH:
                    self.resources.places.append(value)
                else:
                    rest += packed[start:end]
                start = end
        except (ValueError, IndexError) as error:
            raise DecodeError(str(error)) from None
        self._rest = kind.FromString(bytes(rest))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rest, name)


class _Resources:
    def __init__(self, kind: Any, packed: bytes) -> None:
        self.places: list[int] = []
        self._kind = kind
        self._packed = packed

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[Any]:
        for place in self.places:
            begin, end = span(self._packed, place)
            try:
                one = self._kind.FromString(self._packed[begin:end])
            except DecodeError:
                one = self._kind()  # It is refused as one that is of no type.
            yield one


def reader(*, is_incremental: bool) -> Callable[[bytes], Any]:
    """Reads the responses of a variant.

    It raises google.protobuf.message.DecodeError where one does not parse.
    """
    if is_incremental:
        return partial(_read, discovery_pb2.DeltaDiscoveryResponse, discovery_pb2.Resource)
    return partial(_read, discovery_pb2.DiscoveryResponse, any_pb2.Any)


def _read(kind: Any, of: Any, packed: bytes) -> Any:
    return kind.FromString(packed) if len(packed) < _LARGE_BYTES else LargeResponse(kind, of, packed)
