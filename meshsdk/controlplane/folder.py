"""A folder of YAML as xDS resources, watched. The last good state serves on when an edit is wrong."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.message import Message

from ..errors import ConfigError, ResourceError
from ..log_lines import logger_of
from ..resources import RESOURCE_TYPES, ResourceType, decode, resource_name
from .assemble import assemble
from .clusters import for_grpc_core, make_clusters
from .documents import Document, config_files, read_documents
from .inbound import inbound_problems, make_inbound_listener, make_keys_clusters
from .listeners import make_grpc_listeners, make_sidecar_listeners
from .raw import parse_raw
from .world import World

__all__ = ["Folder", "FolderState", "Problem", "load"]

logger = logger_of("meshsdk.controlplane")

# The name that istiod has for inbound listeners of servers without a sidecar.
INBOUND_PREFIX = "xds.istio.io/grpc/lds/inbound/"

Packed = dict[tuple[ResourceType, str], bytes]
Stamp = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with the folder: where, and what. A warning leaves the rest in use."""

    text: str
    is_error: bool


@dataclass(frozen=True, slots=True)
class FolderState:
    """The folder at one moment, as xDS.

    Attributes:
        version: Says whether two states are the same.
        grpc: Resources for clients that ask for listeners by name.
        grpc_core: The same, with the clusters that gRPC's own xDS client takes.
        sidecar: Resources for an Envoy that asks for all.
        problems: Errors and warnings, in the order of the files.
    """

    version: str = ""
    grpc: Mapping[tuple[ResourceType, str], bytes] = field(default_factory=dict)
    grpc_core: Mapping[tuple[ResourceType, str], bytes] = field(default_factory=dict)
    sidecar: Mapping[tuple[ResourceType, str], bytes] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    world: World = field(default_factory=World, compare=False)

    def inbound(self, name: str) -> bytes | None:
        """The inbound listener of a name that holds address and port; None where the name is not one.

        Raises:
            ConfigError: It cannot be made.
        """
        address, _, port = name.removeprefix(INBOUND_PREFIX).rpartition(":")
        if not name.startswith(INBOUND_PREFIX) or not port.isdecimal():
            return None
        listener = make_inbound_listener(self.world, name, address.strip("[]"), int(port))
        return bytes(listener.SerializeToString(deterministic=True))

    def for_client(self, user_agent: str) -> Mapping[tuple[ResourceType, str], bytes]:
        """The resources in the shape that a client wants, by its node's user_agent_name."""
        if user_agent == "envoy":
            return self.sidecar
        return self.grpc_core if user_agent.startswith("gRPC") else self.grpc

    @property
    def errors(self) -> list[str]:
        """The texts of the errors."""
        return [problem.text for problem in self.problems if problem.is_error]


def load(root: Path, domain: str = "cluster.local") -> FolderState:
    """Read and translate a folder or file.

    Errors do not raise: they stand in the state's problems, and what is wrong is left out.
    """
    errors: list[ConfigError] = []
    objects: list[Document] = []
    raw: Packed = {}
    warnings: list[str] = []
    broken: list[str] = []
    try:
        files = config_files(root)
    except ConfigError as error:
        return FolderState(problems=(Problem(str(error), True),))
    for path in files:
        try:
            for document in read_documents(path):
                if "@type" in document.data:
                    _add_raw(raw, document, warnings, errors, broken)
                else:
                    objects.append(document)
        except ConfigError as error:
            errors.append(error)
    world = assemble(objects, domain, errors)
    # A listener that cannot be read may be some server's: no other policy may stand in for it.
    world.security.broken.extend(broken)
    views = _translate(world, raw, errors)
    # A cluster is checked in each of its shapes, and would be reported for each.
    problems = [Problem(text, True) for text in dict.fromkeys(map(str, errors))]
    problems += [Problem(text, False) for text in (*warnings, *world.warnings, *inbound_problems(world))]
    version = hashlib.sha256()
    for (kind, name), packed in sorted(views[0].items(), key=lambda item: (item[0][0].value, item[0][1])):
        version.update(f"{kind.value} {name} {len(packed)}".encode() + packed)
    version.update(repr((world.security, world.workloads)).encode())
    return FolderState(version.hexdigest()[:16], *views, problems=tuple(problems), world=world)


def _add_raw(
    raw: Packed, document: Document, warnings: list[str], errors: list[ConfigError], broken: list[str]
) -> None:
    try:
        kind, name, packed = parse_raw(document, warnings)
    except ConfigError as error:
        errors.append(error)
        is_of_client = "api_listener" in document.data or "apiListener" in document.data
        if str(document.data["@type"]) == ResourceType.LISTENER.type_url and not is_of_client:
            broken.append(str(error))
        return
    if (kind, name) in raw:
        errors.append(ConfigError(document.where, f"{kind.name} {name!r} stands in the folder twice"))
        return
    raw[(kind, name)] = packed


def _translate(world: World, raw: Packed, errors: list[ConfigError]) -> tuple[Packed, Packed, Packed]:
    """The resources for gRPC-like clients, for grpc-core, and for an Envoy."""
    try:
        messages = [*make_clusters(world), *make_keys_clusters(world)]
        clusters = _pack(messages, errors)
        core = _pack([for_grpc_core(one) if one.DESCRIPTOR.name == "Cluster" else one for one in messages], errors)
        grpc = _pack(make_grpc_listeners(world), errors)
        sidecar = _pack(make_sidecar_listeners(world), errors)
    except ConfigError as error:
        errors.append(error)
        return dict(raw), dict(raw), dict(raw)
    return {**clusters, **grpc, **raw}, {**core, **grpc, **raw}, {**clusters, **sidecar, **raw}


def _pack(messages: Iterable[Message], errors: list[ConfigError]) -> Packed:
    """Messages as bytes by type and name. Each is checked as a client would, so that no error waits for one."""
    packed: Packed = {}
    for message in messages:
        kind = RESOURCE_TYPES[f"type.googleapis.com/{message.DESCRIPTOR.full_name}"]
        body = message.SerializeToString(deterministic=True)
        name = resource_name(kind, body)
        try:
            decode(kind, body)
        except ResourceError as error:
            errors.append(ConfigError(f"{name}: {error.field}", error.problem))
            continue
        packed[(kind, name)] = body
    return packed


class Folder:
    """Watches a folder by looking at it: names, inodes, times and sizes of its files.

    Args:
        root: The folder, or one file.
        domain: The cluster's DNS domain.
        settle_seconds: How long an edit must be past before it is read: an editor may still be writing, and an empty
            file is a legal configuration.

    Attributes:
        state: The last good state. An edit with errors changes only its problems.
    """

    def __init__(
        self, root: str | os.PathLike[str], domain: str = "cluster.local", settle_seconds: float = 0.1
    ) -> None:
        self.root = Path(root)
        self._domain = domain
        self._stamp: Stamp | None = None
        self._settle_ns = int(settle_seconds * 1e9)
        self.state = FolderState()

    def refresh(self) -> bool:
        """Look, and read again if something changed. Returns whether the resources are others now."""
        stamp = self._look()
        if stamp == self._stamp:
            return False
        is_first = self._stamp is None
        newest = max((modified for _, _, modified, _ in stamp), default=0)
        if not is_first and time.time_ns() - newest < self._settle_ns:
            return False
        self._stamp = stamp
        new = load(self.root, self._domain)
        for problem in new.problems:
            if problem not in self.state.problems:
                logger.log(logging.ERROR if problem.is_error else logging.WARNING, "%s", problem.text)
        if new.errors and not is_first:
            logger.error("%s has errors; the last good state stays in use", self.root)
            self.state = dataclasses.replace(self.state, problems=new.problems)
            return False
        changed = new.version != self.state.version
        self.state = new
        return changed

    def _look(self) -> Stamp:
        try:
            return tuple(
                (str(path), (stat := path.stat()).st_ino, stat.st_mtime_ns, stat.st_size)
                for path in config_files(self.root)
            )
        except (OSError, ConfigError):
            return ()
