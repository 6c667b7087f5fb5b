"""Names of the relay's resources: xdstp names (gRFC A47) that carry the Mesh's id.

    xdstp://meshsdk/envoy.config.listener.v3.Listener/<mesh>/target/<target>/<authority>
    xdstp://meshsdk/envoy.config.listener.v3.Listener/<mesh>/to/<cluster>/<policy>
    xdstp://meshsdk/envoy.config.listener.v3.Listener/keeper
    xdstp://meshsdk/envoy.config.cluster.v3.Cluster/<mesh>/<cluster>
    xdstp://meshsdk/envoy.config.endpoint.v3.ClusterLoadAssignment/<mesh>/<cluster>

Parts are written as grpc-core writes names in its requests, so that names can be compared as text: a slash inside a
part is `~1` and a tilde `~0` (RFC 6901), since grpc-core does not keep an encoded slash apart from a plain one; the
rest is percent-encoded by the rules of a URI's path (RFC 3986 section 3.3).
"""

from __future__ import annotations

import urllib.parse

from ...resources import ResourceType

__all__ = ["AUTHORITY", "KEEPER", "NO_PROXY", "channel_target", "cluster_of", "parts_of", "resource_name", "shown"]

# The authority under which the relay stands in the bootstrap.
AUTHORITY = "meshsdk"

# The target of the channel that keeps grpc-core's bootstrap in use (`process_bootstrap`); no Mesh's id is a word.
KEEPER = "keeper"

# grpc-core puts the environment's proxy (grpc_proxy, https_proxy, http_proxy) in the place of any target but a unix
# socket, and would resolve the proxy's name instead of the mesh's (http_proxy_mapper.cc). Nothing of the mesh goes by
# one.
NO_PROXY = (("grpc.enable_http_proxy", 0), ("grpc.address_http_proxy_enabled_addresses", ""))

# RFC 3986: unreserved characters, sub-delims, and what a path segment may hold besides.
_PATH_SAFE = "-._~!$&'()*+,;=:@"


def resource_name(kind: ResourceType, *parts: str) -> str:
    """The xdstp name of a resource."""
    return f"xdstp://{AUTHORITY}/{_type_name(kind)}/{_joined(parts)}"


def channel_target(*parts: str) -> str:
    """The URI by which a channel asks grpc-core for the listener of these parts."""
    return f"xds://{AUTHORITY}/{_joined(parts)}"


def parts_of(kind: ResourceType, name: str) -> tuple[str, ...]:
    """The parts of a name; none where it is not one of the relay's."""
    prefix = f"xdstp://{AUTHORITY}/{_type_name(kind)}/"
    if not name.startswith(prefix):
        return ()
    return tuple(_part(text) for text in name[len(prefix) :].split("/"))


def cluster_of(name: str) -> str:
    """The cluster that a Cluster resource of the relay stands for; empty where it is none."""
    parts = parts_of(ResourceType.CLUSTER, name)
    return parts[1] if len(parts) == 2 else ""


def shown(kind: ResourceType, name: str) -> str:
    """What a person would call the resource."""
    return "/".join(parts_of(kind, name)[1:]) or name


def _joined(parts: tuple[str, ...]) -> str:
    return "/".join(urllib.parse.quote(part.replace("~", "~0").replace("/", "~1"), safe=_PATH_SAFE) for part in parts)


def _part(text: str) -> str:
    return urllib.parse.unquote(text).replace("~1", "/").replace("~0", "~")


def _type_name(kind: ResourceType) -> str:
    return kind.type_url.rpartition("/")[2]
