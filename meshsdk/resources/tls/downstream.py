"""TLS of a server's filter chain (envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext)."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from ...errors import ResourceError
from .. import protos
from ..notes import Notes
from ..values import unpack
from .tls import DEFAULT_PROTOCOL, TlsIdentity, TlsProtocol, TlsTrust, parse_identity, parse_protocol, parse_trust

__all__ = ["DownstreamTls", "parse_downstream_tls"]

_FIELDS = frozenset("common_tls_context require_client_certificate".split())


class DownstreamTls(Struct, frozen=True, gc=False):
    """How a server's connections are secured.

    Attributes:
        identity: The certificate that the server shows.
        trust: What a client's certificate is held to; None asks for none.
        require_client_certificate: Clients without one are refused.
    """

    identity: TlsIdentity
    trust: TlsTrust | None = None
    require_client_certificate: bool = False
    protocol: TlsProtocol = DEFAULT_PROTOCOL


def parse_downstream_tls(message: Any, where: str, notes: Notes) -> DownstreamTls | None:
    """The TLS settings of an envoy.config.core.v3.TransportSocket; None for a raw buffer.

    Raises:
        ResourceError: It is another kind of socket, shows no certificate, or requires what it cannot check.
    """
    if message.typed_config.type_url.endswith(".RawBuffer"):
        return None
    path = f"{where}.typed_config"
    context = unpack(message.typed_config, protos.tls_pb2.DownstreamTlsContext, path)
    if context.require_sni.value:
        raise ResourceError(f"{path}.require_sni", "is refused; match server_names instead")
    notes.unless_acted_on(context, path, _FIELDS)
    common = f"{path}.common_tls_context"
    identity = parse_identity(context.common_tls_context, common)
    if identity is None:
        raise ResourceError(f"{common}.tls_certificates", "a server must show a certificate")
    trust = parse_trust(context.common_tls_context, common, notes)
    required = context.require_client_certificate.value
    if required and trust is None:
        # gRFC A29: a certificate that nobody vouches for proves nothing.
        raise ResourceError(f"{common}.validation_context", "must be set where a client certificate is required")
    return DownstreamTls(
        identity=identity,
        trust=trust,
        require_client_certificate=required,
        protocol=parse_protocol(context.common_tls_context, common, notes),
    )
