"""A folder as a `Source`: the embedded control plane, without a server and without a port."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ConfigError, ResourceError
from ..log_lines import logger_of
from ..resources import Resource, ResourceType, decode
from ..xds import CachedResource, ControlLoop, ResourceCache, Status, Timer
from ..xds.source import Wanted
from .folder import Folder
from .world import World

__all__ = ["FolderSource"]

logger = logger_of("meshsdk.controlplane")

# How long an edit may go unnoticed, at most.
POLL_SECONDS = 0.25


class FolderSource:
    """Answers from a folder's last good state, at once. Control thread only.

    Args:
        folder: The folder.
        cache: Where resources are put.
        loop: The control thread.
        poll_seconds: How often the folder is looked at.
    """

    def __init__(
        self, folder: Folder, cache: ResourceCache, loop: ControlLoop, poll_seconds: float = POLL_SECONDS
    ) -> None:
        self._folder = folder
        self._cache = cache
        self._loop = loop
        self._poll_seconds = poll_seconds
        self._wanted: dict[ResourceType, frozenset[str]] = {}
        self._timer: Timer | None = None
        self._hosts: tuple[World | None, Sequence[tuple[str, int]]] = (None, ())
        folder.refresh()
        loop.post(self._schedule)

    @property
    def is_connected(self) -> bool:
        """See `Source.is_connected`: a folder is looked at all the while."""
        return True

    @property
    def failures(self) -> int:
        """See `Source.failures`."""
        return 0

    @property
    def problem(self) -> str:
        """The folder's errors; empty where there are none."""
        return "; ".join(self._folder.state.errors)

    @property
    def hosts(self) -> Sequence[tuple[str, int]]:
        """All hosts that the folder has, with their ports, for hints. From any thread."""
        world = self._folder.state.world
        if self._hosts[0] is not world:
            found = [(one.host, port.number) for one in list(world.services.values()) for port in one.ports]
            self._hosts = world, found
        return self._hosts[1]

    @property
    def has_authorization_policies(self) -> bool:
        """Whether the folder has any, be they for whom they may. From any thread."""
        return bool(self._folder.state.world.security.authorizations)

    def subscribe(self, wanted: Wanted) -> None:
        """See `Source.subscribe`."""
        for kind in ResourceType:
            names, before = wanted.get(kind, frozenset()), self._wanted.get(kind, frozenset())
            self._wanted[kind] = frozenset(names)
            for gone in before - names:
                self._cache.forget(kind, gone)
            for new in names - before:
                self._cache.request(kind, new)
                self._supply(kind, new)

    def close(self) -> None:
        """See `Source.close`."""
        if self._timer is not None:
            self._timer.cancel()

    def _schedule(self) -> None:
        self._timer = self._loop.call_later(self._poll_seconds, self._poll)

    def refresh(self) -> None:
        """Look at the folder now, and pass on what changed."""
        if self._folder.refresh():
            for kind, names in self._wanted.items():
                for name in names:
                    self._supply(kind, name)

    def _poll(self) -> None:
        try:
            self.refresh()
        finally:
            self._schedule()

    def _supply(self, kind: ResourceType, name: str) -> None:
        """Put one resource, as the folder has it now, into the cache."""
        state = self._folder.state
        known = self._cache.get(kind, name)
        try:
            packed = state.grpc.get((kind, name))
            if packed is None and kind is ResourceType.LISTENER:
                packed = state.inbound(name) or state.view(state.client).listener(name)
            if packed is None:
                if known is None or known.status is not Status.DOES_NOT_EXIST:
                    self._cache.remove(kind, name, Status.DOES_NOT_EXIST, f"{self._folder.root} has no such resource")
            elif known is None or known.packed != packed:
                self._cache.accept(kind, name, decode(kind, packed, before=_before(known)), state.version, packed)
        except (ConfigError, ResourceError) as error:
            # An inbound listener that cannot be made, or a raw one for Envoys; the rest was checked when it was read.
            if known is not None and known.resource is not None:
                logger.error("%s: %s; the last good one stays in use", name, error)
            else:
                self._cache.remove(kind, name, Status.DOES_NOT_EXIST, str(error))


def _before(known: CachedResource | None) -> tuple[bytes, Resource] | None:
    return (known.packed, known.resource) if known is not None and known.resource is not None else None
