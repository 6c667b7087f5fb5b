"""One Mesh as gRPC channels see it: its place on the relay, and the names under which channels ask for it."""

from __future__ import annotations

import hashlib
import threading
import weakref
from functools import partial
from typing import Any, Protocol

from envoy.config.route.v3 import route_components_pb2

# Loaded with this module, so that the first call does not wait for them: the control thread uses both.
from ... import health as _health  # noqa: F401
from ...control import Control
from ...errors import MeshError
from ...forked import keep
from ...mesh_status import GrpcStatus
from ...routing import CompiledForward
from ...xds import ads_client as _ads_client  # noqa: F401
from .action import write_policy
from .loads import add_load
from .names import channel_target
from .relay import Relay, join, leave, refuse_after_fork
from .resource_book import ResourceBook
from .target import TargetName, parse_target

__all__ = ["RelayedMesh"]


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
        self._book: ResourceBook | None = None
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
            refuse_after_fork()
            with self._lock:
                relay = self._relay
                if relay is None:
                    self.control.start()
                    relay, self._id = join(self)
                    self._book = ResourceBook(self.control, relay, self._id, self._policies)
                    self._book.reveals_peers = self.reveals_peers
                    self._book.open()
                    self._relay = relay
        return relay

    def start_beside(self) -> None:
        """Begin to join the relay on a thread of its own, while the target's configuration is being fetched.

        Raises:
            UnsupportedFeatureError: gRPC was used before this process was forked.
        """
        if self._relay is None and not self._is_starting:
            refuse_after_fork()
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
        if relay is not None and self._book is not None:
            # Where the book is written, so that nothing is given back that is just being taken.
            self.control.post(self._book.close)
            self.control.post(partial(leave, relay, self._id))

    def _drop_removed(self) -> None:
        """See `dispatcher.Transport`: grpc-core closes its connections as the relay stops naming their endpoints."""

    def _after_fork(self) -> None:
        """In a forked child: start afresh at the next call."""
        self._lock = threading.Lock()
        keep(self._relay)
        self._clear()

    def target_uri(self, target: TargetName, authority: str) -> str:
        """What a channel to a target asks grpc-core for."""
        return channel_target(self._id, "target", target.text, authority)

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
            self.control.post(self._show_peers)

    def register(self, ways: Forgetful) -> None:
        """Have `ways` forget what was worked out before peers were revealed."""
        self._ways.add(ways)

    def listener_names(self, target: TargetName) -> tuple[str, ...]:
        """The listeners that may stand for a target, best first."""
        return self.control.listener_names(
            target.host, target.port, port_is_explicit=target.port_is_explicit, authority=target.xds_authority
        )

    def want(self, listener: tuple[str, ...]) -> None:
        """See `relay.RelayClient`."""
        book = self._book
        if book is None:
            return
        match listener:
            case ("target", target, authority):
                names = self.listener_names(parse_target(target))
                self.control.when_settled(names, lambda: None)
                self.control.post(partial(book.want_target, target, authority, names))
            case ("to", cluster, policy):
                self.control.post(partial(book.want_destination, cluster, policy))

    def take_load(self, cluster: str, stats: Any) -> None:
        """See `relay.RelayClient`."""
        found = self.control.directory.clusters.get(cluster)
        if found is not None and found.load is not None:
            add_load(found, found.load, stats)

    def status(self) -> GrpcStatus:
        """For `Mesh.status`: what grpc-core refused, what it cannot do, and certificates that cannot be used."""
        relay, book = self._relay, self._book
        if relay is None or book is None:
            return {"refused": [], "notes": [], "problems": {}}
        return {"refused": relay.refused(self._id), "notes": book.notes, "problems": book.problems}

    def _show_peers(self) -> None:
        if self._book is not None:
            self._book.reveals_peers = True
            self._book.refresh()
