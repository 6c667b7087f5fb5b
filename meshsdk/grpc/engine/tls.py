"""A cluster's TLS settings as grpc-core takes them: provider instances and names of the peer.

grpc-core compares names with `match_subject_alt_names`, which is blind to their kind, and does not look at
`match_typed_subject_alt_names` at all. A matcher of a certain kind is therefore written down only where names of no
other kind can match it; otherwise the cluster is refused, since comparing less would trust more.

Sources: gRFC A29; grpc/grpc src/core/xds/grpc/xds_common_types_parser.cc.
"""

from __future__ import annotations

import ipaddress

from envoy.extensions.transport_sockets.tls.v3 import tls_pb2

from ...errors import ResourceError
from ...resources import SanMatcher, StringMatcher, StringMatchKind, UpstreamTls
from .tls_slots import CERTIFICATE, KEY, ROOTS, SlotSource

__all__ = ["identity_source", "roots_source", "write_tls"]

# What grpc-core speaks in any case (grpc_tls_credentials_options.h), and what Istio sets.
_MINIMUM = ("", "TLSv1_2")
_MAXIMUM = ("", "TLSv1_3")


def identity_source(tls: UpstreamTls) -> SlotSource | None:
    """What goes into an identity slot; None where the client shows no certificate."""
    if tls.identity is None:
        return None
    return ((CERTIFICATE, tls.identity.certificate), (KEY, tls.identity.private_key))


def roots_source(tls: UpstreamTls) -> SlotSource | None:
    """What goes into a roots slot; None for the system's roots."""
    return None if tls.trust.trusted_ca is None else ((ROOTS, tls.trust.trusted_ca),)


def write_tls(tls: UpstreamTls, identity: str, roots: str) -> tls_pb2.UpstreamTlsContext:
    """The UpstreamTlsContext.

    Args:
        tls: The settings.
        identity: Provider instance of the client's certificate; empty shows none.
        roots: Provider instance of the trusted roots; empty trusts the system's (gRFC A82).

    Raises:
        ResourceError: A condition on the peer cannot be compared by grpc-core.
    """
    message = tls_pb2.UpstreamTlsContext()
    common = message.common_tls_context
    validation = common.validation_context
    if identity:
        common.tls_certificate_provider_instance.instance_name = identity
    if roots:
        validation.ca_certificate_provider_instance.instance_name = roots
    else:
        validation.system_root_certs.SetInParent()
    for matcher in tls.trust.san_matchers:
        _check_kind(matcher)
        _write_string(matcher.value, validation.match_subject_alt_names.add())
    if tls.match_sni:
        if tls.trust.san_matchers or not tls.sni:
            raise ResourceError("auto_sni_san_validation", "goes with a fixed sni and no other name matchers over gRPC")
        validation.match_subject_alt_names.add().exact = tls.sni
    protocol = tls.protocol
    if protocol.minimum_version not in _MINIMUM or protocol.maximum_version not in _MAXIMUM or protocol.ciphers:
        raise ResourceError(
            "common_tls_context.tls_params",
            "cannot be set for gRPC channels but to TLSv1_2 and TLSv1_3: grpc-core does not read it",
        )
    for field in ("spki_hashes", "certificate_hashes", "crl", "spiffe"):
        if getattr(tls.trust, field):
            raise ResourceError(f"validation_context: {field}", "is a check of the peer that grpc-core does not make")
    message.sni = tls.sni
    message.auto_host_sni = tls.auto_sni
    return message


def _check_kind(matcher: SanMatcher) -> None:
    """Refuse a matcher of one kind that a name of another kind could match."""
    if matcher.kind is None:
        return
    kind, value = matcher.value.kind, matcher.value.value
    # No DNS name, address or e-mail address holds "://", and every URI of ours does.
    is_uri = matcher.kind == "URI" and kind in (StringMatchKind.EXACT, StringMatchKind.PREFIX) and "://" in value
    is_name = matcher.kind in ("DNS", "IP") and kind is StringMatchKind.EXACT and not set(value) & set(":/@ ")
    is_fitting = is_name and (matcher.kind == "IP") is _is_address(value)
    if not (is_uri or is_fitting):
        raise ResourceError(
            "match_typed_subject_alt_names",
            f"{matcher.kind} {kind.value} {value!r} cannot be told from other kinds of names by grpc-core; use"
            " match_subject_alt_names, or an exact name",
        )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _write_string(matcher: StringMatcher, message: object) -> None:
    if matcher.kind is StringMatchKind.REGEX:
        message.safe_regex.regex = matcher.value  # type: ignore[attr-defined]
    else:
        setattr(message, matcher.kind.value, matcher.value)
        message.ignore_case = matcher.ignore_case  # type: ignore[attr-defined]
