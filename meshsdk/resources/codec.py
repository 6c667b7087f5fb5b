"""From a type URL and bytes to a typed resource, and the list of resource types there are."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from google.protobuf.message import DecodeError, Message
from msgspec import Struct
from msgspec.structs import replace

from ..errors import ResourceError
from . import constraints, protos
from .cluster import Endpoints, parse_cluster, parse_endpoints, with_grpc_rules
from .listener import Listener, ServerListener, is_outbound, parse_listener, parse_outbound_listener
from .route import parse_packed_routes, parse_route_configuration
from .tls import parse_secret, redacted_secret
from .values import contained
from .wire import LENGTH, fields, span

__all__ = ["RESOURCE_TYPES", "ResourceType", "Unparsed", "decode", "kept_bytes", "name_of", "resource_name"]


class ResourceType(Enum):
    """The xDS resource types that a client asks for, in the order in which they depend on each other."""

    LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
    ROUTE_CONFIGURATION = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
    CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    ENDPOINTS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
    SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

    # Each is one object. An Enum's own hash is made by Python of its name, for every look into a cache.
    __hash__ = object.__hash__

    @property
    def type_url(self) -> str:
        """The type URL that stands in a DiscoveryRequest."""
        return self.value

    @property
    def is_complete_in_every_response(self) -> bool:
        """Whether a resource that a state-of-the-world response leaves out is thereby deleted (xDS protocol docs)."""
        return self in (ResourceType.LISTENER, ResourceType.CLUSTER)


RESOURCE_TYPES = {kind.type_url: kind for kind in ResourceType}

# A resource as it came: still packed.
Unparsed = bytes


class _Codec(Struct, frozen=True, gc=False):
    message: Callable[[], type[Message]]
    name_field: str
    parse: Callable[[Any], Any]


def _parse_either(message: Any) -> Listener | ServerListener:
    """A listener of a client has an api_listener (gRFC A27), one of a server has none (gRFC A36)."""
    if message.HasField("api_listener"):
        return parse_listener(message)
    constraints.check(message)
    from .listener import parse_server_listener

    return parse_server_listener(message)


_CODECS: dict[ResourceType, _Codec] = {
    ResourceType.LISTENER: _Codec(lambda: protos.listener_pb2.Listener, "name", _parse_either),
    ResourceType.ROUTE_CONFIGURATION: _Codec(
        lambda: protos.route_pb2.RouteConfiguration, "name", parse_route_configuration
    ),
    ResourceType.CLUSTER: _Codec(lambda: protos.cluster_pb2.Cluster, "name", parse_cluster),
    ResourceType.ENDPOINTS: _Codec(lambda: protos.endpoint_pb2.ClusterLoadAssignment, "cluster_name", parse_endpoints),
    ResourceType.SECRET: _Codec(lambda: protos.secret_pb2.Secret, "name", parse_secret),
}


def name_of(kind: ResourceType, message: Message) -> str:
    """The name of a resource that is no longer packed, or not yet."""
    return str(getattr(message, _CODECS[kind].name_field))


def resource_name(kind: ResourceType, packed: Unparsed) -> str:
    """The name inside a packed resource; empty where it cannot be read."""
    number = _CODECS[kind].message().DESCRIPTOR.fields_by_name[_CODECS[kind].name_field].number
    try:
        # A route configuration of a whole mesh is not to be parsed for its name.
        for field, wire, value, _ in fields(packed, 0, len(packed)):
            if field == number and wire == LENGTH:
                begin, end = span(packed, value)
                return packed[begin:end].decode()
    except (ValueError, IndexError):
        pass
    return ""


def decode(
    kind: ResourceType,
    packed: Unparsed,
    *,
    grpc_profile: bool = False,
    sidecar_profile: bool = False,
    has_identity: bool = False,
    before: tuple[Unparsed, Any] | None = None,
) -> Any:
    """A packed resource as its frozen dataclass (a `Resource`).

    Args:
        kind: Its type.
        packed: Its bytes.
        grpc_profile: It comes from a server that was asked by gRPC's bootstrap; else it is as an Envoy would take it.
        sidecar_profile: It comes from a server that takes this client for a sidecar. What goes out has listeners of
            its own then, virtual hosts stay packed, and clusters may stand for wherever a request was to go by itself.
        has_identity: In gRPC's profile: this process can show a certificate of the mesh.
        before: The bytes and the resource that this one takes the place of, of whose endpoints those that are the same
            are taken over.

    Raises:
        ResourceError: The bytes do not parse, or a rule does not hold; it carries the resource's name.
    """
    if sidecar_profile and kind is ResourceType.ROUTE_CONFIGURATION:
        with contained("RouteConfiguration", resource_name(kind, packed)):
            return parse_packed_routes(packed)
    message = _unpack(kind, packed)
    with contained(message.DESCRIPTOR.name, name_of(kind, message)):
        if sidecar_profile and kind is ResourceType.CLUSTER:
            return parse_cluster(message, of_sidecar=True)
        if sidecar_profile and kind is ResourceType.LISTENER and is_outbound(message):
            return parse_outbound_listener(message)
        if kind is ResourceType.ENDPOINTS and before is not None and isinstance(before[1], Endpoints):
            return parse_endpoints(message, before=(_unpack(kind, before[0]), before[1]))
        parsed = _CODECS[kind].parse(message)
        if not grpc_profile:
            return parsed
        if kind is ResourceType.CLUSTER:
            return with_grpc_rules(message, parsed, has_identity=has_identity)
        if kind is ResourceType.ROUTE_CONFIGURATION and not parsed.virtual_hosts:
            # istiod: of ports that carry bytes there are no routes (grpcgen/rds.go).
            return replace(parsed, passes_through=True)
        return parsed


def kept_bytes(kind: ResourceType, packed: Unparsed) -> bytes:
    """What may be kept of a resource's bytes, to be shown: of secrets, what is none."""
    return redacted_secret(_unpack(kind, packed)) if kind is ResourceType.SECRET else packed


def _unpack(kind: ResourceType, packed: Unparsed) -> Message:
    message = _CODECS[kind].message()()
    try:
        message.ParseFromString(packed)
    except DecodeError as error:
        raise ResourceError(message.DESCRIPTOR.name, f"does not parse: {error}") from error
    return message
