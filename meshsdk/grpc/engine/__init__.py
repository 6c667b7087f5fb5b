"""What grpc-core is told: the relay that it has for a management server, and what is written there."""

from .limits import of_cluster as limits_of_cluster
from .limits import of_routes as limits_of_routes
from .listener import PEER_COOKIE, routes_of
from .match import NotNative, call_head, native_match
from .names import NO_PROXY, cluster_of
from .relayed_mesh import RelayedMesh
from .target import TargetName, parse_target
from .tls_slots import CERTIFICATE, KEY, ROOTS, check_files

__all__ = [
    "CERTIFICATE",
    "KEY",
    "NO_PROXY",
    "PEER_COOKIE",
    "ROOTS",
    "NotNative",
    "RelayedMesh",
    "TargetName",
    "call_head",
    "check_files",
    "cluster_of",
    "limits_of_cluster",
    "limits_of_routes",
    "native_match",
    "parse_target",
    "routes_of",
]
