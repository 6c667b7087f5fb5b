"""The grpc-core channels behind one channel of a Mesh.

One leads to the target, and grpc-core finds its way from there. Others, made when a call needs them, lead to one
cluster each; they share connections, since grpc-core keeps those by address for the whole process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import grpc
import grpc.experimental

from ...errors import RequestError
from ...log_lines import logger_of
from ..engine import NO_PROXY, RelayedMesh, TargetName
from .call_error import MeshRpcError

__all__ = ["Lines", "channel_credentials", "taken_options", "with_authority"]

logger = logger_of("meshsdk.grpc")

C = TypeVar("C")
Open = Callable[[str, str], C]

_DEFAULT_AUTHORITY = "grpc.default_authority"

# Destinations of one channel; beyond this the longest unused is let go (its calls end as they would).
_MAX_DESTINATIONS = 128


def taken_options(options: Sequence[tuple[str, Any]] | None, authority: str) -> tuple[list[tuple[str, Any]], str]:
    """A caller's channel options, but for the authority, which is the target's unless they name one.

    Args:
        options: As grpc takes them.
        authority: Of the target.
    """
    given = dict(options or ())
    if "grpc.service_config" in given:
        # gRFC A44: with xDS the service config is the routes'. Retries have one owner.
        logger.warning(
            "channel to %s: the option grpc.service_config has no effect; retries are those of the mesh's routes,"
            " carried out by grpc-core",
            authority,
        )
    chosen = given.pop(_DEFAULT_AUTHORITY, authority)
    return list(given.items()), str(chosen)


def channel_credentials(fallback: Any) -> Any:
    """Credentials of the inner channels: the mesh's TLS settings where a cluster has them, else `fallback`."""
    return grpc.xds_channel_credentials(fallback or grpc.experimental.insecure_channel_credentials())


def with_authority(options: Sequence[tuple[str, Any]], authority: str) -> list[tuple[str, Any]]:
    """Channel options of an inner channel, whose calls carry an authority and go by no proxy."""
    return [*options, (_DEFAULT_AUTHORITY, authority), *NO_PROXY]


class Lines(Generic[C]):
    """Opens inner channels when they are first needed.

    Args:
        relayed: The Mesh on the relay.
        target: Where the channel leads.
        authority: Of its calls.
        open_channel: Makes a channel to a URI with an authority.

    Raises:
        BootstrapError: The bootstrap does not have the target's xDS authority.
    """

    def __init__(self, relayed: RelayedMesh, target: TargetName, authority: str, open_channel: Open[C]) -> None:
        relayed.listener_names(target)
        self.relayed = relayed
        self.target = target
        self.authority = authority
        self._open = open_channel
        self._lock = threading.Lock()
        self._main: C | None = None
        self._destinations: dict[tuple[str, str, str], C] = {}
        self._is_closed = False

    def main(self) -> C:
        """The channel to the target.

        Raises:
            ValueError: The channel is closed.
            MeshRpcError: The Mesh is closed.
        """
        channel = self._main
        if channel is None:
            with self._lock:
                self._check_open()
                if self._main is None:
                    self._start()
                    self._main = self._open(self.relayed.target_uri(self.target, self.authority), self.authority)
                channel = self._main
        return channel

    def to(self, authority: str, cluster: str, policy: str) -> C:
        """The channel to one cluster.

        Args:
            authority: Of calls.
            cluster: Its name.
            policy: What `RelayedMesh.policy_key` says of the route.

        Raises:
            ValueError: The channel is closed.
            MeshRpcError: The Mesh is closed.
        """
        key = (authority, cluster, policy)
        with self._lock:
            self._check_open()
            channel = self._destinations.pop(key, None)
            if channel is None:
                self._start()
                channel = self._open(self.relayed.destination_uri(cluster, policy), authority)
                while len(self._destinations) >= _MAX_DESTINATIONS:
                    del self._destinations[next(iter(self._destinations))]
            self._destinations[key] = channel
            return channel

    def take_all(self) -> list[C]:
        """Every channel, to be closed; none can be opened any more."""
        with self._lock:
            self._is_closed = True
            channels = [*self._destinations.values(), *([self._main] if self._main is not None else [])]
            self._destinations.clear()
            self._main = None
            return channels

    def _start(self) -> None:
        try:
            relay = self.relayed.start()
        except RequestError as error:
            raise MeshRpcError(grpc.StatusCode.CANCELLED, str(error)) from None
        relay.check_socket()

    def _check_open(self) -> None:
        if self._is_closed:
            # What grpc's own channels say.
            raise ValueError("Cannot invoke RPC on closed channel!")
