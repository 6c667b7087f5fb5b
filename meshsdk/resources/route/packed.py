"""Routes of many hosts that stay packed until one of the hosts is asked for.

A sidecar's RouteConfiguration has a virtual host for each service of a port, thousands where the mesh is large, of
which a process calls a few. So the message's bytes are kept, with a table of where each domain's virtual host begins,
and a virtual host is parsed when it is wanted.

The table is an array of numbers, of eight bytes a domain: each is the domain's hash, and behind it the place.
"""

from __future__ import annotations

import zlib
from array import array
from bisect import bisect_left
from typing import Any

from google.protobuf.message import DecodeError
from msgspec import Struct
from msgspec.structs import replace

from ...errors import ResourceError
from .. import protos
from .route import RouteConfiguration
from .route_parsing import parse_route_configuration

__all__ = ["PackedRoutes", "VirtualHostBytes", "parse_packed_routes"]

# envoy.config.route.v3.RouteConfiguration.virtual_hosts, VirtualHost.domains.
_VIRTUAL_HOSTS = 2
_DOMAINS = 2
_WIRE_LENGTH = 2

_PLACE_BITS = 32


class VirtualHostBytes(Struct, frozen=True):
    """One virtual host, still packed, and what all of its route configuration have in common."""

    packed: bytes
    common: RouteConfiguration

    def parse(self) -> RouteConfiguration:
        """A route configuration of this virtual host alone.

        Raises:
            ResourceError: A rule does not hold.
        """
        message = protos.route_pb2.RouteConfiguration(name=self.common.name)
        message.virtual_hosts.add().ParseFromString(self.packed)
        found = parse_route_configuration(message)
        return replace(self.common, virtual_hosts=found.virtual_hosts, notes=(*self.common.notes, *found.notes))


class PackedRoutes(Struct, frozen=True, eq=False):
    """A RouteConfiguration whose virtual hosts are packed.

    Attributes:
        common: All but the virtual hosts.
        packed: The whole message.
        exact: Hashes and places of the domains without a wildcard, in order.
        wildcards: Domains with one, in the order in which they are looked through, and their places.
    """

    name: str
    common: RouteConfiguration
    packed: bytes
    exact: Any
    wildcards: tuple[tuple[str, int], ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not acted on of what all virtual hosts have in common."""
        return self.common.notes

    def find(self, host: str, port: int) -> VirtualHostBytes | None:
        """The virtual host that answers for a host asked for at a port; None where none does.

        Envoy's order: the exact name, the longest wildcard at the beginning, the longest at the end, `*`.
        """
        names = [host] if self.common.ignore_port_in_host_matching else [f"{host}:{port}", host]
        place = next((found for name in names if (found := self._exact(name.lower())) is not None), None)
        if place is None:
            place = next((at for domain, at in self.wildcards for name in names if _fits(domain, name.lower())), None)
        if place is None:
            return None
        begin, end = _span(self.packed, place)
        return VirtualHostBytes(self.packed[begin:end], self.common)

    def _exact(self, name: str) -> int | None:
        key = _hash(name.encode())
        index = bisect_left(self.exact, key << _PLACE_BITS)
        while index < len(self.exact) and self.exact[index] >> _PLACE_BITS == key:
            place: int = self.exact[index] & ((1 << _PLACE_BITS) - 1)
            begin, end = _span(self.packed, place)
            if name.encode() in (domain.lower() for domain in _domains(self.packed, begin, end)):
                return place
            index += 1
        return None


def parse_packed_routes(packed: bytes) -> PackedRoutes:
    """A RouteConfiguration, of which all but the virtual hosts is parsed.

    Raises:
        ResourceError: It does not parse, or a rule does not hold for what is parsed.
    """
    places, rest = [], bytearray()
    exact: list[int] = []
    wildcards: dict[str, int] = {}
    try:
        at = 0
        while at < len(packed):
            tag, after = _varint(packed, at)
            if tag == _VIRTUAL_HOSTS << 3 | _WIRE_LENGTH:
                places.append(after)
                begin, at = _span(packed, after)
                for domain in _domains(packed, begin, at):
                    if b"*" in domain:
                        wildcards.setdefault(domain.decode().lower(), after)
                    else:
                        exact.append(_hash(domain.lower()) << _PLACE_BITS | after)
            else:
                end = _skip(packed, tag, after)
                rest += packed[at:end]
                at = end
        common = protos.route_pb2.RouteConfiguration.FromString(bytes(rest))
    except (IndexError, ValueError, DecodeError) as error:
        raise ResourceError("RouteConfiguration", f"does not parse: {error}") from None
    exact.sort()
    order = sorted(wildcards.items(), key=lambda item: (item[0] == "*", not item[0].startswith("*"), -len(item[0])))
    parsed = parse_route_configuration(common)
    return PackedRoutes(common.name, parsed, packed, array("Q", exact), tuple(order))


def _hash(domain: bytes) -> int:
    return zlib.crc32(domain)


def _fits(domain: str, name: str) -> bool:
    if domain == "*":
        return True
    # A wildcard stands for a character at least.
    if len(name) < len(domain):
        return False
    return name.endswith(domain[1:]) if domain.startswith("*") else name.startswith(domain[:-1])


def _domains(packed: bytes, at: int, end: int) -> list[bytes]:
    """The domains of the virtual host between two places."""
    found = []
    while at < end:
        tag, at = _varint(packed, at)
        if tag == _DOMAINS << 3 | _WIRE_LENGTH:
            begin, at = _span(packed, at)
            found.append(packed[begin:at])
        else:
            at = _skip(packed, tag, at)
    return found


def _span(packed: bytes, at: int) -> tuple[int, int]:
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


def _skip(packed: bytes, tag: int, at: int) -> int:
    """Where a field that begins at a place ends, by its wire type."""
    wire = tag & 7
    if wire == 0:
        return _varint(packed, at)[1]
    if wire == _WIRE_LENGTH:
        return _span(packed, at)[1]
    if wire in (1, 5):
        return at + (8 if wire == 1 else 4)
    raise ValueError(f"wire type {wire}")
