"""Where a Mesh's configuration comes from: a management server, or a folder of YAML."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from msgspec.structs import replace

from .bootstrap import GENERATOR, Bootstrap, Node, load_bootstrap, parse_bootstrap
from .control import SourceFactory
from .errors import BootstrapError
from .istio_pod import SERVER_LISTENER_TEMPLATE, pod_bootstrap
from .security import Identity
from .security.secrets import IDENTITY_PROVIDER
from .xds import ControlLoop, ResourceCache, Source

__all__ = ["Profile", "ads_source", "find_configuration", "find_port", "folder_source", "with_profile"]

Profile = Literal["grpc", "sidecar"]
PROFILES = ("grpc", "sidecar")

CONFIG_VARIABLE = "MESHSDK_CONFIG"
# By the downward API, as Istio's proxies have it.
_POD_NAMESPACE = "POD_NAMESPACE"


def find_configuration(
    bootstrap: str | os.PathLike[str] | Mapping[str, Any] | None,
    config: str | os.PathLike[str] | None,
    identity: Identity | str | None,
) -> tuple[Bootstrap, Path | None]:
    """A management server's bootstrap, or one with a folder: arguments, the environment, then what a pod is given.

    Raises:
        BootstrapError: There is no configuration, or it is wrong.
    """
    if bootstrap is not None and config is not None:
        raise BootstrapError("", "give either bootstrap or config, not both")
    if config is None:
        parsed = load_bootstrap(bootstrap)
        if parsed is not None:
            return parsed, None
        config = os.environ.get(CONFIG_VARIABLE)
    if not config:
        document = pod_bootstrap(os.environ)
        if document is not None:
            return parse_bootstrap(document), None
        raise BootstrapError(
            "",
            "there is no configuration: set GRPC_XDS_BOOTSTRAP to a bootstrap file, or MESHSDK_CONFIG to a folder of"
            " YAML, or pass bootstrap=… or config=…; a pod joins Istio by itself where it is given POD_NAME and what"
            " docs/istio.md lists besides",
        )
    root = Path(config)
    if not root.exists():
        raise BootstrapError("", f"there is no file or folder {os.fspath(config)!r}")
    node = Node(metadata={"NAMESPACE": _own_namespace(identity)})
    return Bootstrap(node=node, server_listener_template=SERVER_LISTENER_TEMPLATE), root


def with_profile(bootstrap: Bootstrap, profile: Profile | None) -> Bootstrap:
    """A bootstrap whose node istiod takes as a profile says; None leaves it as it is.

    Raises:
        ValueError: There is no such profile.
        BootstrapError: A sidecar must be told by its node's id, and it is not.
    """
    if profile is None:
        return bootstrap
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {PROFILES}, is {profile!r}")
    metadata = {name: value for name, value in bootstrap.node.metadata.items() if name != GENERATOR}
    node = replace(bootstrap.node, metadata=metadata | ({GENERATOR: "grpc"} if profile == "grpc" else {}))
    if profile == "sidecar" and not node.is_sidecar:
        raise BootstrapError(
            "node.id", f"must be sidecar~ADDRESS~POD.NAMESPACE~NAMESPACE.svc.DOMAIN for profile sidecar, is {node.id!r}"
        )
    return replace(bootstrap, node=node)


def find_port(argument: str, given: int | None, variable: str) -> int | None:
    """A port that an argument or the environment names; None where neither does.

    Raises:
        ValueError: The argument is none.
        BootstrapError: The environment's is none.
    """
    if given is not None:
        if not 0 < given < 65536:
            raise ValueError(f"{argument} must be a port, is {given!r}")
        return given
    text = os.environ.get(variable)
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and 0 < int(text) < 65536):
        raise BootstrapError("", f"the environment variable {variable}: {text!r} is not a port")
    return int(text)


def _own_namespace(identity: Identity | str | None) -> str:
    """Of a process over a folder: its identity's, or its pod's."""
    parts = identity.split("/") if isinstance(identity, str) else []
    # spiffe://cluster.local/ns/default/sa/shop
    named = parts[4] if len(parts) > 4 and parts[3] == "ns" else ""
    return named or os.environ.get(_POD_NAMESPACE) or "default"


def folder_source(root: Path, node: Node) -> SourceFactory:
    """Makes the source of a folder's resources, in this process."""

    def make(cache: ResourceCache, loop: ControlLoop) -> Source:
        # Imported when it is used: a process that has a management server needs neither YAML nor Istio's objects.
        from .controlplane import Folder, FolderSource, client_of

        locality = node.locality
        client = client_of(node.namespace, node.metadata, (locality.region, locality.zone, locality.sub_zone))
        return FolderSource(Folder(root, client=client), cache, loop)

    return make


def ads_source(bootstrap: Bootstrap, identity: Identity | None) -> SourceFactory:
    """Makes the source of what a bootstrap's management servers send."""
    # Files of the bootstrap are an identity without an object.
    has_identity = identity is not None or IDENTITY_PROVIDER in bootstrap.certificate_providers

    def make(cache: ResourceCache, loop: ControlLoop) -> Source:
        from .xds.ads_client import AdsClient  # gRPC's stubs are loaded where there is a server to talk to.

        return AdsClient(bootstrap.servers, bootstrap.node, cache, loop, has_identity=has_identity)

    return make
