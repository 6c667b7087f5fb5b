"""TLS towards a cluster (envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext)."""

from __future__ import annotations

import functools
from typing import Any

from msgspec import Struct

from ...errors import ResourceError
from .. import protos
from ..notes import Notes
from ..values import unpack
from .tls import (
    DEFAULT_PROTOCOL,
    SYSTEM_TRUST,
    TlsFile,
    TlsIdentity,
    TlsProtocol,
    TlsTrust,
    parse_identity,
    parse_protocol,
    parse_trust,
)

__all__ = ["UpstreamTls", "is_mesh_mutual", "make_mesh_mutual", "parse_transport_socket"]

# pilot/pkg/security/model/authentication.go, pilot/pkg/networking/grpcgen/grpcgen.go.
_OWN = "default"
_ROOTS = "ROOTCA"

_FIELDS = frozenset("common_tls_context sni auto_host_sni auto_sni_san_validation max_session_keys".split())


class UpstreamTls(Struct, frozen=True, gc=False):
    """How connections to a cluster's endpoints are secured.

    Attributes:
        sni: Server name that is sent; empty sends none unless `auto_sni`.
        auto_sni: Send the endpoint's hostname.
        match_sni: The peer's certificate must name the server name that was sent.
        identity: The certificate that this side shows, or None.
        trust: What the peer is held to.
    """

    sni: str = ""
    auto_sni: bool = False
    match_sni: bool = False
    identity: TlsIdentity | None = None
    trust: TlsTrust = SYSTEM_TRUST
    protocol: TlsProtocol = DEFAULT_PROTOCOL


def is_mesh_mutual(tls: UpstreamTls) -> bool:
    """Whether this is mutual TLS among workloads of the mesh, Istio's ISTIO_MUTUAL.

    By the names of secrets and certificate providers that istiod has for the process's own certificate and the mesh's
    roots: in its clusters for sidecars, in its grpc profile, and in what a folder is translated to.
    """
    identity, roots = tls.identity, tls.trust.trusted_ca
    if identity is None or not isinstance(identity.certificate, TlsFile) or not isinstance(roots, TlsFile):
        return False
    return (identity.certificate.secret or identity.certificate.provider) == _OWN and (
        roots.secret == _ROOTS or roots.provider == _OWN
    )


@functools.lru_cache(maxsize=4096)
def make_mesh_mutual(namespace: str) -> UpstreamTls:
    """Mutual TLS with a workload of the mesh, as Istio's ISTIO_MUTUAL.

    Args:
        namespace: That the peer must be of; empty is any.
    """
    own, roots = TlsFile(secret=_OWN), TlsFile(secret=_ROOTS)
    path = f"/ns/{namespace}/sa/" if namespace else "/ns/"
    return UpstreamTls(identity=TlsIdentity(own, own), trust=TlsTrust(roots, own_domain_path=path))


def parse_transport_socket(message: Any, where: str, notes: Notes) -> UpstreamTls | None:
    """The TLS settings of an envoy.config.core.v3.TransportSocket; None for a raw buffer.

    Raises:
        ResourceError: It is another kind of socket, or asks for something that cannot be verified here.
    """
    if message.typed_config.type_url.endswith(".RawBuffer"):
        return None
    path = f"{where}.typed_config"
    context = unpack(message.typed_config, protos.tls_pb2.UpstreamTlsContext, path)
    notes.unless_acted_on(context, path, _FIELDS)
    common = f"{path}.common_tls_context"
    trust = parse_trust(context.common_tls_context, common, notes)
    if trust is None:
        raise ResourceError(f"{common}.validation_context", "must be set: without it the peer could be anyone")
    return UpstreamTls(
        sni=context.sni,
        auto_sni=context.auto_host_sni,
        match_sni=context.auto_sni_san_validation,
        identity=parse_identity(context.common_tls_context, common),
        trust=trust,
        protocol=parse_protocol(context.common_tls_context, common, notes),
    )
