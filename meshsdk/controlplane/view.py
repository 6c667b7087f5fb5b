"""The resources of a folder as one client has them, in each of the shapes in which clients ask for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import cached_property, partial

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from google.protobuf.message import Message

from ..errors import ConfigError
from ..resources import ResourceType
from .clusters import cluster_inputs, for_grpc_core, make_clusters
from .inbound import make_keys_clusters
from .listeners import grpc_listeners, make_refusal, sidecar_listeners, with_own_domains
from .memo import Memo
from .names import cluster_name, names_of, short_forms
from .originals import pod_hosts
from .packing import Packed, Packer, Resources
from .scope import Scope
from .virtual_hosts import hosts_of_rules, short_names
from .world import NOT_SAYABLE, hosts_overlap

__all__ = ["Packed", "View"]


class View:
    """What a client is served. Each shape is made when it is asked for first, by whichever thread that does.

    Args:
        scope: What there is for the client.
        raw: Resources that stand in the folder as they are.
        memo: What was made for the client before.
        checked: Bodies that are known to be good.
        making: Held while something is made. It must be reentrant.

    Attributes:
        errors: What is wrong with what was made so far.
    """

    def __init__(
        self, scope: Scope, raw: Packed, memo: Memo, checked: Packed, making: AbstractContextManager[object]
    ) -> None:
        self.scope = scope
        self.memo = memo
        self.errors: list[ConfigError] = []
        self._raw = raw
        self._making = making
        self._shapes: dict[str, Packed] = {}
        self._packer = Packer(memo, checked)

    @property
    def grpc(self) -> Packed:
        """For clients that ask for listeners by name."""
        return self._shape("grpc", lambda: (*self._clusters, *grpc_listeners(self.scope, self._packer)))

    @property
    def grpc_core(self) -> Packed:
        """The same, with the clusters and timeouts that gRPC's own xDS client takes."""
        return self._shape(
            "grpc-core",
            lambda: (
                *self._clusters,
                *map(self._for_grpc_core, self._clusters),
                *grpc_listeners(self.scope, self._packer, is_grpc_core=True),
            ),
        )

    @property
    def sidecar(self) -> Packed:
        """For an Envoy, which asks for all there is."""
        return self._shape("sidecar", lambda: (*self._clusters, *sidecar_listeners(self.scope, self._packer)))

    def listener(self, name: str) -> bytes | None:
        """The listener of a host that nothing names: a wildcard's, or a refusal where others must not be called."""
        host, _, port = name.rpartition(":")
        is_of_client = bool(host) and port.isdecimal() and "/" not in name
        if not is_of_client:
            return None
        if host in self._pods:
            packed = self.grpc.get((ResourceType.LISTENER, f"{self._pods[host]}:{port}"))
            return _renamed(packed, name) if packed is not None else None
        if host in self.full_names:
            # `reviews.` is asked for by this name alone, as it stands for no full one, and must not go past the mesh.
            packed = self.grpc.get((ResourceType.LISTENER, f"{self.full_names[host]}:{port}"))
            return _renamed(packed, name) if packed is not None and self.scope.registry_only else None
        for pattern in self._wildcards:
            packed = self.grpc.get((ResourceType.LISTENER, f"{pattern}:{port}"))
            if packed is not None and hosts_overlap(pattern, host):
                return self._of_wildcard(packed, pattern, name)
        if not self.scope.registry_only or self._is_passed_through(host, int(port)):
            return None
        refusal: bytes = make_refusal(name, self.scope.telemetry).SerializeToString(deterministic=True)
        return refusal

    def _of_wildcard(self, packed: bytes, pattern: str, name: str) -> bytes:
        """A wildcard's listener for one host of it, also under the short forms of that host."""
        host, _, port = name.rpartition(":")
        client, domain = self.scope.client, self.scope.world.domain
        key = ResourceType.ROUTE_CONFIGURATION, cluster_name(int(port), "", pattern)
        if not short_forms(host, client.namespace, domain) or key not in self.grpc:
            return _renamed(packed, name)
        names = names_of(host, port=int(port), namespace=client.namespace, domain=domain)
        return with_own_domains(packed, self.grpc[key], name, names)

    @cached_property
    def _wildcards(self) -> list[str]:
        """Of services and rules, the most specific ones first, as domains of virtual hosts are looked for."""
        every = dict.fromkeys([*self.scope.hosts, *hosts_of_rules(self.scope)])
        return sorted((one for one in every if one.startswith("*")), key=len, reverse=True)

    def _is_passed_through(self, host: str, port: int) -> bool:
        """Whether a ServiceEntry has a host by a wildcard, and leaves it to be looked up."""
        return any(
            one.host.startswith("*") and hosts_overlap(one.host, host) and any(own.number == port for own in one.ports)
            for one in self.scope.hosts.values()
        )

    @cached_property
    def _pods(self) -> dict[str, str]:
        """Of the hosts of pods in their short forms, which only the service's own form makes one: the full names."""
        pods = [pod for service in self.scope.hosts.values() for pod in pod_hosts(service)]
        return {name: pod.host for pod in pods for name in short_names(self.scope, pod)}

    @cached_property
    def full_names(self) -> dict[str, str]:
        """Of hosts in their short forms; whoever is on the mesh by meshsdk asks for the full name, too."""
        scope = self.scope
        namespace, domain = scope.client.namespace, scope.world.domain
        return {short: host for host in scope.hosts for short in short_forms(host, namespace, domain)}

    @cached_property
    def _clusters(self) -> list[Resources]:
        scope, world = self.scope, self.scope.world
        inputs = (
            [*scope.services.values()],
            scope.destination_rules,
            scope.client,
            world.defaults,
            world.security.mesh,
            world.security.peers,
        )

        def make(inside: Packer) -> list[Resources]:
            return [inside.keep(one.service.host, one, partial(make_clusters, one)) for one in cluster_inputs(*inputs)]

        made = self._packer.keep_all("clusters", inputs, make)
        return [*made, self._packer.pack(lambda _: make_keys_clusters(world))]

    def _for_grpc_core(self, clusters: Resources) -> Resources:
        """What stands in the place of clusters."""
        packed = {name: body for (kind, name), body in clusters.packed.items() if kind is ResourceType.CLUSTER}

        def adapt(_: list[ConfigError]) -> Iterator[Message]:
            for body in packed.values():
                yield for_grpc_core(cluster_pb2.Cluster.FromString(body))

        return self._packer.keep(("for grpc-core", *packed), (packed,), adapt)

    def _shape(self, shape: str, make: Callable[[], Iterable[Resources]]) -> Packed:
        found = self._shapes.get(shape)
        if found is None:
            # From Python 3.12 on, `cached_property` has every thread that comes meanwhile make it as well.
            with self._making:
                found = self._shapes.get(shape)
                if found is None:
                    found = self._shapes[shape] = self._joined(make)
        return found

    def _joined(self, make: Callable[[], Iterable[Resources]]) -> Packed:
        packed: Packed = {}
        try:
            for made in make():
                packed.update(made.packed)
                self.errors += made.errors
        except NOT_SAYABLE as error:
            self.errors.append(ConfigError("the folder", f"cannot be said in xDS: {error}"))
            packed = {}
        packed.update(self._raw)
        return packed


def _renamed(packed: bytes, name: str) -> bytes:
    listener = listener_pb2.Listener.FromString(packed)
    listener.name = name
    return bytes(listener.SerializeToString(deterministic=True))
