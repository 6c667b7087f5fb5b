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
from ..values import contained
from ..wire import LENGTH, fields, span
from .route import RouteConfiguration
from .route_parsing import parse_route_configuration

__all__ = ["PackedRoutes", "VirtualHostBytes", "parse_packed_routes"]

# envoy.config.route.v3.RouteConfiguration.virtual_hosts, VirtualHost.domains.
_VIRTUAL_HOSTS = 2
_DOMAINS = 2

_PLACE_BITS = 32


class VirtualHostBytes(Struct, frozen=True, gc=False):
    """One virtual host, still packed, and what all of its route configuration have in common."""

    packed: bytes
    common: RouteConfiguration

    def parse(self) -> RouteConfiguration:
        """A route configuration of this virtual host alone.

        Raises:
            ResourceError: It does not parse, or a rule does not hold.
        """
        message = protos.route_pb2.RouteConfiguration(name=self.common.name)
        with contained("VirtualHost", self.common.name):
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
        begin, end = span(self.packed, place)
        return VirtualHostBytes(self.packed[begin:end], self.common)

    def _exact(self, name: str) -> int | None:
        key = _hash(name.encode())
        index = bisect_left(self.exact, key << _PLACE_BITS)
        while index < len(self.exact) and self.exact[index] >> _PLACE_BITS == key:
            place: int = self.exact[index] & ((1 << _PLACE_BITS) - 1)
            begin, end = span(self.packed, place)
            if name.encode() in (domain.lower() for domain in _domains(self.packed, begin, end)):
                return place
            index += 1
        return None


def parse_packed_routes(packed: bytes) -> PackedRoutes:
    """A RouteConfiguration, of which all but the virtual hosts is parsed.

    Raises:
        ResourceError: It does not parse, or a rule does not hold for what is parsed.
    """
    rest = bytearray()
    exact: list[int] = []
    wildcards: dict[str, int] = {}
    start = 0
    try:
        for number, wire, value, end in fields(packed, 0, len(packed)):
            if number == _VIRTUAL_HOSTS and wire == LENGTH:
                for domain in _domains(packed, *span(packed, value)):
                    if b"*" in domain:
                        wildcards.setdefault(domain.decode().lower(), value)
                    else:
                        exact.append(_hash(domain.lower()) << _PLACE_BITS | value)
            else:
                rest += packed[start:end]
            start = end
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
    for number, wire, value, _ in fields(packed, at, end):
        if number == _DOMAINS and wire == LENGTH:
            begin, end_of_value = span(packed, value)
            found.append(packed[begin:end_of_value])
    return found
