"""The sources of a process that has management servers: by the authority of a resource's name (gRFC A47).

A name that is no `xdstp:` URI is the top-level servers'. A URI's is its authority's: servers of its own, or the
top-level ones. Authorities of the same servers share a stream; lists that only have a server in common share the
channel. What fails for one authority is nothing to the others. An authority that the bootstrap does not know has no
resources: that is told as the error of each that is wanted of it.

Control thread only.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from ..bootstrap import Bootstrap
from ..errors import BootstrapError
from ..xdstp import authority_of
from .ads_client import AdsClient
from .by_name import ByName, Elsewhere, ReadFile, no_files
from .cache import ResourceCache
from .loop import ControlLoop
from .other_sources import make_elsewhere
from .source import Source
from .stream import Channels

__all__ = ["Federation"]


class Federation(ByName):
    """Keeps the wanted resources current, each by the servers of its authority.

    Args:
        bootstrap: Node, servers and authorities.
        cache: Where resources are put.
        loop: The control thread.
        has_identity: This process can show a certificate of the mesh.
        read_file: Reads the resources of a file.
        **options: `ByName`'s.
    """

    def __init__(
        self,
        bootstrap: Bootstrap,
        cache: ResourceCache,
        loop: ControlLoop,
        *,
        has_identity: bool = False,
        read_file: ReadFile = no_files,
        **options: Any,
    ) -> None:
        super().__init__(cache, loop, bootstrap.servers, **options)
        self._bootstrap = bootstrap
        self._has_identity = has_identity
        self._read_file = read_file
        self._channels = Channels()
        self._client(bootstrap.servers)

    def key_of(self, name: str) -> Hashable:
        """The servers of the name's authority; see `ByName`."""
        return self._bootstrap.servers_of(authority_of(name))

    def is_connected_for(self, name: str) -> bool:
        """Whether changes of a resource are heard of."""
        try:
            client = self._clients.get(self.key_of(name))
        except BootstrapError:
            return True  # It is known that there is none.
        return client is not None and client.is_connected

    def cannot_be_had(self, name: str) -> bool:
        """Whether none of the servers of a resource is there, as far as they have been tried."""
        try:
            client = self._clients.get(self.key_of(name))
        except BootstrapError:
            return True
        return isinstance(client, AdsClient) and client.cannot_be_had

    def make(self, key: Any) -> Source:
        """See `ByName`."""
        node, has_identity = self._bootstrap.node, self._has_identity
        if isinstance(key, Elsewhere):
            return make_elsewhere(
                key, node, self._cache, self._loop, self._channels, self._read_file, has_identity=has_identity
            )
        return AdsClient(
            key,
            node,
            self._cache,
            self._loop,
            channels=self._channels,
            has_identity=has_identity,
            takes_all=node.is_sidecar and key == self._bootstrap.servers,
        )
