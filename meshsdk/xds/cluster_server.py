"""A management server that is named by a cluster (ApiConfigSource with EnvoyGrpc).

An Envoy has such clusters in its own configuration. Here the management server is asked for it, as for any other. The
server is where the cluster's endpoints are, in their order, which stand in it as addresses or host names.

Control thread only.
"""

from __future__ import annotations

from collections.abc import Callable

from ..bootstrap import ChannelCredentials, XdsServer
from ..errors import ResourceError
from ..resources import Cluster, DnsDiscovery, ResourceType, StaticDiscovery, TlsFile, UpstreamTls
from .cache import ResourceCache
from .loop import ControlLoop, Timer
from .source import Source, Wanted

__all__ = ["ClusterServer", "servers_of_cluster"]

# How long the cluster may be here, or another one, before that is noticed.
_POLL_SECONDS = 0.1

MakeClient = Callable[[tuple[XdsServer, ...]], Source]


class ClusterServer:
    """The source of a server that a cluster leads to, as soon as the cluster is known.

    Args:
        cluster: Its name.
        features: Of the server.
        make_client: Makes the source of what some servers have.
        clusters: Where the cluster is.
        own: Where the server's resources are put.
        loop: The control thread.
    """

    def __init__(
        self,
        cluster: str,
        features: frozenset[str],
        make_client: MakeClient,
        clusters: ResourceCache,
        own: ResourceCache,
        loop: ControlLoop,
    ) -> None:
        self._cluster = cluster
        self._features = features
        self._make_client = make_client
        self._clusters = clusters
        self._own = own
        self._loop = loop
        self._wanted: Wanted = {}
        self._seen: object = None
        self._servers: tuple[XdsServer, ...] = ()
        self._client: Source | None = None
        self._problem = ""
        self._past_failures = 0
        self._timer: Timer | None = None

    @property
    def is_connected(self) -> bool:
        """See `Source.is_connected`."""
        return self._client is not None and self._client.is_connected

    @property
    def failures(self) -> int:
        """See `Source.failures`."""
        return self._past_failures + (self._client.failures if self._client is not None else 0)

    @property
    def problem(self) -> str:
        """See `Source.problem`."""
        return self._problem or (self._client.problem if self._client is not None else "")

    def subscribe(self, wanted: Wanted) -> None:
        """See `Source.subscribe`."""
        for kind in ResourceType:
            names, before = wanted.get(kind, frozenset()), self._wanted.get(kind, frozenset())
            for name in before - names:
                self._own.forget(kind, name)
            for name in names - before:
                self._own.request(kind, name)
        self._wanted = wanted
        if self._client is not None:
            self._client.subscribe(wanted)
        elif self._problem:
            self._tell()
        if self._timer is None:
            self._poll()

    def close(self) -> None:
        """See `Source.close`."""
        if self._timer is not None:
            self._timer.cancel()
        if self._client is not None:
            self._client.close()

    def _poll(self) -> None:
        self._timer = self._loop.call_later(_POLL_SECONDS, self._poll)
        entry = self._clusters.get(ResourceType.CLUSTER, self._cluster)
        if entry is None or not entry.is_settled or entry.resource is self._seen is not None:
            return
        try:
            if not isinstance(entry.resource, Cluster):
                raise ResourceError("envoy_grpc.cluster_name", entry.error, self._cluster)
            servers = servers_of_cluster(entry.resource, self._features)
        except ResourceError as error:
            # The servers that it led to last stay in use.
            if self._client is None and str(error) != self._problem:
                self._problem = str(error)
                self._tell()
            return
        self._seen, self._problem = entry.resource, ""
        if servers != self._servers:
            self._servers = servers
            if self._client is not None:
                self._past_failures += self._client.failures
                self._client.close()
            self._client = self._make_client(servers)
            self._client.subscribe(self._wanted)

    def _tell(self) -> None:
        for kind, names in self._wanted.items():
            for name in names:
                self._own.reject(kind, name, self._problem)


def servers_of_cluster(cluster: Cluster, features: frozenset[str] = frozenset()) -> tuple[XdsServer, ...]:
    """The servers that a cluster leads to.

    Raises:
        ResourceError: It has no endpoints of its own, or TLS settings that the channel to a server cannot keep.
    """
    if not isinstance(cluster.discovery, StaticDiscovery | DnsDiscovery):
        raise ResourceError("envoy_grpc.cluster_name", "must be a cluster of static endpoints or of DNS", cluster.name)
    localities = sorted(cluster.discovery.endpoints.localities, key=lambda one: one.priority)
    endpoints = [one for locality in localities for one in locality.endpoints]
    if not endpoints:
        raise ResourceError("envoy_grpc.cluster_name", "has no endpoints", cluster.name)
    return tuple(
        XdsServer(str(one.address), _credentials(cluster.tls_of(one), cluster.name), features) for one in endpoints
    )


def _credentials(tls: UpstreamTls | None, cluster: str) -> ChannelCredentials:
    if tls is None:
        return ChannelCredentials("insecure")
    trust, identity = tls.trust, tls.identity
    # The channel compares the host's name with the certificate's, and nothing else.
    is_plain = not (trust.san_matchers or trust.spki_hashes or trust.certificate_hashes or trust.crl or trust.spiffe)
    if not is_plain or trust.own_domain_path or tls.sni:
        raise ResourceError("transport_socket", "asks for more of a management server's peer than its name", cluster)
    files = [trust.trusted_ca]
    files += [identity.certificate, identity.private_key] if identity is not None else []
    paths = [one.path if isinstance(one, TlsFile) else "" for one in files if one is not None]
    if not all(paths):
        raise ResourceError("transport_socket", "must name files, for a management server", cluster)
    roots = "" if trust.trusted_ca is None else paths.pop(0)
    return ChannelCredentials("tls", roots, *paths)
