"""TLS towards a cluster (envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext).

What cannot be verified is refused, never skipped: a context with no trusted CA, where Envoy would accept any
certificate, is an error here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envoy.extensions.transport_sockets.tls.v3 import tls_pb2

from ..errors import ResourceError
from .matchers import StringMatcher, parse_string_matcher
from .notes import Notes
from .values import unpack

__all__ = ["SanMatcher", "TlsFile", "UpstreamTls", "parse_transport_socket"]

_UPSTREAM_FIELDS = frozenset("common_tls_context sni auto_host_sni auto_sni_san_validation".split())
_COMMON_FIELDS = frozenset(
    "tls_params tls_certificates validation_context alpn_protocols tls_certificate_provider_instance"
    " tls_certificate_certificate_provider_instance combined_validation_context".split()
)
_COMBINED_FIELDS = frozenset("default_validation_context validation_context_certificate_provider_instance".split())
_VALIDATION_FIELDS = frozenset(
    "trusted_ca system_root_certs match_typed_subject_alt_names match_subject_alt_names"
    " ca_certificate_provider_instance".split()
)
_PARAMETER_FIELDS = frozenset("tls_minimum_protocol_version tls_maximum_protocol_version".split())


@dataclass(frozen=True, slots=True)
class TlsFile:
    """PEM text: in the resource itself, in a file that is read when a connection's context is built, or whatever a
    certificate provider of the bootstrap has at that time (gRFC A29).

    Attributes:
        provider: Name of the certificate provider instance; then the others are empty.
    """

    inline: bytes = b""
    path: str = ""
    provider: str = ""

    def stamp(self) -> object:
        """What is another one when the text may have changed.

        Raises:
            OSError: There is no such file.
        """
        if not self.path:
            return self.inline
        status = Path(self.path).stat()
        return status.st_mtime_ns, status.st_ino, status.st_size

    def read(self) -> bytes:
        """The text.

        Raises:
            OSError: The file cannot be read.
        """
        return self.inline or Path(self.path).read_bytes()


@dataclass(frozen=True, slots=True)
class SanMatcher:
    """A condition on one subject alternative name of the peer (SubjectAltNameMatcher); `kind` None is any kind."""

    kind: str | None
    value: StringMatcher


@dataclass(frozen=True, slots=True)
class UpstreamTls:
    """How connections to a cluster's endpoints are secured.

    Attributes:
        sni: Server name that is sent; empty sends none unless `auto_sni`.
        auto_sni: Send the endpoint's hostname.
        trusted_ca: Roots that the peer's chain must reach; None means the system's.
        certificate: This side's chain, or None.
        private_key: Its key.
        san_matchers: One must match one of the peer's names; empty means any peer that the roots vouch for.
        match_sni: The peer's certificate must name the server name that was sent.
        alpn: Protocols offered, in order.
        minimum_version, maximum_version: `TLSv1_2` and the like, or empty for this library's default.
    """

    sni: str = ""
    auto_sni: bool = False
    trusted_ca: TlsFile | None = None
    certificate: TlsFile | None = None
    private_key: TlsFile | None = None
    san_matchers: tuple[SanMatcher, ...] = ()
    match_sni: bool = False
    alpn: tuple[str, ...] = ()
    minimum_version: str = ""
    maximum_version: str = ""


_SAN_KINDS = {1: "EMAIL", 2: "DNS", 3: "URI", 4: "IP"}
_VERSIONS = {0: "", 1: "TLSv1", 2: "TLSv1_1", 3: "TLSv1_2", 4: "TLSv1_3"}


def parse_transport_socket(message: Any, where: str, notes: Notes) -> UpstreamTls | None:
    """The TLS settings of an envoy.config.core.v3.TransportSocket; None for a raw buffer.

    Raises:
        ResourceError: It is another kind of socket, or asks for something that cannot be verified here.
    """
    type_url = message.typed_config.type_url
    if type_url.endswith(".RawBuffer"):
        return None
    context = unpack(message.typed_config, tls_pb2.UpstreamTlsContext, f"{where}.typed_config")
    path = f"{where}.typed_config"
    notes.unless_acted_on(context, path, _UPSTREAM_FIELDS)
    common = context.common_tls_context
    notes.unless_acted_on(common, f"{path}.common_tls_context", _COMMON_FIELDS)
    notes.unless_acted_on(common.tls_params, f"{path}.common_tls_context.tls_params", _PARAMETER_FIELDS)
    certificate, key = _parse_certificate(common, f"{path}.common_tls_context")
    trusted_ca, matchers = _parse_trust(common, f"{path}.common_tls_context", notes)
    return UpstreamTls(
        sni=context.sni,
        auto_sni=context.auto_host_sni,
        trusted_ca=trusted_ca,
        certificate=certificate,
        private_key=key,
        san_matchers=matchers,
        match_sni=context.auto_sni_san_validation,
        alpn=tuple(common.alpn_protocols),
        minimum_version=_VERSIONS[common.tls_params.tls_minimum_protocol_version],
        maximum_version=_VERSIONS[common.tls_params.tls_maximum_protocol_version],
    )


def _parse_trust(common: Any, where: str, notes: Notes) -> tuple[TlsFile | None, tuple[SanMatcher, ...]]:
    """Roots and names that the peer is held to, in any of the three places where they may stand (gRFC A29)."""
    which = common.WhichOneof("validation_context_type")
    if which == "validation_context":
        return _parse_validation(common.validation_context, f"{where}.{which}", notes)
    if which == "combined_validation_context":
        combined = common.combined_validation_context
        notes.unless_acted_on(combined, f"{where}.{which}", _COMBINED_FIELDS)
        instance = combined.validation_context_certificate_provider_instance
        provider = TlsFile(provider=instance.instance_name) if instance.instance_name else None
        path = f"{where}.{which}.default_validation_context"
        return _parse_validation(combined.default_validation_context, path, notes, provider)
    raise ResourceError(
        f"{where}.validation_context",
        "must be set: without it the peer could be anyone, and certificates from SDS are not carried out",
    )


def _parse_certificate(common: Any, where: str) -> tuple[TlsFile | None, TlsFile | None]:
    if common.tls_certificate_sds_secret_configs:
        raise ResourceError(f"{where}.tls_certificate_sds_secret_configs", "certificates from SDS are not carried out")
    # The second one is deprecated, and what istiod sends to gRPC clients (pilot/pkg/networking/grpcgen/cds.go).
    for instance in (common.tls_certificate_provider_instance, common.tls_certificate_certificate_provider_instance):
        if instance.instance_name:
            return TlsFile(provider=instance.instance_name), TlsFile(provider=instance.instance_name)
    if not common.tls_certificates:
        return None, None
    if len(common.tls_certificates) > 1:
        raise ResourceError(f"{where}.tls_certificates", "a client shows at most one certificate")
    certificate = common.tls_certificates[0]
    return (
        _parse_file(certificate.certificate_chain, f"{where}.tls_certificates[0].certificate_chain"),
        _parse_file(certificate.private_key, f"{where}.tls_certificates[0].private_key"),
    )


def _parse_file(message: Any, where: str) -> TlsFile:
    which = message.WhichOneof("specifier")
    if which == "filename":
        return TlsFile(path=message.filename)
    if which == "inline_bytes":
        return TlsFile(inline=bytes(message.inline_bytes))
    if which == "inline_string":
        return TlsFile(inline=message.inline_string.encode())
    raise ResourceError(where, "must give filename, inline_bytes or inline_string")


# What a peer must pass in Envoy and would not be asked here: refused, since skipping it would trust more than asked.
_UNVERIFIED_CONDITIONS = (
    "verify_certificate_spki",
    "verify_certificate_hash",
    "crl",
    "custom_validator_config",
    "require_signed_certificate_timestamp",
)


def _parse_validation(
    message: Any, where: str, notes: Notes, provider: TlsFile | None = None
) -> tuple[TlsFile | None, tuple[SanMatcher, ...]]:
    for descriptor, _ in message.ListFields():
        if descriptor.name in _UNVERIFIED_CONDITIONS:
            raise ResourceError(f"{where}.{descriptor.name}", "is a check of the peer that is not carried out")
    notes.unless_acted_on(message, where, _VALIDATION_FIELDS)
    trusted_ca = _parse_file(message.trusted_ca, f"{where}.trusted_ca") if message.HasField("trusted_ca") else provider
    if message.ca_certificate_provider_instance.instance_name:
        trusted_ca = TlsFile(provider=message.ca_certificate_provider_instance.instance_name)
    if trusted_ca is None and not message.HasField("system_root_certs"):
        raise ResourceError(
            f"{where}.trusted_ca", "must be set, or system_root_certs or a provider: the peer could be anyone"
        )
    matchers = []
    for index, matcher in enumerate(message.match_typed_subject_alt_names):
        path = f"{where}.match_typed_subject_alt_names[{index}]"
        if matcher.san_type not in _SAN_KINDS:
            raise ResourceError(f"{path}.san_type", "OTHER_NAME is refused")
        matchers.append(
            SanMatcher(_SAN_KINDS[matcher.san_type], parse_string_matcher(matcher.matcher, f"{path}.matcher"))
        )
    for index, matcher in enumerate(message.match_subject_alt_names):
        matchers.append(SanMatcher(None, parse_string_matcher(matcher, f"{where}.match_subject_alt_names[{index}]")))
    return trusted_ca, tuple(matchers)
