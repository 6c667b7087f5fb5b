"""TLS of both sides, as data and from protobuf."""

from .downstream import DownstreamTls, parse_downstream_tls
from .tls import (
    BundleSource,
    PemSource,
    SanMatcher,
    SpiffeDomains,
    TlsFile,
    TlsIdentity,
    TlsProtocol,
    TlsTrust,
    file_stamp,
    parse_san_matcher,
)
from .upstream import UpstreamTls, is_mesh_mutual, make_mesh_mutual, parse_transport_socket

__all__ = [
    "BundleSource",
    "DownstreamTls",
    "PemSource",
    "SanMatcher",
    "SpiffeDomains",
    "TlsFile",
    "TlsIdentity",
    "TlsProtocol",
    "TlsTrust",
    "UpstreamTls",
    "file_stamp",
    "is_mesh_mutual",
    "make_mesh_mutual",
    "parse_downstream_tls",
    "parse_san_matcher",
    "parse_transport_socket",
]
