"""A folder, and what its raw resources say to come from elsewhere: files, and management servers of their own."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from ..node import Node
from ..xds import ControlLoop, ResourceCache, Source
from ..xds.by_name import ByName
from .source import FolderSource

__all__ = ["SourcedFolder"]

_FOLDER = "folder"


class SourcedFolder(ByName):
    """Resources of a folder, but for those whose names say another source.

    Args:
        folder: The folder's.
        node: Who to introduce oneself as to management servers.
        cache: Where resources are put.
        loop: The control thread.
    """

    def __init__(self, folder: FolderSource, node: Node, cache: ResourceCache, loop: ControlLoop) -> None:
        super().__init__(cache, loop, _FOLDER)
        self._node = node
        self._folder = folder
        self._clients[_FOLDER] = folder
        self._channels: Any = None

    @property
    def hosts(self) -> Sequence[tuple[str, int]]:
        """See `FolderSource.hosts`."""
        return self._folder.hosts

    def key_of(self, name: str) -> Hashable:
        """See `ByName`."""
        return _FOLDER

    def make(self, key: Any) -> Source:
        """See `ByName`."""
        # gRPC's stubs are loaded where there is a server to talk to.
        from ..xds.other_sources import make_elsewhere
        from ..xds.stream import Channels
        from .discovery_file import read_discovery_file

        if self._channels is None:
            self._channels = Channels()
        return make_elsewhere(
            key, self._node, self._cache, self._loop, self._channels, read_discovery_file, has_identity=True
        )
