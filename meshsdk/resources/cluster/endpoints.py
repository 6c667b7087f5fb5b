"""Endpoints of a cluster (envoy.config.endpoint.v3.ClusterLoadAssignment)."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from msgspec import Struct

from ...errors import ResourceError
from ...node import Locality
from .. import constraints
from ..matching import parse_fractional_percent
from ..notes import Notes, acts_on_all
from ..values import optional, struct_as_dict

__all__ = [
    "Address",
    "EndpointConfig",
    "Endpoints",
    "HealthStatus",
    "LocalityEndpoints",
    "parse_endpoints",
]

_ASSIGNMENT_FIELDS = frozenset("cluster_name endpoints policy".split())
_POLICY_FIELDS = frozenset("overprovisioning_factor drop_overloads weighted_priority_health".split())
_LOCALITY_FIELDS = frozenset("locality lb_endpoints load_balancing_weight priority metadata".split())
_LB_ENDPOINT_FIELDS = frozenset("endpoint health_status metadata load_balancing_weight".split())
_ENDPOINT_FIELDS = frozenset("address hostname health_check_config".split())

NOWHERE = Locality()

# The path of a locality, and an endpoint's index in it: put together only where it is told.
_Place = tuple[str, int]

# gRFC A27: the weights of the localities of one priority must add up to a uint32.
_MAX_WEIGHT_SUM = 0xFFFFFFFF


class HealthStatus(Enum):
    """What the management server knows of an endpoint's health (envoy.config.core.v3.HealthStatus)."""

    UNKNOWN = 0
    HEALTHY = 1
    UNHEALTHY = 2
    DRAINING = 3
    TIMEOUT = 4
    DEGRADED = 5


_HEALTH = {status.value: status for status in HealthStatus}


class Address(Struct, frozen=True, gc=False):
    """Where to connect: an IP address or host name with a port, or a unix socket's path (then `port` is 0)."""

    host: str
    port: int

    @property
    def is_unix(self) -> bool:
        """Whether this is the path of a unix socket."""
        return self.port == 0 and self.host.startswith(("/", "@"))

    def __str__(self) -> str:
        if self.is_unix:
            return f"unix:{self.host}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


Metadata = Mapping[str, Mapping[str, Any]]
NO_METADATA: Metadata = MappingProxyType({})


class HealthCheckConfig(Struct, frozen=True, gc=False):
    """What an endpoint has to say of active health checks (envoy.config.endpoint.v3.Endpoint.HealthCheckConfig).

    Attributes:
        port: Where they go; 0 is the address's own.
        hostname: Their Host; empty leaves it to the check.
        disabled: Whether there are none (disable_active_health_check).
    """

    port: int = 0
    hostname: str = ""
    disabled: bool = False


USUAL_HEALTH_CHECK = HealthCheckConfig()


class EndpointConfig(Struct, frozen=True, gc=False):
    """One endpoint as configured (envoy.config.endpoint.v3.LbEndpoint).

    Attributes:
        health_check: What it has to say of active health checks.
    """

    address: Address
    health: HealthStatus = HealthStatus.UNKNOWN
    weight: int = 1
    hostname: str = ""
    metadata: Metadata = NO_METADATA
    health_check: HealthCheckConfig = USUAL_HEALTH_CHECK


class LocalityEndpoints(Struct, frozen=True, gc=False):
    """The endpoints of one locality at one priority.

    Attributes:
        weight: None where unset; with locality weighted balancing such a locality gets no traffic.
        priority: 0 is the highest.
    """

    endpoints: tuple[EndpointConfig, ...]
    locality: Locality = NOWHERE
    weight: int | None = None
    priority: int = 0


class Endpoints(Struct, frozen=True, gc=False):
    """All endpoints of a cluster.

    Attributes:
        overprovisioning_factor: In percent; 140 unless set (ClusterLoadAssignment.Policy).
        drop_share: Of the requests, how many are refused at once, between 0 and 1 (drop_overloads).
        drop_categories: Each category, with the share that it and those before it refuse.
        weighted_priority_health: Availability of a priority counts weights instead of endpoints.
    """

    name: str
    localities: tuple[LocalityEndpoints, ...] = ()
    overprovisioning_factor: int = 140
    drop_share: float = 0.0
    drop_categories: tuple[tuple[str, float], ...] = ()
    weighted_priority_health: bool = False
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return sum(len(locality.endpoints) for locality in self.localities)


def parse_endpoints(
    message: Any,
    where: str = "ClusterLoadAssignment",
    *,
    host_names: bool = False,
    checked: bool = False,
    before: tuple[Any, Endpoints] | None = None,
) -> Endpoints:
    """A validated ClusterLoadAssignment.

    Args:
        message: The protobuf.
        where: Its path in error messages.
        host_names: Whether addresses may be host names, as in a DNS cluster's load_assignment.
        checked: Whether Envoy's own rules have been applied already, to a message around this one.
        before: That which it takes the place of, and what was made of it. Nearly all endpoints of a large cluster are
            those of before, byte for byte: they were checked then, and stay the same objects.

    Raises:
        ResourceError: A rule does not hold.
    """
    known = _known_endpoints(*before) if before is not None else None
    if known:
        _check_around_endpoints(message, where)
    elif not checked:
        constraints.check(message, where)
    notes = Notes()
    notes.unless_acted_on(message, where, _ASSIGNMENT_FIELDS)
    notes.unless_acted_on(message.policy, f"{where}.policy", _POLICY_FIELDS)
    localities = tuple(
        _parse_locality(locality, f"{where}.endpoints[{index}]", notes, host_names, known)
        for index, locality in enumerate(message.endpoints)
    )
    _check_weights(localities, where)
    drops = _drops(message.policy, f"{where}.policy")
    return Endpoints(
        name=message.cluster_name,
        localities=localities,
        overprovisioning_factor=optional(message.policy, "overprovisioning_factor") or 140,
        drop_share=drops[-1][1] if drops else 0.0,
        drop_categories=drops,
        weighted_priority_health=message.policy.weighted_priority_health,
        notes=tuple(notes),
    )


def _known_endpoints(message: Any, made: Endpoints) -> dict[bytes, EndpointConfig]:
    """Endpoints by their bytes; none where something was noted of them, which must be noted again."""
    if made.notes:
        return {}
    return {
        one.SerializeToString(): config
        for locality, of_locality in zip(message.endpoints, made.localities, strict=True)
        for one, config in zip(locality.lb_endpoints, of_locality.endpoints, strict=True)
    }


def _check_around_endpoints(message: Any, where: str) -> None:
    around = type(message)()
    around.CopyFrom(message)
    for locality in around.endpoints:
        del locality.lb_endpoints[:]
    constraints.check(around, where)


def _drops(policy: Any, where: str) -> tuple[tuple[str, float], ...]:
    """Each category drops its share of what the ones before let through."""
    kept, drops = 1.0, []
    for index, drop in enumerate(policy.drop_overloads):
        path = f"{where}.drop_overloads[{index}].drop_percentage"
        kept *= 1 - parse_fractional_percent(drop.drop_percentage, path).share
        drops.append((drop.category, 1 - kept))
    return tuple(drops)


def _check_weights(localities: tuple[LocalityEndpoints, ...], where: str) -> None:
    totals: dict[int, int] = {}
    for locality in localities:
        totals[locality.priority] = totals.get(locality.priority, 0) + (locality.weight or 0)
    for priority, total in totals.items():
        if total > _MAX_WEIGHT_SUM:
            raise ResourceError(f"{where}.endpoints", f"the weights of priority {priority} add up to {total}")


def _parse_locality(
    message: Any, where: str, notes: Notes, host_names: bool, known: Mapping[bytes, EndpointConfig] | None
) -> LocalityEndpoints:
    notes.unless_acted_on(message, where, _LOCALITY_FIELDS)
    metadata: dict[bytes, Metadata] = {}

    def parsed(index: int, endpoint: Any) -> EndpointConfig:
        place = where, index
        if known:
            found = known.get(endpoint.SerializeToString())
            if found is not None:
                return found
            constraints.check(endpoint, _path(place))
        return _parse_endpoint(endpoint, place, notes, host_names, metadata)

    endpoints = tuple(parsed(index, endpoint) for index, endpoint in enumerate(message.lb_endpoints))
    total = sum(endpoint.weight for endpoint in endpoints)
    if total > _MAX_WEIGHT_SUM:
        raise ResourceError(f"{where}.lb_endpoints", f"the weights add up to {total}, above 2^32-1")
    locality = message.locality
    return LocalityEndpoints(
        endpoints=endpoints,
        locality=_locality(locality.region, locality.zone, locality.sub_zone),
        weight=optional(message, "load_balancing_weight"),
        priority=message.priority,
    )


# Localities and ports are few, and endpoints many: they share them.
@lru_cache(maxsize=1 << 10)
def _locality(region: str, zone: str, sub_zone: str) -> Locality:
    return Locality(region, zone, sub_zone)


@lru_cache(maxsize=1 << 10)
def _port(number: int) -> int:
    return number


def _parse_endpoint(
    message: Any, place: _Place, notes: Notes, host_names: bool, known: dict[bytes, Metadata]
) -> EndpointConfig:
    if not acts_on_all(message, _LB_ENDPOINT_FIELDS):
        notes.unless_acted_on(message, _path(place), _LB_ENDPOINT_FIELDS)
    if not message.HasField("endpoint"):
        raise ResourceError(f"{_path(place)}.endpoint", "must be set; named endpoints are refused")
    endpoint = message.endpoint
    if not acts_on_all(endpoint, _ENDPOINT_FIELDS):
        notes.unless_acted_on(endpoint, f"{_path(place)}.endpoint", _ENDPOINT_FIELDS)
    if not endpoint.HasField("address"):
        raise ResourceError(f"{_path(place)}.endpoint.address", "must be set")
    return EndpointConfig(
        address=_parse_address(endpoint.address, place, host_names),
        # An open enum: a status from a newer Envoy means what UNKNOWN means.
        health=_HEALTH.get(message.health_status, HealthStatus.UNKNOWN),
        # LbEndpoint.load_balancing_weight: 1 where unset.
        weight=message.load_balancing_weight.value or 1 if message.HasField("load_balancing_weight") else 1,
        hostname=endpoint.hostname,
        metadata=_metadata_of(message.metadata, known) if message.HasField("metadata") else NO_METADATA,
        health_check=_health_check(endpoint.health_check_config)
        if endpoint.HasField("health_check_config")
        else USUAL_HEALTH_CHECK,
    )


def _health_check(message: Any) -> HealthCheckConfig:
    return HealthCheckConfig(message.port_value, message.hostname, message.disable_active_health_check)


def _path(place: _Place) -> str:
    where, index = place
    return f"{where}.lb_endpoints[{index}]"


def _metadata_of(message: Any, known: dict[bytes, Metadata]) -> Metadata:
    """An endpoint's metadata; those of one cluster mostly have the same, and share it."""
    packed = message.SerializeToString()
    found = known.get(packed)
    if found is None:
        metadata = message.filter_metadata
        found = known[packed] = {name: struct_as_dict(struct) for name, struct in metadata.items()}
    return found


def _parse_address(message: Any, place: _Place, host_names: bool) -> Address:
    """An envoy.config.core.v3.Address: a socket address with a port number, or a pipe."""
    which = message.WhichOneof("address")
    if which == "pipe":
        return Address(message.pipe.path, 0)
    if which != "socket_address":
        raise ResourceError(f"{_path(place)}.endpoint.address.{which}", "is an address that meshsdk cannot connect to")
    address = message.socket_address
    host, port = address.address, address.port_value
    if port and (host_names or _is_ip(host)):
        return Address(host, _port(port))
    where = f"{_path(place)}.endpoint.address.socket_address"
    if port:
        raise ResourceError(f"{where}.address", f"{host!r} is not an IP address; names need a DNS cluster")
    if address.WhichOneof("port_specifier") != "port_value":
        raise ResourceError(f"{where}.port_value", "must be set; named ports are refused")
    raise ResourceError(f"{where}.port_value", "must not be 0")


def _is_ip(text: str) -> bool:
    try:
        # A tenth of what ipaddress takes.
        socket.inet_pton(socket.AF_INET, text)
        return True
    except (OSError, ValueError):
        pass
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
