"""One Mesh's resources on the relay, and how they are kept current. Control thread only.

Theory of operation. grpc-core asks for listeners by name; what the Directory has for them, and for the clusters that
they lead to, is written down. Whenever the Directory or an endpoint's health changes, the book is gone through again:
each resource remembers what it was made from, so what did not change is not written again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from envoy.config.route.v3 import route_components_pb2
from msgspec import Struct, field
from msgspec.structs import replace

from ...balancing import Cluster
from ...control import Control
from ...errors import ResourceError
from ...exchange import Directory
from ...log_lines import logger_of
from ...resources import AggregateDiscovery, ResourceType, StatefulSession, UpstreamTls
from . import limits
from .cluster import passthrough_cluster, unusable_cluster, write_cluster, write_endpoints
from .listener import PEER_COOKIE, routes_of, write_listener, write_target
from .names import resource_name
from .relay import Relay
from .target import parse_target
from .tls import identity_source, roots_source, write_tls
from .tls_slots import SlotSource

__all__ = ["ResourceBook"]

logger = logger_of("meshsdk.grpc")

_ROTATION_SECONDS = 0.25
_LINGER_SECONDS = 5.0
_PASSTHROUGH = "passthrough:"
# Callers may open channels to whatever host they are told; what is asked for must not grow without bound.
_MAX_LISTENERS = 4096


class _Written(Struct, frozen=True):
    """A resource as it was last written, and what from."""

    made_from: tuple[Hashable, ...]
    packed: bytes
    clusters: frozenset[str] = frozenset()
    unused_since: float | None = None
    kept: tuple[Any, ...] = ()  # Objects whose identity `made_from` holds must not be replaced by others meanwhile.

    def in_use(self) -> _Written:
        """The same, not unused."""
        return self if self.unused_since is None else replace(self, unused_since=None)


class _State(Struct):
    """What is asked for, and what was written."""

    targets: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    destinations: dict[tuple[str, str], None] = field(default_factory=dict)
    written: dict[tuple[ResourceType, str], _Written] = field(default_factory=dict)
    published: dict[tuple[ResourceType, str], bytes] = field(default_factory=dict)
    sources: dict[str, tuple[SlotSource, ...]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    has_unused: bool = False
    notes: dict[str, None] = field(default_factory=dict)
    logged: set[str] = field(default_factory=set)


class ResourceBook:
    """Writes a Mesh's resources, and publishes them.

    Args:
        control: The Mesh's.
        relay: Where they are served, and certificates are put.
        mesh: The Mesh's id there.
        policies: What `RelayedMesh.policy_key` has written, by key.

    Attributes:
        reveals_peers: Responses say which endpoint they come from.
    """

    def __init__(self, control: Control, relay: Relay, mesh: str, policies: Mapping[str, bytes]) -> None:
        self.control = control
        self.reveals_peers = False
        self._relay = relay
        self._id = mesh
        self._policies = policies
        self._state = _State()
        self._is_closed = False

    def open(self) -> None:
        """Follow the Mesh from now on. From any thread."""
        self.control.watch(self.refresh)
        self.control.call_later(_ROTATION_SECONDS, self._rotate)

    def close(self) -> None:
        """Give back the slots of all certificates."""
        self._is_closed = True
        for sources in self._state.sources.values():
            for source in sources:
                self._relay.slots.release(source)
        self._state.sources.clear()

    @property
    def notes(self) -> list[str]:
        """What of the configuration gRPC channels do not carry out."""
        return list(self._state.notes)

    @property
    def problems(self) -> dict[str, str]:
        """Why clusters cannot be reached as they should, by name."""
        return dict(self._state.problems)

    @property
    def published(self) -> Mapping[tuple[ResourceType, str], bytes]:
        """What is served."""
        return self._state.published

    def want_target(self, target: str, authority: str, names: tuple[str, ...]) -> None:
        """grpc-core asks for the listener of a target, for which one of `names` stands."""
        _remember(self._state.targets, (target, authority), names)
        self.refresh()

    def want_destination(self, cluster: str, policy: str) -> None:
        """grpc-core asks for the listener that leads to one cluster."""
        _remember(self._state.destinations, (cluster, policy), None)
        self.refresh()

    def _rotate(self) -> None:
        if self._is_closed:
            return
        relay = self._relay
        try:
            relay.slots.refresh()
            if self._state.has_unused:
                self._state.has_unused = False
                self.refresh()
            for name, sources in self._state.sources.items():
                problem = "; ".join(filter(None, map(relay.slots.problem, sources)))
                self._report(name, problem)
        finally:
            self.control.call_later(_ROTATION_SECONDS, self._rotate)

    def _report(self, cluster: str, problem: str) -> None:
        if problem:
            self._state.problems[cluster] = problem
        else:
            self._state.problems.pop(cluster, None)

    def refresh(self) -> None:
        """Write down what changed, and publish it."""
        if self._is_closed:
            return
        relay = self._relay
        state, directory = self._state, self.control.directory
        written: dict[tuple[ResourceType, str], _Written] = {}
        clusters: dict[str, None] = {}
        state.refused.clear()
        for (target, authority), names in state.targets.items():
            self._write_target(target, authority, names, directory, written)
        for cluster, policy in state.destinations:
            self._write_destination(cluster, policy, written)
        for one in list(written.values()):
            clusters.update(dict.fromkeys(one.clusters))
        for name in _with_children(clusters, self._cluster):
            cluster_view = self._cluster(name)
            if cluster_view is not None:
                self._write_cluster(cluster_view, relay, written)
        self._keep_unused(written)
        self._release_unused(relay, written)
        state.written = written
        published = {key: one.packed for key, one in written.items()}
        if published != state.published:
            state.published = published
            relay.publish(self._id, published)

    def _cluster(self, name: str) -> Cluster | None:
        """A cluster of now; or one that has just left, for calls that were decided before."""
        directory = self.control.directory
        found, left = directory.clusters.get(name), directory.left.get(name)
        if found is None and left is not None and time.monotonic() - left[1] < _LINGER_SECONDS:
            self._state.has_unused = True
            return left[0]
        return found

    def _keep_unused(self, written: dict[tuple[ResourceType, str], _Written]) -> None:
        """Make before break: what grpc-core may still be using stays, until it has surely taken over what is new."""
        now = time.monotonic()
        for key, one in self._state.written.items():
            if key in written or key[0] is ResourceType.LISTENER or key[1] in self._state.refused:
                continue
            if one.unused_since is None:
                one = replace(one, unused_since=now)
            if now - (one.unused_since or now) < _LINGER_SECONDS:
                written[key] = one
                self._state.has_unused = True

    def _write_target(
        self,
        target: str,
        authority: str,
        names: Sequence[str],
        directory: Directory,
        written: dict[tuple[ResourceType, str], _Written],
    ) -> None:
        key = (ResourceType.LISTENER, resource_name(ResourceType.LISTENER, self._id, "target", target, authority))
        known = self._state.written.get(key)
        found = directory.find(names)
        if found is None:
            # Still being fetched; grpc-core waits. What it has it keeps: left out, it would be gone to grpc-core.
            self._keep_passthrough(target, key, written)
            return
        table = found[-1].table
        if table is None:
            is_unknown = all(one.view.does_not_exist for one in found)
            is_allowed = is_unknown and self.control.unknown_hosts == "allow"
            if is_allowed or found[-1].view.passes_through:
                self._write_passthrough(target, key, written)
            else:
                # Calls are answered before they come here; this keeps grpc-core from waiting for a resource.
                virtual_host = route_components_pb2.VirtualHost(name="none", domains=["*"])
                packed = write_listener(key[1], virtual_host, None).SerializeToString(deterministic=True)
                written[key] = _Written((), packed)
            return
        made_from = (id(table), self.reveals_peers)
        if known is not None and known.made_from == made_from:
            written[key] = known
            return
        listener = write_target(key[1], table, authority, self._cluster_name, reveal_peers=self.reveals_peers)
        index = routes_of(table, authority)
        names_of_clusters = frozenset(
            choice.name
            for route in (index.routes if index is not None else ())
            if route.forward is not None
            for choice in route.forward.action.clusters
            if choice.name
        )
        packed = listener.SerializeToString(deterministic=True)
        written[key] = _Written(made_from, packed, names_of_clusters, kept=(table,))
        self._note(limits.of_routes(table, authority))

    def _write_passthrough(
        self, target: str, key: tuple[ResourceType, str], written: dict[tuple[ResourceType, str], _Written]
    ) -> None:
        name = parse_target(target)
        hint = self.control.hint(name.host, name.port)
        if hint:
            self._note([f"the mesh does not know {target}; {hint}"])
        cluster = f"{_PASSTHROUGH}{name.host}:{name.port}"
        virtual_host = route_components_pb2.VirtualHost(name="passthrough", domains=["*"])
        route = virtual_host.routes.add()
        route.match.prefix = ""
        route.route.cluster = self._cluster_name(cluster)
        written[key] = _Written((), write_listener(key[1], virtual_host, None).SerializeToString(deterministic=True))
        message = passthrough_cluster(self._id, cluster, name.host, name.port)
        written[(ResourceType.CLUSTER, message.name)] = _Written((), message.SerializeToString(deterministic=True))

    def _keep_passthrough(
        self, target: str, key: tuple[ResourceType, str], written: dict[tuple[ResourceType, str], _Written]
    ) -> None:
        name = parse_target(target)
        cluster = self._cluster_name(f"{_PASSTHROUGH}{name.host}:{name.port}")
        for one in (key, (ResourceType.CLUSTER, cluster)):
            if one in self._state.written:
                written[one] = self._state.written[one].in_use()

    def _write_destination(self, cluster: str, policy: str, written: dict[tuple[ResourceType, str], _Written]) -> None:
        action = self._policies.get(policy)
        if action is None:
            return
        key = (ResourceType.LISTENER, resource_name(ResourceType.LISTENER, self._id, "to", cluster, policy))
        virtual_host = route_components_pb2.VirtualHost(name=cluster, domains=["*"])
        route = virtual_host.routes.add()
        route.match.prefix = ""
        route.route.ParseFromString(action)
        route.route.cluster = self._cluster_name(cluster)
        session = StatefulSession(cookie=PEER_COOKIE) if self.reveals_peers else None
        packed = write_listener(key[1], virtual_host, session).SerializeToString(deterministic=True)
        written[key] = _Written((), packed, frozenset([cluster]))

    def _write_cluster(self, cluster: Cluster, relay: Relay, written: dict[tuple[ResourceType, str], _Written]) -> None:
        config = cluster.config
        key = (ResourceType.CLUSTER, self._cluster_name(cluster.name))
        known = self._state.written.get(key)
        # Without auto mTLS: grpc-core could not reach sidecars in PERMISSIVE, which take plaintext.
        configured = config.configured_tls_of
        settings = frozenset(configured(endpoint.config) for _, endpoint in cluster) or frozenset([config.tls])
        if known is not None and known.made_from == (id(config), settings):
            written[key] = known.in_use()
        else:
            try:
                tls = self._write_tls(cluster.name, settings, relay)
            except ResourceError as error:
                # Without its TLS settings the cluster must not be reached at all, nor by those that it had before.
                problem = f"cannot be used over gRPC: {error}"
                if self._state.problems.get(cluster.name) != problem:
                    logger.error("cluster %s %s", cluster.name, problem)
                self._report(cluster.name, problem)
                self._state.refused.add(key[1])
                unusable, nobody = unusable_cluster(self._id, cluster.name)
                written[key] = _Written((), unusable.SerializeToString(deterministic=True))
                its_endpoints = (ResourceType.ENDPOINTS, nobody.cluster_name)
                written[its_endpoints] = _Written((), nobody.SerializeToString(deterministic=True))
                return
            packed = write_cluster(self._id, cluster, tls).SerializeToString(deterministic=True)
            written[key] = _Written((id(config), settings), packed, kept=(config,))
            self._note(limits.of_cluster(config))
        if isinstance(config.discovery, AggregateDiscovery):
            return
        key = (ResourceType.ENDPOINTS, resource_name(ResourceType.ENDPOINTS, self._id, cluster.name))
        made_from = (id(cluster.host_sets), id(config), cluster.drop_share)
        known = self._state.written.get(key)
        if known is not None and known.made_from == made_from:
            written[key] = known.in_use()
            return
        packed = write_endpoints(self._id, cluster).SerializeToString(deterministic=True)
        written[key] = _Written(made_from, packed, kept=(cluster.host_sets, config))

    def _write_tls(self, cluster: str, settings: frozenset[UpstreamTls | None], relay: Relay) -> Any:
        """The TLS settings of a cluster, which grpc-core has one of, whatever transport_socket_matches says."""
        if len(settings) > 1:
            raise ResourceError(
                "transport_socket_matches", "endpoints of one cluster that differ in TLS cannot be told to grpc-core"
            )
        [only] = settings
        if only is None:
            return None
        tls = self.control.secrets.of_client(only)
        sources = tuple(source for source in (identity_source(tls), roots_source(tls)) if source is not None)
        write_tls(tls, "", "")  # Refuses what grpc-core cannot check, before any slot is taken.
        taken = {source: relay.slots.take(source) for source in sources}
        for source in self._state.sources.pop(cluster, ()):
            relay.slots.release(source)
        self._state.sources[cluster] = sources
        self._report(cluster, "; ".join(filter(None, map(relay.slots.problem, sources))))
        identity, roots = identity_source(tls), roots_source(tls)
        return write_tls(tls, taken[identity] if identity else "", taken[roots] if roots else "")

    def _release_unused(self, relay: Relay, written: dict[tuple[ResourceType, str], _Written]) -> None:
        state = self._state
        for name in [name for name in state.sources if (ResourceType.CLUSTER, self._cluster_name(name)) not in written]:
            for source in state.sources.pop(name):
                relay.slots.release(source)
            if self._cluster_name(name) not in state.refused:
                state.problems.pop(name, None)

    def _note(self, notes: Iterable[str]) -> None:
        for note in notes:
            if note in self._state.notes or len(self._state.notes) >= 1000:
                continue
            self._state.notes[note] = None
            kind = note.rpartition(": ")[2]
            # Many clusters are alike; the status has all of them.
            if kind not in self._state.logged:
                self._state.logged.add(kind)
                logger.warning("gRPC: %s", note)

    def _cluster_name(self, cluster: str) -> str:
        return resource_name(ResourceType.CLUSTER, self._id, cluster)


K = TypeVar("K")
V = TypeVar("V")


def _remember(asked: dict[K, V], key: K, value: V) -> None:
    """Put something last in line; beyond the limit the first in line is forgotten."""
    asked.pop(key, None)
    asked[key] = value
    while len(asked) > _MAX_LISTENERS:
        del asked[next(iter(asked))]


def _with_children(names: Iterable[str], find: Callable[[str], Cluster | None]) -> Iterable[str]:
    """Clusters and, below aggregates, theirs; each once."""
    seen: dict[str, None] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen[name] = None
        cluster = find(name)
        if cluster is not None and isinstance(cluster.config.discovery, AggregateDiscovery):
            waiting += cluster.config.discovery.clusters
    return seen
