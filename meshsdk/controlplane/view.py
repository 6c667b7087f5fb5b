"""The resources of a folder as one client has them, in each of the shapes in which clients ask for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property

from envoy.config.listener.v3 import listener_pb2
from google.protobuf.message import Message

from ..errors import ConfigError, ResourceError
from ..resources import RESOURCE_TYPES, ResourceType, decode, resource_name
from .clusters import for_grpc_core, make_clusters
from .inbound import make_keys_clusters
from .listeners import make_grpc_listeners, make_refusal, make_sidecar_listeners
from .names import short_forms
from .scope import Scope
from .world import NOT_SAYABLE, hosts_overlap

__all__ = ["Packed", "View"]

Packed = dict[tuple[ResourceType, str], bytes]


class View:
    """What a client is served. Each shape is made when it is asked for first.

    Args:
        scope: What there is for the client.
        raw: Resources that stand in the folder as they are.
        checked: Bodies that are known to be good, such as those of the folder's last state; more are added.

    Attributes:
        errors: What is wrong with what was made so far.
    """

    def __init__(self, scope: Scope, raw: Mapping[tuple[ResourceType, str], bytes], checked: Packed) -> None:
        self.scope = scope
        self.errors: list[ConfigError] = []
        self._raw = raw
        self._checked = checked

    @cached_property
    def grpc(self) -> Packed:
        """For clients that ask for listeners by name."""
        return self._packed(lambda: (*self._clusters, *make_grpc_listeners(self.scope, self.errors)))

    @cached_property
    def grpc_core(self) -> Packed:
        """The same, with the clusters and timeouts that gRPC's own xDS client takes."""
        return self._packed(
            lambda: (
                *(for_grpc_core(one) if one.DESCRIPTOR.name == "Cluster" else one for one in self._clusters),
                *make_grpc_listeners(self.scope, self.errors, is_grpc_core=True),
            )
        )

    @cached_property
    def sidecar(self) -> Packed:
        """For an Envoy, which asks for all there is."""
        return self._packed(lambda: (*self._clusters, *make_sidecar_listeners(self.scope, self.errors)))

    def listener(self, name: str) -> bytes | None:
        """The listener of a host that nothing names: a wildcard's, or a refusal where others must not be called."""
        host, _, port = name.rpartition(":")
        is_of_client = bool(host) and port.isdecimal() and "/" not in name
        if not is_of_client:
            return None
        if host in self.full_names:
            # `reviews.` is asked for by this name alone, as it stands for no full one, and must not go past the mesh.
            packed = self.grpc.get((ResourceType.LISTENER, f"{self.full_names[host]}:{port}"))
            return _renamed(packed, name) if packed is not None and self.scope.registry_only else None
        for pattern in self._wildcards:
            packed = self.grpc.get((ResourceType.LISTENER, f"{pattern}:{port}"))
            if packed is not None and hosts_overlap(pattern, host):
                return _renamed(packed, name)
        if not self.scope.registry_only or self._is_passed_through(host, int(port)):
            return None
        refusal: bytes = make_refusal(name).SerializeToString(deterministic=True)
        return refusal

    @cached_property
    def _wildcards(self) -> list[str]:
        """Of services and rules, the most specific ones first, as domains of virtual hosts are looked for."""
        every = dict.fromkeys([*self.scope.services, *self.scope.hosts_of_rules])
        return sorted((one for one in every if one.startswith("*")), key=len, reverse=True)

    def _is_passed_through(self, host: str, port: int) -> bool:
        """Whether a ServiceEntry has a host by a wildcard, and leaves it to be looked up."""
        return any(
            one.host.startswith("*") and hosts_overlap(one.host, host) and any(own.number == port for own in one.ports)
            for one in self.scope.services.values()
        )

    @cached_property
    def full_names(self) -> dict[str, str]:
        """Of hosts in their short forms; whoever is on the mesh by meshsdk asks for the full name, too."""
        scope = self.scope
        namespace, domain = scope.client.namespace, scope.world.domain
        return {short: host for host in scope.services for short in short_forms(host, namespace, domain)}

    @cached_property
    def _clusters(self) -> list[Message]:
        return [*make_clusters(self.scope, self.errors), *make_keys_clusters(self.scope.world)]

    def _packed(self, make: Callable[[], Iterable[Message]]) -> Packed:
        try:
            return {**_pack(make(), self.errors, self._checked), **self._raw}
        except ConfigError as error:
            self.errors.append(error)
        except NOT_SAYABLE as error:
            self.errors.append(ConfigError("the folder", f"cannot be said in xDS: {error}"))
        return dict(self._raw)


def _renamed(packed: bytes, name: str) -> bytes:
    listener = listener_pb2.Listener.FromString(packed)
    listener.name = name
    return bytes(listener.SerializeToString(deterministic=True))


def _pack(messages: Iterable[Message], errors: list[ConfigError], checked: Packed) -> Packed:
    """Messages as bytes by type and name. Each is checked as a client would, so that no error waits for one.

    That takes longer than all the rest, so that what has been checked is not checked again.
    """
    packed: Packed = {}
    for message in messages:
        kind = RESOURCE_TYPES[f"type.googleapis.com/{message.DESCRIPTOR.full_name}"]
        body = message.SerializeToString(deterministic=True)
        name = resource_name(kind, body)
        if checked.get((kind, name)) != body:
            try:
                decode(kind, body)
            except ResourceError as error:
                errors.append(ConfigError(f"{name}: {error.field}", error.problem))
                continue
            checked.setdefault((kind, name), body)
        packed[(kind, name)] = body
    return packed
