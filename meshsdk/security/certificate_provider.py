"""Certificate provider instances of the bootstrap, as the files they stand for (gRFC A29, plugin `file_watcher`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from ..bootstrap import CertificateProvider
from ..errors import ResourceError
from ..resources import TlsFile, UpstreamTls

__all__ = ["Providers", "with_provider_files"]

Providers = Mapping[str, CertificateProvider]


def with_provider_files(tls: UpstreamTls, providers: Providers) -> UpstreamTls:
    """TLS settings with each provider instance replaced by its files.

    Raises:
        ResourceError: The bootstrap has no such instance, or the instance does not give what is asked of it.
    """
    roots, certificate, key = tls.trusted_ca, tls.certificate, tls.private_key
    if not any(source is not None and source.provider for source in (roots, certificate, key)):
        return tls
    return dataclasses.replace(
        tls,
        trusted_ca=_file(roots, providers, "ca_certificate_file", "validation_context"),
        certificate=_file(certificate, providers, "certificate_file", "tls_certificate_provider_instance"),
        private_key=_file(key, providers, "private_key_file", "tls_certificate_provider_instance"),
    )


def _file(source: TlsFile | None, providers: Providers, key: str, where: str) -> TlsFile | None:
    if source is None or not source.provider:
        return source
    return TlsFile(path=provider_file(source.provider, providers, key, where))


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
