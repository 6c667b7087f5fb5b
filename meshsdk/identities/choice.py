"""Which identity a process takes: the one that it was given, its bootstrap's, or one for development."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BootstrapError

if TYPE_CHECKING:
    from ..bootstrap import Bootstrap, CertificateProvider
    from ..security import Identity

__all__ = ["choose_identity"]

_WHERE = "certificate_providers['default']"

# Plugins of the bootstrap that are ours; their configuration is what the identities of meshsdk.identities take.
_PLUGINS = {
    "meshsdk.istio_ca": "IstioCaIdentity",
    "meshsdk.sds": "SdsIdentity",
    "meshsdk.workload_api": "WorkloadApiIdentity",
}


def choose_identity(identity: Identity | str | None, bootstrap: Bootstrap, folder: Path | None) -> Identity | None:
    """The identity that was asked for; None where there is none, or plain files are all that there is to know.

    Args:
        identity: That was given; a SPIFFE ID alone is for the development CA of a folder.
        bootstrap: Whose certificate provider `default` is the identity where none was given.
        folder: Of configuration, in place of a management server.

    Raises:
        BootstrapError: The certificate provider is wrong.
        IdentityError: What it names cannot be.
        ValueError: `identity` is a text that says nothing here.
    """
    if identity is not None and not isinstance(identity, str):
        return identity
    if folder is None:
        if identity is not None:
            raise ValueError(
                "a SPIFFE ID alone is an identity over a folder of configuration only; see meshsdk.identities"
            )
        provider = bootstrap.certificate_providers.get("default")
        return _of_provider(provider) if provider is not None else None
    spiffe_id = identity or f"spiffe://{bootstrap.node.cluster_domain}/ns/{bootstrap.node.namespace}/sa/default"
    if not spiffe_id.startswith("spiffe://"):
        raise ValueError(f"identity must be a SPIFFE ID, is {spiffe_id!r}")
    from .development import DevelopmentIdentity  # Its cryptography is loaded when it is needed.

    return DevelopmentIdentity(folder, spiffe_id)


def _of_provider(provider: CertificateProvider) -> Identity | None:
    if provider.plugin in _PLUGINS:
        return _of_plugin(_PLUGINS[provider.plugin], provider.config)
    if not provider.config.get("spiffe_trust_bundle_map_file"):
        return None
    from .files import FileIdentity

    names = ("certificate_file", "private_key_file", "spiffe_trust_bundle_map_file")
    certificate, key, bundles = (provider.config.get(name) for name in names)
    if not isinstance(certificate, str) or not isinstance(key, str) or not isinstance(bundles, str):
        raise BootstrapError(f"{_WHERE}.config", f"{', '.join(names)} must be paths")
    return FileIdentity(certificate, key, spiffe_trust_bundle_map_file=bundles)


def _of_plugin(name: str, config: Mapping[str, Any]) -> Identity:
    from .. import identities

    make = getattr(identities, name)
    parameters = inspect.signature(make).parameters
    for key, value in config.items():
        if key not in parameters:
            raise BootstrapError(f"{_WHERE}.config.{key}", f"is not known (known: {', '.join(parameters)})")
        default = parameters[key].default
        wanted = type(default) if isinstance(default, int) else str
        if type(value) is not wanted:
            raise BootstrapError(f"{_WHERE}.config.{key}", f"must be of type {wanted.__name__}, is {value!r}")
    missing = [key for key, one in parameters.items() if one.default is inspect.Parameter.empty and key not in config]
    if missing:
        raise BootstrapError(f"{_WHERE}.config.{missing[0]}", "is required")
    return make(**config)  # type: ignore[no-any-return]
