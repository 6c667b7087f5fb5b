"""TLS settings that both sides of a connection share (envoy.extensions.transport_sockets.tls.v3.CommonTlsContext).

What cannot be verified is refused, never skipped: a context with no trusted CA, where Envoy would accept any
certificate, is an error here.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct

from ...errors import ResourceError
from .. import protos
from ..config_source import sourced_name
from ..matching import StringMatcher, parse_string_matcher
from ..notes import Notes
from ..values import unpack

__all__ = [
    "PemSource",
    "SanMatcher",
    "SpiffeDomains",
    "TlsFile",
    "TlsIdentity",
    "TlsProtocol",
    "TlsTrust",
    "parse_certificate",
    "parse_identity",
    "parse_protocol",
    "parse_san_matcher",
    "parse_trust",
    "parse_validation",
    "secret_names",
]

# The names that Istio has for a process's own certificate and its roots.
IDENTITY_SECRETS = ("default", "ROOTCA")

COMMON_FIELDS = frozenset(
    "tls_params tls_certificates tls_certificate_sds_secret_configs validation_context alpn_protocols"
    " tls_certificate_provider_instance tls_certificate_certificate_provider_instance combined_validation_context"
    " validation_context_sds_secret_config".split()
)
_COMBINED_FIELDS = frozenset(
    "default_validation_context validation_context_certificate_provider_instance"
    " validation_context_sds_secret_config".split()
)
_VALIDATION_FIELDS = frozenset(
    "trusted_ca system_root_certs match_typed_subject_alt_names match_subject_alt_names"
    " ca_certificate_provider_instance verify_certificate_spki verify_certificate_hash crl"
    " only_verify_leaf_cert_crl custom_validator_config".split()
)
_PARAMETER_FIELDS = frozenset("tls_minimum_protocol_version tls_maximum_protocol_version cipher_suites".split())


class BundleSource(Protocol):
    """Where roots by trust domain come from. It can be hashed, and is equal to another one that gives the same."""

    def stamp(self) -> object:
        """What is another one when the roots may have changed."""

    def read_bundles(self) -> Mapping[str, bytes]:
        """PEM by trust domain; empty where there are none.

        Raises:
            OSError: They cannot be had.
        """


class PemSource(Protocol):
    """Where PEM text comes from. It can be hashed, and is equal to another one that gives the same."""

    def stamp(self) -> object:
        """What is another one when the text may have changed.

        Raises:
            OSError: There is no text.
        """

    def read(self) -> bytes:
        """The text as it is now.

        Raises:
            OSError: There is none.
        """


def file_stamp(path: str | os.PathLike[str]) -> tuple[int, ...]:
    """What is another one when a file has been written, or another one put in its place, whatever its times say.

    Raises:
        OSError: There is no such file.
    """
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


class TlsFile(Struct, frozen=True, gc=False):
    """PEM text: in the resource itself, in a file that is read when a connection's context is built, whatever a
    certificate provider of the bootstrap has at that time (gRFC A29), or a secret of the process's own identity (SDS).

    Attributes:
        provider: Name of the certificate provider instance; then the others are empty.
        secret: Name of the secret, such as Istio's `default` and `ROOTCA`; then the others are empty.
        is_delivered: The secret is one that a management server or a file has (SDS).
    """

    inline: bytes = b""
    path: str = ""
    provider: str = ""
    secret: str = ""
    is_delivered: bool = False

    def __repr__(self) -> str:
        # What is inline may be a key.
        shown = self.path or self.provider or self.secret or f"{len(self.inline)} bytes"
        return f"TlsFile({shown!r})"

    def stamp(self) -> object:
        """See `PemSource`."""
        if not self.path:
            return self.inline
        return file_stamp(self.path)

    def read(self) -> bytes:
        """See `PemSource`."""
        return self.inline or Path(self.path).read_bytes()


class SanMatcher(Struct, frozen=True, gc=False):
    """A condition on one subject alternative name of the peer (SubjectAltNameMatcher); `kind` None is any kind."""

    kind: str | None
    value: StringMatcher


class TlsIdentity(Struct, frozen=True, gc=False):
    """The certificate chain that this side shows, and its key."""

    certificate: PemSource
    private_key: PemSource


class SpiffeDomains(Struct, frozen=True, gc=False):
    """Roots by trust domain (SPIFFECertValidatorConfig).

    Attributes:
        domains: Name and PEM.
        bundle_map: A SPIFFE bundle map, as JSON, in their place.
    """

    domains: tuple[tuple[str, TlsFile], ...] = ()
    bundle_map: TlsFile | None = None


class TlsTrust(Struct, frozen=True, gc=False):
    """What the peer's certificate is held to (CertificateValidationContext).

    Attributes:
        trusted_ca: Roots that the peer's chain must reach; None means the system's.
        san_matchers: One must match one of the peer's names; empty means any peer that the roots vouch for.
        spki_hashes, certificate_hashes: SHA-256 digests; where there are any, the peer's key or certificate is one.
        crl: Certificates that are revoked.
        crl_of_leaf_only: Only the peer's own certificate is looked up in it.
        bundles: Roots by trust domain, in place of `trusted_ca` where there are any.
        spiffe: Where the configuration itself says which; `bundles` are made of it.
        own_domain_path: How the path of the peer's SPIFFE ID begins, which must be of this process's own trust domain.
            Whoever finds the secrets makes a matcher of it.
    """

    trusted_ca: PemSource | None = None
    san_matchers: tuple[SanMatcher, ...] = ()
    spki_hashes: frozenset[bytes] = frozenset()
    certificate_hashes: frozenset[bytes] = frozenset()
    crl: PemSource | None = None
    crl_of_leaf_only: bool = False
    bundles: BundleSource | None = None
    spiffe: SpiffeDomains | None = None
    own_domain_path: str = ""


class TlsProtocol(Struct, frozen=True, gc=False):
    """Versions, ciphers and application protocols.

    Attributes:
        alpn: Protocols offered or taken, in order.
        minimum_version, maximum_version: `TLSv1_2` and the like, or empty for this library's default.
        ciphers: Of TLS 1.2, as OpenSSL names them; empty for this library's default.
    """

    alpn: tuple[str, ...] = ()
    minimum_version: str = ""
    maximum_version: str = ""
    ciphers: tuple[str, ...] = ()


SYSTEM_TRUST = TlsTrust()
DEFAULT_PROTOCOL = TlsProtocol()

_SAN_KINDS = {1: "EMAIL", 2: "DNS", 3: "URI", 4: "IP"}
_VERSIONS = {0: "", 1: "TLSv1", 2: "TLSv1_1", 3: "TLSv1_2", 4: "TLSv1_3"}


def parse_protocol(common: Any, where: str, notes: Notes) -> TlsProtocol:
    """The versions and protocols of a CommonTlsContext."""
    parameters = common.tls_params
    notes.unless_acted_on(common, where, COMMON_FIELDS)
    notes.unless_acted_on(parameters, f"{where}.tls_params", _PARAMETER_FIELDS)
    # BoringSSL groups ciphers of equal preference as [A|B]; OpenSSL has no such groups.
    ciphers = [name for group in parameters.cipher_suites for name in group.strip("[]").split("|")]
    return TlsProtocol(
        alpn=tuple(common.alpn_protocols),
        minimum_version=_VERSIONS[parameters.tls_minimum_protocol_version],
        maximum_version=_VERSIONS[parameters.tls_maximum_protocol_version],
        ciphers=tuple(ciphers),
    )


def parse_identity(common: Any, where: str) -> TlsIdentity | None:
    """The certificate that a CommonTlsContext shows: by SDS, from a provider, or in place; None shows none."""
    for index, secret in enumerate(common.tls_certificate_sds_secret_configs):
        path = f"{where}.tls_certificate_sds_secret_configs[{index}]"
        if index:
            raise ResourceError(path, "more than one certificate is refused")
        return _identity_by_secret(secret, path)
    # The second one is deprecated, and what istiod sends to gRPC clients (pilot/pkg/networking/grpcgen/cds.go).
    for instance in (common.tls_certificate_provider_instance, common.tls_certificate_certificate_provider_instance):
        if instance.instance_name:
            return TlsIdentity(TlsFile(provider=instance.instance_name), TlsFile(provider=instance.instance_name))
    if not common.tls_certificates:
        return None
    if len(common.tls_certificates) > 1:
        raise ResourceError(f"{where}.tls_certificates", "more than one certificate is refused")
    return parse_certificate(common.tls_certificates[0], f"{where}.tls_certificates[0]")


def parse_certificate(message: Any, where: str) -> TlsIdentity:
    """A TlsCertificate."""
    return TlsIdentity(
        _parse_file(message.certificate_chain, f"{where}.certificate_chain"),
        _parse_file(message.private_key, f"{where}.private_key"),
    )


def _identity_by_secret(message: Any, where: str) -> TlsIdentity:
    """Istio writes files into names of secrets: file-cert:CHAIN~KEY (pilot/pkg/security/model/authentication.go)."""
    name = _secret_name(message, where)
    if name.startswith("file-cert:"):
        chain, tilde, key = name.removeprefix("file-cert:").partition("~")
        if not tilde:
            raise ResourceError(f"{where}.name", f"{name!r} must be file-cert:CHAIN~KEY")
        return TlsIdentity(TlsFile(path=chain), TlsFile(path=key))
    file = _delivered(message, name, where)
    return TlsIdentity(file, file)


def _roots_by_secret(message: Any, where: str) -> TlsFile:
    name = _secret_name(message, where)
    if name.startswith("file-root:"):
        return TlsFile(path=name.removeprefix("file-root:"))
    return _delivered(message, name, where)


def _delivered(message: Any, name: str, where: str) -> TlsFile:
    """A secret of a management server or a file; one of the process's own by the names that Istio has for it."""
    source = message.sds_config
    is_of_file = source.WhichOneof("config_source_specifier") in ("path", "path_config_source")
    if not message.HasField("sds_config") or (name in IDENTITY_SECRETS and not is_of_file):
        return TlsFile(secret=name)
    return TlsFile(secret=sourced_name(source, name, f"{where}.sds_config"), is_delivered=True)


def secret_names(*settings: Any) -> frozenset[str]:
    """The secrets to ask for, of settings of either side; None is no settings."""
    found: set[str] = set()
    for tls in settings:
        if tls is None:
            continue
        files = [tls.identity.certificate] if tls.identity is not None else []
        files += [tls.trust.trusted_ca] if tls.trust is not None else []
        found.update(one.secret for one in files if isinstance(one, TlsFile) and one.is_delivered)
    return frozenset(found)


def _secret_name(message: Any, where: str) -> str:
    if not message.name:
        raise ResourceError(f"{where}.name", "must be set")
    return str(message.name)


def parse_trust(common: Any, where: str, notes: Notes) -> TlsTrust | None:
    """What the peer is held to, in any of the places where it may stand (gRFC A29); None where it stands in none."""
    which = common.WhichOneof("validation_context_type")
    path = f"{where}.{which}"
    if which == "validation_context":
        return parse_validation(common.validation_context, path, notes)
    if which == "validation_context_sds_secret_config":
        return TlsTrust(_roots_by_secret(common.validation_context_sds_secret_config, path))
    if which == "combined_validation_context":
        combined = common.combined_validation_context
        notes.unless_acted_on(combined, path, _COMBINED_FIELDS)
        instance = combined.validation_context_certificate_provider_instance
        roots = TlsFile(provider=instance.instance_name) if instance.instance_name else None
        if combined.HasField("validation_context_sds_secret_config"):
            roots = _roots_by_secret(
                combined.validation_context_sds_secret_config, f"{path}.validation_context_sds_secret_config"
            )
        return parse_validation(combined.default_validation_context, f"{path}.default_validation_context", notes, roots)
    if which is not None:
        raise ResourceError(path, "is a way to trust that meshsdk does not know")
    return None


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
_UNVERIFIED_CONDITIONS = ("require_signed_certificate_timestamp", "max_verify_depth")
# These would have a peer trusted that the roots do not vouch for.
_LENIENCIES = ("allow_expired_certificate", "trust_chain_verification")


def parse_validation(message: Any, where: str, notes: Notes, roots: TlsFile | None = None) -> TlsTrust:
    """A CertificateValidationContext, with the roots that are found elsewhere."""
    for descriptor, value in message.ListFields():
        if descriptor.name in _UNVERIFIED_CONDITIONS:
            raise ResourceError(f"{where}.{descriptor.name}", "is a check of the peer that is not carried out")
        if descriptor.name in _LENIENCIES and value:
            raise ResourceError(f"{where}.{descriptor.name}", "is refused: the peer could be anyone")
    notes.unless_acted_on(message, where, _VALIDATION_FIELDS)
    trusted_ca = _parse_file(message.trusted_ca, f"{where}.trusted_ca") if message.HasField("trusted_ca") else roots
    if message.ca_certificate_provider_instance.instance_name:
        trusted_ca = TlsFile(provider=message.ca_certificate_provider_instance.instance_name)
    spiffe, names = None, _parse_names(message, where)
    if message.HasField("custom_validator_config"):
        spiffe = _parse_spiffe(message.custom_validator_config, f"{where}.custom_validator_config")
        trusted_ca = None
        if any(matcher.kind != "URI" for matcher in names):
            raise ResourceError(f"{where}.custom_validator_config", "looks at URIs only; other names would be left out")
    elif trusted_ca is None and not message.HasField("system_root_certs"):
        raise ResourceError(
            f"{where}.trusted_ca", "must be set, or system_root_certs or a provider: the peer could be anyone"
        )
    return TlsTrust(
        trusted_ca=trusted_ca,
        san_matchers=names,
        spki_hashes=frozenset(
            _digest(text, "base64", f"{where}.verify_certificate_spki[{index}]")
            for index, text in enumerate(message.verify_certificate_spki)
        ),
        certificate_hashes=frozenset(
            _digest(text, "hex", f"{where}.verify_certificate_hash[{index}]")
            for index, text in enumerate(message.verify_certificate_hash)
        ),
        crl=_parse_file(message.crl, f"{where}.crl") if message.HasField("crl") else None,
        crl_of_leaf_only=message.only_verify_leaf_cert_crl,
        spiffe=spiffe,
    )


def _parse_spiffe(message: Any, where: str) -> SpiffeDomains:
    """SPIFFE's own validator (envoy.tls.cert_validator.spiffe).

    Raises:
        ResourceError: It is another one, names no trust domain, or one twice.
    """
    path = f"{where}.typed_config"
    config = unpack(message.typed_config, protos.tls_spiffe_validator_config_pb2.SPIFFECertValidatorConfig, path)
    if config.HasField("trust_bundles"):
        return SpiffeDomains(bundle_map=_parse_file(config.trust_bundles, f"{path}.trust_bundles"))
    domains = tuple(
        (one.name, _parse_file(one.trust_bundle, f"{path}.trust_domains[{index}].trust_bundle"))
        for index, one in enumerate(config.trust_domains)
    )
    if not domains:
        raise ResourceError(f"{path}.trust_domains", "names none: nobody could be trusted")
    if len(dict(domains)) != len(domains):
        raise ResourceError(f"{path}.trust_domains", "names a trust domain twice")
    return SpiffeDomains(domains)


def _digest(text: str, form: str, where: str) -> bytes:
    """A SHA-256 digest: base64 of a key's, hexadecimal with or without colons of a certificate's."""
    try:
        digest = base64.b64decode(text, validate=True) if form == "base64" else bytes.fromhex(text.replace(":", ""))
    except ValueError as error:
        raise ResourceError(where, f"is not {form}: {error}") from error
    if len(digest) != 32:
        raise ResourceError(where, f"must be a SHA-256 digest, has {len(digest)} bytes")
    return digest


def parse_san_matcher(message: Any, where: str) -> SanMatcher:
    """A SubjectAltNameMatcher.

    Raises:
        ResourceError: It is for a kind of name that meshsdk cannot look at.
    """
    if message.san_type not in _SAN_KINDS:
        raise ResourceError(f"{where}.san_type", "OTHER_NAME is refused: Python's ssl does not show such names")
    return SanMatcher(_SAN_KINDS[message.san_type], parse_string_matcher(message.matcher, f"{where}.matcher"))


def _parse_names(message: Any, where: str) -> tuple[SanMatcher, ...]:
    matchers = []
    for index, matcher in enumerate(message.match_typed_subject_alt_names):
        matchers.append(parse_san_matcher(matcher, f"{where}.match_typed_subject_alt_names[{index}]"))
    for index, matcher in enumerate(message.match_subject_alt_names):
        matchers.append(SanMatcher(None, parse_string_matcher(matcher, f"{where}.match_subject_alt_names[{index}]")))
    return tuple(matchers)
