"""Clusters that stand for wherever a request was to go by itself (ORIGINAL_DST).

A sidecar connects to the address that the application has looked up. A client in this process looks the request's own
host up itself, so such a cluster is another one for each host that is asked for: under a name of its own, and by DNS.
"""

from __future__ import annotations

from msgspec.structs import replace

from ...errors import ResourceError
from ..values import port_of
from ..wire import fields
from .cluster import Cluster, DnsDiscovery
from .endpoints import Address, EndpointConfig, Endpoints, LocalityEndpoints

__all__ = ["at_original", "is_original", "original_name", "stands_for"]

_PREFIX = "original_dst@"
_OUTBOUND = "outbound|"
_PASSTHROUGH = "PassthroughCluster"


# envoy.config.cluster.v3.Cluster.type, and DiscoveryType.ORIGINAL_DST.
_TYPE = 2
_ORIGINAL_DST = 4


def is_original(packed: bytes) -> bool:
    """Whether a packed Cluster is one of these."""
    try:
        types = [value for number, wire, value, _ in fields(packed, 0, len(packed)) if (number, wire) == (_TYPE, 0)]
    except (ValueError, IndexError):
        return False
    return bool(types) and packed[types[-1]] == _ORIGINAL_DST


def original_name(host: str, port: int, cluster: str) -> str:
    """Of a cluster that is reached where a host is looked up, whatever it is named after itself.

    Its last three parts are those of the cluster whose place it takes.
    """
    return f"{_PREFIX}{host}:{port}|{cluster.partition('|')[2]}"


def stands_for(name: str) -> str:
    """The cluster whose place a cluster takes; its own name where it takes none's."""
    if not name.startswith(_PREFIX):
        return name
    rest = name.partition("|")[2]
    return f"{_OUTBOUND}{rest}" if rest else _PASSTHROUGH


def at_original(cluster: Cluster, name: str) -> Cluster:
    """A cluster under a name that `original_name` has made, with the host that it names for its endpoint.

    Raises:
        ResourceError: The name says no host and port.
    """
    host, _, port = name.removeprefix(_PREFIX).partition("|")[0].rpartition(":")
    number = port_of(port)
    if not host or number is None:
        raise ResourceError("name", f"{name[:100]!r} is to say a host and port", cluster.name)
    endpoint = EndpointConfig(Address(host.strip("[]"), number), hostname=host)
    discovery = DnsDiscovery(Endpoints(name, (LocalityEndpoints((endpoint,)),)), logical=True)
    return replace(cluster, name=name, discovery=discovery)
