"""Where a Mesh's configuration comes from: a management server, or a folder of YAML."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from msgspec.structs import replace

from .bootstrap import Bootstrap, load_bootstrap, parse_bootstrap
from .control import SourceFactory
from .errors import BootstrapError
from .istio_pod import SERVER_LISTENER_TEMPLATE, pod_bootstrap
from .log_lines import logger_of
from .node import GENERATOR, Node
from .resources import ResourceType, decode
from .security import Identity
from .security.secrets import IDENTITY_PROVIDER
from .xds import ControlLoop, ResourceCache, Source

__all__ = [
    "Profile",
    "ads_source",
    "check_choice",
    "find_configuration",
    "find_port",
    "folder_source",
    "source_of",
    "with_profile",
]

Profile = Literal["grpc", "sidecar"]
PROFILES = ("grpc", "sidecar")

logger = logger_of("meshsdk")

CONFIG_VARIABLE = "MESHSDK_CONFIG"
CACHE_VARIABLE = "MESHSDK_CACHE_DIR"
# By the downward API, as Istio's proxies have it.
_POD_NAMESPACE = "POD_NAMESPACE"
NAMESPACE_VARIABLE = "MESHSDK_NAMESPACE"
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_LONGEST_LABEL = 63


def find_configuration(
    bootstrap: str | os.PathLike[str] | Mapping[str, Any] | None,
    config: str | os.PathLike[str] | None,
    identity: Identity | str | None,
    namespace: str | None = None,
) -> tuple[Bootstrap, Path | None]:
    """A management server's bootstrap, or one with a folder: arguments, the environment, then what a pod is given.

    Raises:
        BootstrapError: There is no configuration, or it is wrong.
    """
    if bootstrap is not None and config is not None:
        raise BootstrapError("", "give either bootstrap or config, not both")
    if namespace is not None and not _is_label(namespace):
        raise BootstrapError("", f"namespace must be a name of Kubernetes, is {namespace!r}")
    if config is None:
        parsed = load_bootstrap(bootstrap)
        if parsed is not None:
            _refuse_namespace(namespace, parsed)
            return parsed, None
        config = os.environ.get(CONFIG_VARIABLE)
    if not config:
        document = pod_bootstrap(os.environ)
        if document is not None:
            parsed = parse_bootstrap(document)
            _refuse_namespace(namespace, parsed)
            return parsed, None
        raise BootstrapError(
            "",
            "there is no configuration: set GRPC_XDS_BOOTSTRAP to a bootstrap file, or MESHSDK_CONFIG to a folder of"
            " YAML, or pass bootstrap=… or config=…; a pod joins Istio by itself where it is given POD_NAME and what"
            " docs/istio.md lists besides",
        )
    root = Path(config)
    if not root.exists():
        raise BootstrapError("", f"there is no file or folder {os.fspath(config)!r}")
    node = Node(metadata={"NAMESPACE": namespace or _own_namespace(identity)})
    return Bootstrap(node=node, server_listener_template=SERVER_LISTENER_TEMPLATE), root


def check_choice(argument: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse a value that is none of those that are known.

    Raises:
        ValueError: It is none.
    """
    if value not in known:
        raise ValueError(f"{argument} must be one of {known}, is {value!r}")


def with_profile(bootstrap: Bootstrap, profile: Profile | None) -> Bootstrap:
    """A bootstrap whose node istiod takes as a profile says; None leaves it as it is.

    Raises:
        BootstrapError: A sidecar must be told by its node's id, and it is not.
    """
    if profile is None:
        return bootstrap
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
    """Of a process over a folder: as the environment says, its identity's, or its pod's."""
    named = os.environ.get(NAMESPACE_VARIABLE)
    if named:
        if not _is_label(named):
            raise BootstrapError("", f"the environment variable {NAMESPACE_VARIABLE}: {named!r} is no namespace")
        return named
    # Whoever it is to be is known at once only of some; nobody is asked for that.
    text = identity if isinstance(identity, str) else getattr(identity, "spiffe_id", "")
    # spiffe://cluster.local/ns/default/sa/shop
    parts = text.split("/") if isinstance(text, str) else []
    named = parts[4] if len(parts) > 4 and parts[3] == "ns" else ""
    return named or os.environ.get(_POD_NAMESPACE) or "default"


def _is_label(text: str) -> bool:
    """Whether it may be a name of Kubernetes' (RFC 1123)."""
    ends = text[:1], text[-1:]
    return len(text) <= _LONGEST_LABEL and _LETTERS.issuperset(ends) and _LETTERS.issuperset(text.replace("-", ""))


def _refuse_namespace(namespace: str | None, bootstrap: Bootstrap) -> None:
    """A management server goes by what the node says of itself, so that two answers would be one too many."""
    if namespace is not None and namespace != bootstrap.node.namespace:
        raise BootstrapError(
            "node.metadata.NAMESPACE",
            f"is {bootstrap.node.namespace!r}, and namespace={namespace!r} was given; a management server goes by the"
            " node, so say it there",
        )


def folder_source(root: Path, node: Node) -> SourceFactory:
    """Makes the source of a folder's resources, in this process."""

    def make(cache: ResourceCache, loop: ControlLoop) -> Source:
        # Imported when it is used: a process that has a management server needs neither YAML nor Istio's objects.
        from .controlplane import Folder, FolderSource, SourcedFolder, client_of

        locality = node.locality
        client = client_of(node.namespace, node.metadata, (locality.region, locality.zone, locality.sub_zone))
        return SourcedFolder(FolderSource(Folder(root, client=client), cache, loop), node, cache, loop)

    return make


def ads_source(bootstrap: Bootstrap, identity: Identity | None) -> SourceFactory:
    """Makes the source of what a bootstrap's management servers send."""
    has_identity = _has_identity(bootstrap, identity)

    def make(cache: ResourceCache, loop: ControlLoop) -> Source:
        from .xds.federation import Federation  # gRPC's stubs are loaded where there is a server to talk to.

        return Federation(bootstrap, cache, loop, has_identity=has_identity, read_file=_read_file)

    return make


def _read_file(path: str) -> dict[tuple[ResourceType, str], bytes]:
    from .controlplane.discovery_file import read_discovery_file  # Few have such files.

    return read_discovery_file(path)


def _has_identity(bootstrap: Bootstrap, identity: Identity | None) -> bool:
    # Files of the bootstrap are an identity without an object.
    return identity is not None or IDENTITY_PROVIDER in bootstrap.certificate_providers


def source_of(
    bootstrap: Bootstrap,
    config: Path | None,
    identity: Identity | None,
    cache_dir: str | os.PathLike[str] | None,
    cache_max_age: float,
) -> SourceFactory:
    """A folder's source; or that of what management servers send, kept where a folder for that is named.

    Raises:
        ValueError: The age is none.
        BootstrapError: This system has not what it takes.
    """
    if config is not None:
        return folder_source(config, bootstrap.node)
    return _kept_source(ads_source(bootstrap, identity), bootstrap, identity, cache_dir, cache_max_age)


def _kept_source(
    make_source: SourceFactory,
    bootstrap: Bootstrap,
    identity: Identity | None,
    folder: str | os.PathLike[str] | None,
    max_age_seconds: float,
) -> SourceFactory:
    """The source of what management servers send, kept in a folder where one is named, by argument or environment.

    Raises:
        ValueError: The age is none.
        BootstrapError: This system has not what it takes.
    """
    if not 0 < max_age_seconds < math.inf:
        raise ValueError(f"cache_max_age must be a positive number of seconds, is {max_age_seconds!r}")
    folder = folder or os.environ.get(CACHE_VARIABLE)
    if not folder:
        return make_source
    if os.name != "posix":
        raise BootstrapError("", "cache_dir needs a system whose files say who may write to them")
    if bootstrap.node.is_sidecar:
        logger.warning(
            "nothing is kept in %s: in profile sidecar a process starts by its management server only", folder
        )
        return make_source
    path = Path(folder).absolute()

    def make(cache: ResourceCache, loop: ControlLoop) -> Source:
        from .last_good import Keeper, LastGoodSource, Store, fingerprint  # Nobody pays who keeps nothing.

        keeper = Keeper(Store(path, fingerprint(bootstrap)), max_age_seconds)
        read = partial(decode, grpc_profile=True, has_identity=_has_identity(bootstrap, identity))
        return LastGoodSource(make_source(cache, loop), cache, loop, keeper, read)

    return make
