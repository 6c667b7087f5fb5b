"""Documents as xDS resources, and what is wrong with them."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import re2
from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_pb2
from google.protobuf import json_format

from ..bootstrap import Node
from ..errors import ConfigError
from ..resources import ResourceType
from .assemble import assemble
from .client import ANYBODY, Client, client_of
from .client_views import ClientMemos, ClientViews
from .inbound import inbound_problems, make_inbound_listener
from .memo import Memo
from .packing import Packed
from .reading import FileOfDocuments, Reading, read_all
from .served import ServedResources
from .view import View
from .world import NOT_SAYABLE, World

__all__ = ["FolderState", "Problem", "make_state"]

# The name that istiod has for inbound listeners of servers without a sidecar.
INBOUND_PREFIX = "xds.istio.io/grpc/lds/inbound/"

_PORT = re2.compile("[1-9][0-9]{0,4}")
_MAX_PORT = 65535

# By what a node says of itself; they are made of views at little cost.
_MAX_SERVED = 64


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with the folder: where, and what. A warning leaves the rest in use."""

    text: str
    is_error: bool


def _no_views() -> ClientViews:
    return ClientViews(World(), {}, ANYBODY, ClientMemos())


@dataclass(frozen=True, slots=True)
class FolderState:
    """The folder at one moment, as xDS.

    Attributes:
        version: Says whether two states are the same.
        raw: Resources that stand in it as they are.
        client: Whose view counts where nobody else's is asked for.
        problems: Errors and warnings, in the order of the files.
        memo: What is kept for the next one.
    """

    version: str = ""
    raw: Mapping[tuple[ResourceType, str], bytes] = field(default_factory=dict)
    client: Client = ANYBODY
    problems: tuple[Problem, ...] = ()
    world: World = field(default_factory=World, compare=False)
    memo: Memo = field(default_factory=Memo, compare=False, repr=False)
    _views: ClientViews = field(default_factory=_no_views, compare=False, repr=False)
    _served: dict[tuple[Client, bool, str], ServedResources] = field(default_factory=dict, compare=False, repr=False)

    @property
    def grpc(self) -> Mapping[tuple[ResourceType, str], bytes]:
        """Resources for clients that ask for listeners by name."""
        return self.view(self.client).grpc

    @property
    def sidecar(self) -> Mapping[tuple[ResourceType, str], bytes]:
        """Resources for an Envoy that asks for all."""
        return self.view(self.client).sidecar

    def begin_use(self) -> None:
        """It is the folder's from now on, and was not only tried: clients that are gone are forgotten by and by."""
        self._views.memos.begin_edit()

    def inbound(self, name: str, own_address: str = "", *, is_grpc_core: bool = False) -> bytes | None:
        """The inbound listener of a name that holds address and port; None where the name is not one.

        Args:
            name: Of the listener.
            own_address: Of the server's workload, where it is another machine's.
            is_grpc_core: For gRPC's own server.

        Raises:
            ConfigError: It cannot be made.
        """
        address, _, port = name.removeprefix(INBOUND_PREFIX).rpartition(":")
        if not name.startswith(INBOUND_PREFIX) or not _PORT.fullmatch(port) or int(port) > _MAX_PORT:
            return None
        try:
            where = address.strip("[]"), int(port), own_address
            listener = make_inbound_listener(self.world, name, *where, is_grpc_core=is_grpc_core)
            return bytes(listener.SerializeToString(deterministic=True))
        except NOT_SAYABLE as error:
            raise ConfigError(name, f"cannot be made: {error}") from error

    def for_client(self, node: base_pb2.Node) -> Mapping[tuple[ResourceType, str], bytes]:
        """The resources in the shape that a client wants, and as its namespace, labels and locality have them."""
        client = _client_of(node)
        view = self.view(client)
        if node.user_agent_name == "envoy" or _is_sidecar(node):
            return view.sidecar
        is_grpc_core = node.user_agent_name.startswith("gRPC")
        address = _address_of(node)
        key = (client, is_grpc_core, address)
        found = self._served.get(key)
        if found is None:
            if len(self._served) >= _MAX_SERVED:
                self._served.clear()
            made = view.grpc_core if is_grpc_core else view.grpc
            # Others than gRPC's client ask for full names, too.
            short_names = view.full_names if is_grpc_core else {}

            def make(name: str) -> bytes | None:
                return self.inbound(name, address, is_grpc_core=is_grpc_core) or view.listener(name)

            found = ServedResources(made, make, short_names)
            self._served[key] = found
        return found

    def view(self, client: Client) -> View:
        """The resources as one client has them; made when they are asked for first."""
        return self._views.of(client)

    @property
    def errors(self) -> list[str]:
        """The texts of the errors."""
        return [problem.text for problem in self.problems if problem.is_error]


def make_state(
    files: Sequence[FileOfDocuments],
    domain: str,
    broken: Sequence[str] = (),
    client: Client = ANYBODY,
    before: FolderState | None = None,
) -> FolderState:
    """Translate documents. Errors do not raise: they stand in the problems, and what is wrong is left out.

    Args:
        files: In their order.
        domain: The cluster's DNS domain.
        broken: What is wrong with files of which it is not known whether they hold policies.
        client: In whose view errors are looked for.
        before: Another state of the same folder; what the two have in common is translated once.
    """
    memo = Memo(before.memo if before is not None else None)
    read = read_all(files, domain, memo)
    errors: list[str] = []
    warnings: list[str] = []
    of_raw: list[str] = []
    raw = _raw_of((one for file in read for one in file.raw), warnings, errors, of_raw)
    world = assemble(read, domain, errors, memo)
    world.security.broken[:0] = [*broken, *of_raw]
    if world.security.broken:
        # What cannot be read may be the listener of any server, and may be its policy.
        raw = {key: packed for key, packed in raw.items() if not _is_of_server(key[0], packed)}
    views = ClientViews(world, raw, client, before._views.memos if before is not None else ClientMemos())
    view = views.of(client)
    view.grpc  # noqa: B018  Its errors are the folder's.
    # A cluster is checked in each of its shapes, and would be reported for each.
    problems = [Problem(text, True) for text in dict.fromkeys([*broken, *errors, *map(str, view.errors)])]
    problems += [Problem(text, False) for text in (*warnings, *world.warnings, *_inbound_problems(world, memo))]
    version = hashlib.sha256(repr((domain, client, tuple(broken))).encode(errors="surrogatepass"))
    version.update(b"".join(file.digest for file in read))
    return FolderState(version.hexdigest()[:16], raw, client, tuple(problems), world, memo, views)


def _inbound_problems(world: World, memo: Memo) -> list[str]:
    inputs = (world.domain, world.security, world.workloads, [*world.services])
    return memo.keep("inbound problems", inputs, lambda _: inbound_problems(world))


def _raw_of(readings: Iterable[Reading], warnings: list[str], errors: list[str], of_servers: list[str]) -> Packed:
    """The resources that stand in the folder as they are.

    Args:
        readings: Their documents.
        warnings: Where notes go.
        errors: Where errors go.
        of_servers: Where those go that may be about the policy of a server.
    """
    raw: Packed = {}
    for reading in readings:
        found, problems, is_of_server = reading.value, list(reading.errors), reading.is_unreadable_policy
        warnings += reading.warnings
        if found is not None:
            kind, name, packed = found
            if (kind, name) in raw:
                problems.append(str(ConfigError(reading.where, f"{kind.name} {name!r} stands in the folder twice")))
                is_of_server = _is_of_server(kind, packed)
            else:
                raw[(kind, name)] = packed
        errors += problems
        if is_of_server:
            of_servers += problems
    return raw


def _is_of_server(kind: ResourceType, packed: bytes) -> bool:
    return kind is ResourceType.LISTENER and not listener_pb2.Listener.FromString(packed).HasField("api_listener")


def _client_of(node: base_pb2.Node) -> Client:
    metadata = json_format.MessageToDict(node.metadata)
    named = metadata.get("NAMESPACE")
    namespace = named if isinstance(named, str) else ""
    locality = node.locality
    return client_of(namespace, metadata, (locality.region, locality.zone, locality.sub_zone))


def _is_sidecar(node: base_pb2.Node) -> bool:
    """Whether a client of meshsdk asks as a sidecar does; gRPC's clients never do."""
    metadata = json_format.MessageToDict(node.metadata)
    return node.user_agent_name == "meshsdk" and Node(id=node.id, metadata=metadata).is_sidecar


def _address_of(node: base_pb2.Node) -> str:
    """Of a workload, by its node's id as Istio has it: type~ip~pod.namespace~domain; empty where it is another."""
    parts = node.id.split("~")
    if len(parts) != 4:
        return ""
    try:
        address = ipaddress.ip_address(parts[1])
    except ValueError:
        return ""
    return "" if address.is_unspecified or address.is_loopback else str(address)
