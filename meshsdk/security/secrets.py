"""What names of certificates stand for: provider instances of the bootstrap (gRFC A29) and secrets (SDS).

A secret that a management server or a file delivers is looked up whenever a context is made of it, and whenever it is
asked whether contexts are still those of now: what it holds takes its name's place.

Istio names a workload's own certificate `default` and its roots `ROOTCA`; both are the process's identity. A provider
instance is the files that the bootstrap names, or the identity where the instance is the one that it stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from msgspec import Struct
from msgspec.structs import replace

from ..bootstrap import CertificateProvider
from ..errors import IdentityError, ResourceError
from ..resources import (
    PemSource,
    SanMatcher,
    Secret,
    SpiffeDomains,
    StringMatcher,
    StringMatchKind,
    TlsFile,
    TlsIdentity,
    TlsTrust,
    UpstreamTls,
)
from ..resources.tls import IDENTITY_SECRETS, DownstreamTls
from .identity import Identity, spiffe_id_of
from .trust_domains import parse_bundle_map

__all__ = ["NO_SECRETS", "IdentityPart", "Providers", "Secrets"]

Providers = Mapping[str, CertificateProvider]

# The provider instance and the secrets that Istio gives a workload for its own identity.
IDENTITY_PROVIDER = "default"


class IdentityPart(Struct, frozen=True):
    """One part of an identity's current credentials: `certificate`, `private_key` or `roots`."""

    identity: Identity
    part: str

    def stamp(self) -> object:
        """See `PemSource`."""
        return self.read()

    def read(self) -> bytes:
        """See `PemSource`."""
        try:
            text: bytes = getattr(self.identity.credentials(), self.part)
        except IdentityError as error:
            raise OSError(str(error)) from error
        return text


class IdentityBundles(Struct, frozen=True):
    """An identity's roots by trust domain."""

    identity: Identity

    def stamp(self) -> object:
        """See `BundleSource`."""
        return tuple(self.read_bundles().items())

    def read_bundles(self) -> Mapping[str, bytes]:
        """See `BundleSource`."""
        try:
            return self.identity.credentials().bundles
        except IdentityError as error:
            raise OSError(str(error)) from error


class ConfiguredBundles(Struct, frozen=True):
    """Roots by trust domain, as the configuration names them."""

    spiffe: SpiffeDomains

    def stamp(self) -> object:
        """See `BundleSource`."""
        sources = [source for _, source in self.spiffe.domains]
        if self.spiffe.bundle_map is not None:
            sources.append(self.spiffe.bundle_map)
        return tuple(source.stamp() for source in sources)

    def read_bundles(self) -> Mapping[str, bytes]:
        """See `BundleSource`."""
        if self.spiffe.bundle_map is None:
            return {name: source.read() for name, source in self.spiffe.domains}
        try:
            bundles = parse_bundle_map(self.spiffe.bundle_map.read())
        except IdentityError as error:
            raise OSError(str(error)) from error
        if not bundles:
            raise OSError("the SPIFFE bundle map has no trust domain")
        return bundles


class Secrets:
    """Certificates by name.

    Args:
        providers: The bootstrap's certificate provider instances.
        identity: The process's identity, where it has one.
        find_delivered: The secret of a name that was asked for, and why it is none.
    """

    def __init__(
        self,
        providers: Providers = MappingProxyType({}),
        identity: Identity | None = None,
        find_delivered: Callable[[str], tuple[Secret | None, str]] = lambda name: (None, "was not asked for"),
    ) -> None:
        self.providers = providers
        self.identity = identity
        self._find_delivered = find_delivered

    def of_client(self, tls: UpstreamTls) -> UpstreamTls:
        """Settings with every name replaced by what it stands for.

        Raises:
            ResourceError: A name stands for nothing.
        """
        return replace(tls, identity=self._identity(tls.identity), trust=self.federated(tls.trust))

    def of_server(self, tls: DownstreamTls, *, federated: bool = False) -> DownstreamTls:
        """The same for a server's.

        Args:
            tls: Its settings.
            federated: The server checks trust domains; otherwise it takes peers of its own domain only.

        Raises:
            ResourceError: A name stands for nothing.
        """
        identity = self._identity(tls.identity)
        assert identity is not None
        find = self.federated if federated else self.trust
        return replace(tls, identity=identity, trust=find(tls.trust) if tls.trust is not None else None)

    def trust(self, trust: TlsTrust) -> TlsTrust:
        """Trust with its roots found."""
        if isinstance(trust.trusted_ca, TlsFile) and trust.trusted_ca.is_delivered:
            trust = self._delivered_trust(trust, trust.trusted_ca.secret)
        if trust.spiffe is not None:
            return replace(trust, bundles=ConfiguredBundles(trust.spiffe))
        if trust.own_domain_path:
            wanted = StringMatcher(StringMatchKind.PREFIX, f"spiffe://{self._trust_domain()}{trust.own_domain_path}")
            trust = replace(trust, own_domain_path="", san_matchers=(SanMatcher("URI", wanted),))
        roots = self._find(trust.trusted_ca, "roots", "validation_context")
        return trust if roots is trust.trusted_ca else replace(trust, trusted_ca=roots)

    def federated(self, trust: TlsTrust) -> TlsTrust:
        """Trust with its roots found; where they are the process's own, with those of federated trust domains.

        For whoever checks, after the handshake, that a peer's root is of its own trust domain.

        Raises:
            ResourceError: A name stands for nothing.
        """
        found = self.trust(trust)
        if isinstance(found.trusted_ca, IdentityPart):
            return replace(found, bundles=IdentityBundles(found.trusted_ca.identity))
        return found

    def own_identity(self) -> TlsIdentity:
        """The process's own certificate and key.

        Raises:
            ResourceError: It has no identity.
        """
        name = TlsFile(secret=IDENTITY_SECRETS[0])
        found = self._identity(TlsIdentity(name, name))
        assert found is not None
        return found

    def own_trust(self) -> TlsTrust:
        """The roots of the process's own identity.

        Raises:
            ResourceError: It has no identity.
        """
        return self.trust(TlsTrust(TlsFile(secret=IDENTITY_SECRETS[1])))

    def own_spiffe_id(self) -> str:
        """Of the process's own certificate; empty where that has none.

        Raises:
            ResourceError: It has no identity, or that cannot be read.
        """
        certificate = self._own("certificate", "tls_certificates")
        try:
            if isinstance(certificate, IdentityPart):
                return certificate.identity.credentials().spiffe_id
            assert certificate is not None
            from cryptography import x509

            return spiffe_id_of(x509.load_pem_x509_certificates(certificate.read())[0])
        except (IdentityError, OSError, ValueError) as error:
            raise ResourceError("tls_certificates", str(error)) from error

    def _trust_domain(self) -> str:
        """Of the process's own certificate."""
        spiffe_id = self.own_spiffe_id()
        if not spiffe_id:
            raise ResourceError("tls_certificates", "the process's own certificate has no SPIFFE ID")
        return spiffe_id.removeprefix("spiffe://").partition("/")[0]

    def _delivered_trust(self, trust: TlsTrust, name: str) -> TlsTrust:
        """A secret's validation context with what the settings say besides (CombinedCertificateValidationContext)."""
        secret, problem = self._find_delivered(name)
        found = secret.trust if secret is not None else None
        if found is None:
            raise ResourceError("validation_context", f"secret {name!r}: {problem or 'is no validation context'}")
        return replace(
            found,
            san_matchers=trust.san_matchers + found.san_matchers,
            spki_hashes=trust.spki_hashes | found.spki_hashes,
            certificate_hashes=trust.certificate_hashes | found.certificate_hashes,
            crl=found.crl or trust.crl,
            crl_of_leaf_only=trust.crl_of_leaf_only or found.crl_of_leaf_only,
            own_domain_path=trust.own_domain_path,
        )

    def _delivered_identity(self, name: str) -> TlsIdentity:
        secret, problem = self._find_delivered(name)
        if secret is None or secret.identity is None:
            raise ResourceError("tls_certificates", f"secret {name!r}: {problem or 'is no certificate'}")
        return secret.identity

    def _identity(self, identity: TlsIdentity | None) -> TlsIdentity | None:
        if identity is None:
            return None
        where = "tls_certificates"
        if isinstance(identity.certificate, TlsFile) and identity.certificate.is_delivered:
            return self._delivered_identity(identity.certificate.secret)
        certificate = self._find(identity.certificate, "certificate", where)
        key = self._find(identity.private_key, "private_key", where)
        assert certificate is not None
        assert key is not None
        return TlsIdentity(certificate, key)

    def _find(self, source: PemSource | None, part: str, where: str) -> PemSource | None:
        if not isinstance(source, TlsFile) or not (source.provider or source.secret):
            return source
        if source.secret:
            if source.secret not in IDENTITY_SECRETS:
                known = " and ".join(map(repr, IDENTITY_SECRETS))
                raise ResourceError(where, f"secret {source.secret!r} is not known; this process has {known}")
            return self._own(part, where)
        if source.provider == IDENTITY_PROVIDER and self.identity is not None:
            return self._own(part, where)
        return TlsFile(path=provider_file(source.provider, self.providers, _FILE_KEYS[part], where))

    def _own(self, part: str, where: str) -> PemSource:
        if self.identity is not None:
            return IdentityPart(self.identity, part)
        if IDENTITY_PROVIDER in self.providers:
            return TlsFile(path=provider_file(IDENTITY_PROVIDER, self.providers, _FILE_KEYS[part], where))
        raise ResourceError(
            where,
            "this process has no mesh identity: pass Mesh(identity=…), or give the bootstrap a certificate provider"
            f" {IDENTITY_PROVIDER!r}",
        )


NO_SECRETS = Secrets()

_FILE_KEYS = {"certificate": "certificate_file", "private_key": "private_key_file", "roots": "ca_certificate_file"}


def provider_file(name: str, providers: Providers, key: str, where: str) -> str:
    """The path that a provider instance has for `certificate_file`, `private_key_file` or `ca_certificate_file`.

    Raises:
        ResourceError: There is none.
    """
    provider = providers.get(name)
    if provider is None:
        known = ", ".join(map(repr, providers)) or "none"
        raise ResourceError(where, f"the bootstrap has no certificate provider {name!r} (it has: {known})")
    if provider.plugin != "file_watcher":
        raise ResourceError(
            where, f"certificate provider {name!r} is a {provider.plugin!r}; only file_watcher is known"
        )
    path = provider.config.get(key)
    if not isinstance(path, str) or not path:
        raise ResourceError(where, f"certificate provider {name!r} has no {key}")
    return path
