"""Documents as xDS resources, and what is wrong with them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import re2
from envoy.config.listener.v3 import listener_pb2
from google.protobuf.message import Message

from ..errors import ConfigError, ResourceError
from ..resources import RESOURCE_TYPES, ResourceType, decode, resource_name
from .assemble import assemble
from .clusters import for_grpc_core, make_clusters
from .documents import Document
from .inbound import inbound_problems, make_inbound_listener, make_keys_clusters
from .kinds import UnreadablePolicy
from .listeners import make_grpc_listeners, make_sidecar_listeners
from .raw import parse_raw
from .world import World

__all__ = ["FolderState", "Problem", "make_state"]

# The name that istiod has for inbound listeners of servers without a sidecar.
INBOUND_PREFIX = "xds.istio.io/grpc/lds/inbound/"

_PORT = re2.compile("[1-9][0-9]{0,4}")
_MAX_PORT = 65535

Packed = dict[tuple[ResourceType, str], bytes]


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
        if not name.startswith(INBOUND_PREFIX) or not _PORT.fullmatch(port) or int(port) > _MAX_PORT:
            return None
        try:
            listener = make_inbound_listener(self.world, name, address.strip("[]"), int(port))
            return bytes(listener.SerializeToString(deterministic=True))
        except (ValueError, TypeError, OverflowError) as error:
            raise ConfigError(name, f"cannot be made: {error}") from error

    def for_client(self, user_agent: str) -> Mapping[tuple[ResourceType, str], bytes]:
        """The resources in the shape that a client wants, by its node's user_agent_name."""
        if user_agent == "envoy":
            return self.sidecar
        return self.grpc_core if user_agent.startswith("gRPC") else self.grpc

    @property
    def errors(self) -> list[str]:
        """The texts of the errors."""
        return [problem.text for problem in self.problems if problem.is_error]


def make_state(documents: Iterable[Document], domain: str, broken: Iterable[str] = ()) -> FolderState:
    """Translate documents. Errors do not raise: they stand in the problems, and what is wrong is left out.

    Args:
        documents: In the order of their files.
        domain: The cluster's DNS domain.
        broken: What is wrong with files of which it is not known whether they hold policies.
    """
    errors: list[ConfigError] = []
    raw: Packed = {}
    warnings: list[str] = []
    objects: list[Document] = []
    of_raw: list[str] = []
    for document in documents:
        if "@type" not in document.data:
            objects.append(document)
            continue
        try:
            _add_raw(raw, document, warnings)
        except ConfigError as error:
            errors.append(error)
            if isinstance(error, UnreadablePolicy):
                of_raw.append(str(error))
    world = assemble(objects, domain, errors)
    world.security.broken[:0] = [*broken, *of_raw]
    views = _translate(world, raw, errors)
    # A cluster is checked in each of its shapes, and would be reported for each.
    problems = [Problem(text, True) for text in dict.fromkeys([*broken, *map(str, errors)])]
    problems += [Problem(text, False) for text in (*warnings, *world.warnings, *inbound_problems(world))]
    version = hashlib.sha256()
    for (kind, name), packed in sorted(views[0].items(), key=lambda item: (item[0][0].value, item[0][1])):
        version.update(f"{kind.value} {name} {len(packed)}".encode() + packed)
    version.update(repr((world.security, world.workloads)).encode(errors="surrogatepass"))
    return FolderState(version.hexdigest()[:16], *views, problems=tuple(problems), world=world)


def _add_raw(raw: Packed, document: Document, warnings: list[str]) -> None:
    kind, name, packed = parse_raw(document, warnings)
    if (kind, name) in raw:
        error = UnreadablePolicy if _is_of_server(kind, packed) else ConfigError
        raise error(document.where, f"{kind.name} {name!r} stands in the folder twice")
    raw[(kind, name)] = packed


def _is_of_server(kind: ResourceType, packed: bytes) -> bool:
    return kind is ResourceType.LISTENER and not listener_pb2.Listener.FromString(packed).HasField("api_listener")


def _translate(world: World, raw: Packed, errors: list[ConfigError]) -> tuple[Packed, Packed, Packed]:
    """The resources for gRPC-like clients, for grpc-core, and for an Envoy."""
    if world.security.broken:
        # What cannot be read may be the listener of any server, and may be its policy.
        raw = {key: packed for key, packed in raw.items() if not _is_of_server(key[0], packed)}
    try:
        messages = [*make_clusters(world), *make_keys_clusters(world)]
        clusters = _pack(messages, errors)
        core = _pack([for_grpc_core(one) if one.DESCRIPTOR.name == "Cluster" else one for one in messages], errors)
        grpc = _pack(make_grpc_listeners(world), errors)
        sidecar = _pack(make_sidecar_listeners(world), errors)
    except ConfigError as error:
        errors.append(error)
    except (ValueError, TypeError, OverflowError) as error:
        # A value that no field of xDS takes, and that was not looked at where it was read.
        errors.append(ConfigError("the folder", f"cannot be said in xDS: {error}"))
    else:
        return {**clusters, **grpc, **raw}, {**core, **grpc, **raw}, {**clusters, **sidecar, **raw}
    return dict(raw), dict(raw), dict(raw)


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
