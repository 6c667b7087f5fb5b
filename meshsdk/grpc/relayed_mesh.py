"""One Mesh's resources on the relay.

Theory of operation. grpc-core asks for listeners by name (`want`), the control thread writes down what the Directory
has for them and for the clusters that they lead to, and whenever the Directory or an endpoint's health changes it
looks again. What did not change is not written again: each resource remembers what it was made from.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import urllib.parse
import weakref
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from envoy.config.route.v3 import route_components_pb2

# Loaded with this module, so that the first call does not wait for them: the control thread uses both.
from .. import health as _health  # noqa: F401
from ..balancing import Cluster
from ..control import Control
from ..errors import MeshError, ResourceError
from ..exchange import Directory
from ..resources import AggregateDiscovery, ResourceType, StatefulSession
from ..routing import CompiledForward
from ..security import with_provider_files
from ..xds import ads_client as _ads_client  # noqa: F401
from . import limits
from .names import channel_target, resource_name
from .native_action import write_policy
from .native_cluster import passthrough_cluster, write_cluster, write_endpoints
from .native_listener import PEER_COOKIE, routes_of, write_listener, write_target
from .native_tls import identity_source, roots_source, write_tls
from .relay import Relay, join, leave
from .tls_slots import SlotSource

__all__ = ["RelayedMesh", "TargetName", "parse_target"]

logger = logging.getLogger("meshsdk.grpc")

_ROTATION_SECONDS = 0.25
_LINGER_SECONDS = 5.0
_PASSTHROUGH = "passthrough:"
# A call's own header may name the cluster, so what is asked for must not grow without bound.
_MAX_DESTINATIONS = 4096


@dataclass(frozen=True, slots=True)
class TargetName:
    """What a channel is opened to.

    Attributes:
        host, port: In lower case.
        port_is_explicit: Whether the target names it.
    """

    host: str
    port: int
    port_is_explicit: bool

    @property
    def authority(self) -> str:
        """As it stands in requests."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port_is_explicit else host


def parse_target(target: str) -> TargetName:
    """A channel's target: `ratings:9080`, or `xds:///ratings:9080`.

    Raises:
        ValueError: It is neither.
    """
    text = target.removeprefix("xds:///")
    scheme, separator, _ = text.partition("://")
    parts = urllib.parse.urlsplit(f"//{text}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"target {target!r}: {error}") from None
    if separator or not host or parts.path or parts.query or parts.username is not None:
        hint = f"; {scheme!r} is a scheme that a Mesh does not resolve" if separator else ""
        raise ValueError(f"target {target!r} is not of the form 'host:port' or 'xds:///host:port'{hint}")
    return TargetName(host, port or 80, port is not None)


@dataclass(frozen=True, slots=True)
class _Written:
    """A resource as it was last written, and what from."""

    made_from: tuple[Hashable, ...]
    packed: bytes
    clusters: frozenset[str] = frozenset()
    unused_since: float | None = None
    kept: tuple[Any, ...] = ()  # Objects whose identity `made_from` holds must not be replaced by others meanwhile.

    def in_use(self) -> _Written:
        """The same, not unused."""
        return self if self.unused_since is None else replace(self, unused_since=None)


@dataclass(slots=True)
class _State:
    """What the control thread works with."""

    targets: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    destinations: dict[tuple[str, str], None] = field(default_factory=dict)
    written: dict[tuple[ResourceType, str], _Written] = field(default_factory=dict)
    published: dict[tuple[ResourceType, str], bytes] = field(default_factory=dict)
    sources: dict[str, tuple[SlotSource, ...]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    has_unused: bool = False
    notes: dict[str, None] = field(default_factory=dict)
    logged: set[str] = field(default_factory=set)


class Forgetful(Protocol):
    """Something that remembers how calls go."""

    def forget(self) -> None:
        """Work it out anew."""


class RelayedMesh:
    """Gives grpc-core what a Mesh has. Made at once; it joins the process's relay when the first call needs it.

    Args:
        control: The Mesh's control side.
    """

    def __init__(self, control: Control) -> None:
        self.control = control
        self._ways: weakref.WeakSet[Forgetful] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        self._relay: Relay | None = None
        self._id = ""
        self._state = _State()
        self._policies: dict[str, bytes] = {}
        self.reveals_peers = False
        self._is_starting = False

    # From any thread.

    def start(self) -> Relay:
        """Join the relay, where that has not been done.

        Raises:
            RequestError: The Mesh is closed.
            MeshError: As of `relay.join`.
        """
        relay = self._relay
        if relay is None:
            with self._lock:
                relay = self._relay
                if relay is None:
                    self.control.start()
                    relay, self._id = join(self)
                    self._relay = relay
                    self.control.watch(self._refresh)
                    self.control.call_later(_ROTATION_SECONDS, self._rotate)
        return relay

    def start_beside(self) -> None:
        """Begin to join the relay on a thread of its own, while the target's configuration is being fetched."""
        if self._relay is None and not self._is_starting:
            self._is_starting = True
            threading.Thread(target=self._try_start, name="meshsdk-relay-start", daemon=True).start()

    def _try_start(self) -> None:
        try:
            self.start()
        except MeshError:
            self._is_starting = False  # The call that needs it will be told.

    def close(self) -> None:
        """Leave the relay."""
        with self._lock:
            relay, self._relay = self._relay, None
        if relay is not None:
            for sources in self._state.sources.values():
                for source in sources:
                    relay.slots.release(source)
            leave(relay, self._id)

    def after_fork(self) -> None:
        """In a forked child: start afresh at the next call."""
        self._lock = threading.Lock()
        self._clear()

    def target_uri(self, target: TargetName, authority: str) -> str:
        """What a channel to a target asks grpc-core for."""
        return channel_target(self._id, "target", target.authority, authority)

    def destination_uri(self, cluster: str, policy: str) -> str:
        """What a channel to one cluster asks grpc-core for."""
        return channel_target(self._id, "to", cluster, policy)

    def policy_key(self, forward: CompiledForward | None) -> str:
        """A name for all that a route says but where it leads, to open a channel with."""
        message = route_components_pb2.RouteAction()
        if forward is not None:
            write_policy(forward, message)
        packed = message.SerializeToString(deterministic=True)
        key = hashlib.sha256(packed).hexdigest()[:16]
        self._policies[key] = packed
        return key

    def reveal_peers(self) -> None:
        """Have responses say which endpoint they come from, from now on."""
        if not self.reveals_peers:
            self.reveals_peers = True
            for ways in list(self._ways):
                ways.forget()
            self.control.post(self._refresh)

    def register(self, ways: Forgetful) -> None:
        """Have `ways` forget what was worked out before peers were revealed."""
        self._ways.add(ways)

    def listener_names(self, target: TargetName) -> tuple[str, ...]:
        """The listeners that may stand for a target, best first."""
        return self.control.listener_names(target.host, target.port, port_is_explicit=target.port_is_explicit)

    def want(self, listener: tuple[str, ...]) -> None:
        """See `relay.RelayClient`."""
        match listener:
            case ("target", target, authority):
                names = self.listener_names(parse_target(target))
                self.control.when_settled(names, lambda: None)
                self.control.post(lambda: self._want_target(target, authority, names))
            case ("to", cluster, policy):
                self.control.post(lambda: self._want_destination(cluster, policy))

    def status(self) -> dict[str, Any]:
        """For `Mesh.status`: what grpc-core refused, what it cannot do, and certificates that cannot be used."""
        relay = self._relay
        if relay is None:
            return {"refused": [], "notes": [], "problems": {}}
        return {
            "refused": relay.refused(self._id),
            "notes": list(self._state.notes),
            "problems": dict(self._state.problems),
        }

    # On the control thread.

    def _want_target(self, target: str, authority: str, names: tuple[str, ...]) -> None:
        self._state.targets[(target, authority)] = names
        self._refresh()

    def _want_destination(self, cluster: str, policy: str) -> None:
        destinations = self._state.destinations
        destinations.pop((cluster, policy), None)
        destinations[(cluster, policy)] = None
        while len(destinations) > _MAX_DESTINATIONS:
            del destinations[next(iter(destinations))]
        self._refresh()

    def _rotate(self) -> None:
        relay = self._relay
        if relay is None:
            return
        try:
            relay.slots.refresh()
            if self._state.has_unused:
                self._state.has_unused = False
                self._refresh()
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

    def _refresh(self) -> None:
        """Write down what changed, and publish it."""
        relay = self._relay
        if relay is None:
            return
        state, directory = self._state, self.control.directory
        written: dict[tuple[ResourceType, str], _Written] = {}
        clusters: dict[str, None] = {}
        for (target, authority), names in state.targets.items():
            self._write_target(target, authority, names, directory, written)
        for cluster, policy in state.destinations:
            self._write_destination(cluster, policy, written)
        for one in list(written.values()):
            clusters.update(dict.fromkeys(one.clusters))
        for name in _with_children(clusters, directory):
            cluster_view = directory.clusters.get(name)
            if cluster_view is not None:
                self._write_cluster(cluster_view, relay, written)
        self._keep_unused(written)
        self._release_unused(relay, written)
        state.written = written
        published = {key: one.packed for key, one in written.items()}
        if published != state.published:
            state.published = published
            relay.publish(self._id, published)

    def _keep_unused(self, written: dict[tuple[ResourceType, str], _Written]) -> None:
        """Make before break: what grpc-core may still be using stays, until it has surely taken over what is new."""
        now = time.monotonic()
        for key, one in self._state.written.items():
            if key in written or key[0] is ResourceType.LISTENER:
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
        found = [directory.targets.get(name) for name in names]
        if any(one is None for one in found):
            return  # Still being fetched; grpc-core waits.
        key = (ResourceType.LISTENER, resource_name(ResourceType.LISTENER, self._id, "target", target, authority))
        table = next((one.table for one in found if one is not None and one.table is not None), None)
        if table is None:
            is_unknown = all(one is not None and one.view.does_not_exist for one in found)
            if is_unknown and self.control.unknown_hosts == "allow":
                self._write_passthrough(target, key, written)
            else:
                # Calls are answered before they come here; this keeps grpc-core from waiting for a resource.
                virtual_host = route_components_pb2.VirtualHost(name="none", domains=["*"])
                packed = write_listener(key[1], virtual_host, None).SerializeToString(deterministic=True)
                written[key] = _Written((), packed)
            return
        made_from = (id(table), self.reveals_peers)
        known = self._state.written.get(key)
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
        cluster = f"{_PASSTHROUGH}{name.host}:{name.port}"
        virtual_host = route_components_pb2.VirtualHost(name="passthrough", domains=["*"])
        route = virtual_host.routes.add()
        route.match.prefix = ""
        route.route.cluster = self._cluster_name(cluster)
        written[key] = _Written((), write_listener(key[1], virtual_host, None).SerializeToString(deterministic=True))
        message = passthrough_cluster(self._id, cluster, name.host, name.port)
        written[(ResourceType.CLUSTER, message.name)] = _Written((), message.SerializeToString(deterministic=True))

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
        if known is not None and known.made_from == (id(config),):
            written[key] = known.in_use()
        else:
            try:
                tls = self._write_tls(cluster, relay)
            except ResourceError as error:
                # Without its TLS settings the cluster must not be reached at all.
                self._report(cluster.name, f"cannot be used over gRPC: {error}")
                logger.error("cluster %s cannot be used over gRPC: %s", cluster.name, error)
                return
            packed = write_cluster(self._id, cluster, tls).SerializeToString(deterministic=True)
            written[key] = _Written((id(config),), packed, kept=(config,))
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

    def _write_tls(self, cluster: Cluster, relay: Relay) -> Any:
        if cluster.config.tls is None:
            return None
        tls = with_provider_files(cluster.config.tls, self.control.certificate_providers)
        sources = tuple(source for source in (identity_source(tls), roots_source(tls)) if source is not None)
        write_tls(tls, "", "")  # Refuses what grpc-core cannot check, before any slot is taken.
        taken = {source: relay.slots.take(source) for source in sources}
        for source in self._state.sources.pop(cluster.name, ()):
            relay.slots.release(source)
        self._state.sources[cluster.name] = sources
        self._report(cluster.name, "; ".join(filter(None, map(relay.slots.problem, sources))))
        identity, roots = identity_source(tls), roots_source(tls)
        return write_tls(tls, taken[identity] if identity else "", taken[roots] if roots else "")

    def _release_unused(self, relay: Relay, written: dict[tuple[ResourceType, str], _Written]) -> None:
        state = self._state
        for name in [name for name in state.sources if (ResourceType.CLUSTER, self._cluster_name(name)) not in written]:
            for source in state.sources.pop(name):
                relay.slots.release(source)
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


def _with_children(names: Iterable[str], directory: Directory) -> Iterable[str]:
    """Clusters and, below aggregates, theirs; each once."""
    seen: dict[str, None] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen[name] = None
        cluster = directory.clusters.get(name)
        if cluster is not None and isinstance(cluster.config.discovery, AggregateDiscovery):
            waiting += cluster.config.discovery.clusters
    return seen
