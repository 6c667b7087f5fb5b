"""What grpc-core is told: the relay that it has for a management server, and what is written there."""

from .check import notes_of
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
    "native_match",
    "notes_of",
    "parse_target",
    "routes_of",
]
