"""Resources that come from elsewhere than ADS, each source as a `Source`: files, and servers of one type.

Which one is in a resource's name (`resources.config_source`). A source knows its resources by their own names, so each
sees the cache through a view that puts the rest before them.

Control thread only.
"""

from __future__ import annotations

import os
from typing import Any

from ..bootstrap import ChannelCredentials, XdsServer
from ..errors import ResourceError
from ..log_lines import logger_of
from ..node import Node
from ..resources import FileOrigin, Resource, ResourceType, ServerOrigin, decode, kept_bytes, origin_of
from .ads_client import AdsClient
from .by_name import Elsewhere, ReadFile
from .cache import CachedResource, ResourceCache, ResourceKey, Status
from .cluster_server import ClusterServer
from .loop import ControlLoop, Timer
from .source import Source, Wanted
from .stream import ADS, Channels

__all__ = ["FileSource", "ViewOfCache", "make_elsewhere"]

logger = logger_of("meshsdk.xds")

# How long an edit may go unnoticed. It is read when it has been as it is since the last look: whoever moves a file into
# its place has it read whole, whoever writes into one is given that long.
_POLL_SECONDS = 0.1

_SERVICES = {
    ResourceType.LISTENER: "envoy.service.listener.v3.ListenerDiscoveryService/Listeners",
    ResourceType.ROUTE_CONFIGURATION: "envoy.service.route.v3.RouteDiscoveryService/Routes",
    ResourceType.CLUSTER: "envoy.service.cluster.v3.ClusterDiscoveryService/Clusters",
    ResourceType.ENDPOINTS: "envoy.service.endpoint.v3.EndpointDiscoveryService/Endpoints",
    ResourceType.SECRET: "envoy.service.secret.v3.SecretDiscoveryService/Secrets",
}


class ViewOfCache(ResourceCache):
    """The part of a cache whose names begin in one way, by the rest of their names.

    Args:
        cache: The whole.
        prefix: What names begin with.
    """

    def __init__(self, cache: ResourceCache, prefix: str) -> None:
        self._whole = cache
        self._prefix = prefix
        self.counts = cache.counts
        self.packed = {}
        # Some may be: it is looked at each.
        self.kept = 1
        self.fleeting = _Keys(cache.fleeting, prefix)

    def get(self, kind: ResourceType, name: str) -> CachedResource | None:
        """See `ResourceCache`, as for all here."""
        return self._whole.get(kind, self._prefix + name)

    def request(self, kind: ResourceType, name: str) -> None:
        """See `ResourceCache`."""
        self._whole.request(kind, self._prefix + name)

    def accept(self, kind: ResourceType, name: str, resource: Resource, version: str, packed: bytes) -> None:
        """See `ResourceCache`."""
        self._whole.accept(kind, self._prefix + name, resource, version, packed)

    def accept_unchanged(self, kind: ResourceType, name: str, version: str) -> None:
        """See `ResourceCache`."""
        self._whole.accept_unchanged(kind, self._prefix + name, version)

    def reject(self, kind: ResourceType, name: str, error: str, version: str = "", *, drops: bool = False) -> None:
        """See `ResourceCache`."""
        self._whole.reject(kind, self._prefix + name, error, version, drops=drops)

    def blame(
        self, kind: ResourceType, name: str, error: str, *, drops: bool = False, is_missing: bool = False
    ) -> None:
        """See `ResourceCache`."""
        self._whole.blame(kind, self._prefix + name, error, drops=drops, is_missing=is_missing)

    def remove(self, kind: ResourceType, name: str, status: Status, error: str, kept_at: float = 0.0) -> None:
        """See `ResourceCache`."""
        self._whole.remove(kind, self._prefix + name, status, error, kept_at)

    def keep_deleted(self, kind: ResourceType, name: str, error: str) -> None:
        """See `ResourceCache`."""
        self._whole.keep_deleted(kind, self._prefix + name, error)

    def forget(self, kind: ResourceType, name: str) -> None:
        """See `ResourceCache`."""
        self._whole.forget(kind, self._prefix + name)


class _Keys(set[ResourceKey]):
    """Keys of a view, kept among those of the whole cache."""

    def __init__(self, whole: set[ResourceKey], prefix: str) -> None:
        super().__init__()
        self._whole = whole
        self._prefix = prefix

    def add(self, key: ResourceKey) -> None:
        """See set."""
        self._whole.add((key[0], self._prefix + key[1]))

    def discard(self, key: Any) -> None:
        """See set."""
        self._whole.discard((key[0], self._prefix + key[1]))


def make_elsewhere(
    key: Elsewhere,
    node: Node,
    cache: ResourceCache,
    loop: ControlLoop,
    channels: Channels,
    read_file: ReadFile,
    *,
    has_identity: bool,
) -> Source:
    """The source that names say."""
    found, view = origin_of(key.prefix), ViewOfCache(cache, key.prefix)
    assert found is not None
    if isinstance(found[0], FileOrigin):
        return FileSource(found[0], read_file, view, loop, has_identity=has_identity)
    return _server_source(found[0], key.kind, node, (view, cache), loop, channels, has_identity=has_identity)


def _server_source(
    origin: ServerOrigin,
    kind: ResourceType,
    node: Node,
    caches: tuple[ResourceCache, ResourceCache],
    loop: ControlLoop,
    channels: Channels,
    *,
    has_identity: bool,
) -> Source:
    """The resources of a type from a server of its own (ApiConfigSource).

    Args:
        origin: The server.
        kind: The type.
        node: Who to introduce oneself as.
        caches: Where resources are put, and where clusters are.
        loop: The control thread.
        channels: Where channels are from.
        has_identity: This process can show a certificate of the mesh.
    """
    own, whole = caches

    def make(servers: tuple[XdsServer, ...]) -> Source:
        return AdsClient(
            servers,
            node,
            own,
            loop,
            channels=channels,
            has_identity=has_identity,
            service=ADS if origin.is_aggregated else _SERVICES[kind],
        )

    features = frozenset(["meshsdk.incremental"] if origin.is_incremental else [])
    if origin.cluster:
        return ClusterServer(origin.cluster, features, make, whole, own, loop)
    credentials = (
        ChannelCredentials("tls", origin.root_certs, origin.cert_chain, origin.private_key)
        if origin.is_secured
        else ChannelCredentials("insecure")
    )
    return make((XdsServer(origin.target, credentials, features),))


class FileSource:
    """The resources of a file (PathConfigSource), read again when it is another one.

    A file that cannot be read, or is wrong, changes nothing; what is wrong is told of the resources that are wanted.

    Args:
        origin: The file.
        read: Reads one; what it raises of ValueError and OSError says what is wrong, and holds nothing of the content.
        cache: Where resources are put.
        loop: The control thread.
        has_identity: This process can show a certificate of the mesh.
    """

    is_connected = True

    def __init__(
        self, origin: FileOrigin, read: ReadFile, cache: ResourceCache, loop: ControlLoop, *, has_identity: bool
    ) -> None:
        self._origin = origin
        self._read = read
        self._cache = cache
        self._loop = loop
        self._has_identity = has_identity
        self._wanted: dict[ResourceType, frozenset[str]] = {}
        self._found: dict[tuple[ResourceType, str], bytes] = {}
        self._stamp: object = None
        self._seen: object = None
        self._version = 0
        self._timer: Timer | None = None
        self.failures = 0
        self.problem = ""
        self._load(self._look())

    def subscribe(self, wanted: Wanted) -> None:
        """See `Source.subscribe`."""
        for kind in ResourceType:
            names, before = wanted.get(kind, frozenset()), self._wanted.get(kind, frozenset())
            self._wanted[kind] = names
            for gone in before - names:
                self._cache.forget(kind, gone)
            for new in names - before:
                self._cache.request(kind, new)
                self._supply(kind, new)
        if self._timer is None:
            self._schedule()

    def close(self) -> None:
        """See `Source.close`."""
        if self._timer is not None:
            self._timer.cancel()

    def _schedule(self) -> None:
        self._timer = self._loop.call_later(_POLL_SECONDS, self._poll)

    def _poll(self) -> None:
        try:
            stamp = self._look()
            is_at_rest, self._seen = stamp == self._seen, stamp
            if is_at_rest and stamp != self._stamp:
                self._load(stamp)
                for kind, names in self._wanted.items():
                    for name in names:
                        self._supply(kind, name)
        finally:
            self._schedule()

    def _look(self) -> object:
        """What is another one when the file may be."""
        stamps: list[object] = []
        for path in (self._origin.path, self._origin.watched_directory):
            try:
                found = os.stat(path) if path else None
            except (OSError, ValueError):
                found = None
            stamps.append(found and (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size))
        return stamps

    def _load(self, stamp: object) -> None:
        self._seen = self._stamp = stamp
        try:
            self._found = self._read(self._origin.path)
        except (ValueError, OSError) as error:
            self.problem = f"{self._origin.path}: {error}"
            self.failures += 1
            logger.error("%s%s", self.problem, "; what it held last stays in use" if self._found else "")
        else:
            self.problem = ""
            self._version += 1

    def _supply(self, kind: ResourceType, name: str) -> None:
        """Put one resource, as the file has it now, into the cache."""
        packed, known = self._found.get((kind, name)), self._cache.get(kind, name)
        if self.problem:
            self._cache.reject(kind, name, self.problem)
        elif packed is None:
            self._cache.remove(kind, name, Status.DOES_NOT_EXIST, f"{self._origin.path} does not have it")
        else:
            try:
                resource: Any = decode(kind, packed, grpc_profile=True, has_identity=self._has_identity)
            except ResourceError as error:
                self._cache.reject(kind, name, str(error))
                has_one = known is not None and known.resource is not None
                logger.error(
                    "%s: %s%s", self._origin.path, error, "; the last good one stays in use" if has_one else ""
                )
                return
            kept = kept_bytes(kind, packed)
            if known is not None and known.resource == resource and known.packed == kept:
                self._cache.accept_unchanged(kind, name, str(self._version))
            else:
                self._cache.accept(kind, name, resource, str(self._version), kept)
