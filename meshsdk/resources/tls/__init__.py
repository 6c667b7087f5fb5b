"""TLS of both sides, as data and from protobuf."""

from .downstream import DownstreamTls, parse_downstream_tls
from .secret import Secret, parse_secret, redacted_secret
from .tls import (
    IDENTITY_SECRETS,
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
    secret_names,
)
from .upstream import UpstreamTls, is_mesh_mutual, make_mesh_mutual, parse_transport_socket

__all__ = [
    "IDENTITY_SECRETS",
    "BundleSource",
    "DownstreamTls",
    "PemSource",
    "SanMatcher",
    "Secret",
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
    "parse_secret",
    "parse_transport_socket",
    "redacted_secret",
    "secret_names",
]
