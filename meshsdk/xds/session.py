"""What both variants of xDS have in common, without I/O: what is wanted, and resources on their way into the cache.

Theory of operation (Envoy docs, xds_protocol):

- A stream begins with who we are; each response has a nonce, and is answered with it: accepted, or refused with why.
- Good resources of a response that is refused for others are taken all the same, as Envoy and gRPC do.
- A resource may come in a wrapper that says how long it may be used (`ttl`); a wrapper without one is a heartbeat of
  what came before.
- Nothing is known of a name until a response says so, or time has passed. A server may leave out what it does not have:
  of the state of the world the response does not say which request it answers, and go-control-plane says nothing of
  names that it never had in its incremental one, either. So names are asked for a second time (`second_question`).
- Types that the cache has as a whole (`ResourceCache.packed`) are subscribed to by no name, as an Envoy subscribes to
  listeners and clusters: all of them come, and stay packed until one is wanted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from envoy.config.listener.v3 import listener_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, status_pb2
from msgspec import Struct, field

from ..errors import ResourceError
from ..resources import Cluster, Resource, ResourceType, decode, kept_bytes, resource_name
from ..resources.cluster import at_original, stands_for, without_automatic_tls
from ..xdstp import normalised
from .cache import ResourceCache, Status
from .packed import PackedResources

__all__ = ["Arrived", "Outcome", "Received", "Session", "refusal", "unwrap"]

_WRAPPER = discovery_pb2.Resource.DESCRIPTOR.full_name

# What a NACK says is bounded: a server must not be able to make us echo its whole response.
_MAX_ERROR_LENGTH = 4096

_DELETED = "the management server has no such resource"

# Of listeners that nobody asked for, as many are named.
_SHOWN_NAMES = 3


class Received(Struct):
    """What came of one response.

    Attributes:
        answers: What to send.
        settled: Which of the wanted resources it has settled.
        lifetimes: For how many seconds each may be used from now on; None is until something else is said.
        doubted: Which may be gone; to be asked for once more, again where that was done before.
    """

    answers: list[Any]
    kind: ResourceType | None = None
    settled: set[str] = field(default_factory=set)
    lifetimes: dict[str, float | None] = field(default_factory=dict)
    doubted: set[str] = field(default_factory=set)


class Arrived(Struct):
    """A resource as it came.

    Attributes:
        names: Its own, then others by which it is known.
        packed: Itself; None in a heartbeat.
        version: Its own; empty where it has none.
        lifetime: Seconds for which it may be used; None is for ever.
    """

    names: list[str]
    packed: bytes | None
    version: str = ""
    lifetime: float | None = None


class Outcome(Struct):
    """What taking one response in has found so far."""

    errors: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    sent: set[str] = field(default_factory=set)
    others: dict[str, bytes] = field(default_factory=dict)
    lifetimes: dict[str, float | None] = field(default_factory=dict)
    unreadable: bool = False


class Session(ABC):
    """The protocol state of one server, across its streams.

    Args:
        node: The envoy.config.core.v3.Node to introduce oneself with.
        cache: Where resources are put.
        keep_deleted: gRFC A53: a resource that the server deletes stays in use.
        drop_bad: gRFC A88: what is refused, or cannot be had any more, is not used any longer.
        has_identity: This process can show a certificate of the mesh.
        takes_all: Types that the cache has as a whole come from here.

    Attributes:
        is_incremental: Which of the two variants it speaks.
        problem: Why no listener of ours can ever come; empty where nothing speaks for that.
    """

    is_incremental = False

    def __init__(
        self,
        node: Any,
        cache: ResourceCache,
        *,
        keep_deleted: bool = False,
        drop_bad: bool = False,
        has_identity: bool = False,
        takes_all: bool = False,
    ) -> None:
        self._node = node
        self._has_identity = has_identity
        self._cache = cache
        self._keep_deleted = keep_deleted
        self._drop_bad = drop_bad
        self._whole: Mapping[ResourceType, PackedResources] = cache.packed if takes_all else {}
        self._wanted: dict[ResourceType, frozenset[str]] = {}
        self._introduced = False
        self.problem = ""

    @property
    def wanted(self) -> dict[ResourceType, frozenset[str]]:
        """The names subscribed to, by type."""
        return self._wanted

    @abstractmethod
    def open(self, *, is_same_server: bool = True) -> list[Any]:
        """The first requests of a new stream.

        Args:
            is_same_server: It is to the server of the stream before. Another one's versions mean something else, even
                where they read the same.
        """

    @abstractmethod
    def subscribe(self, kind: ResourceType, names: frozenset[str]) -> Any | None:
        """The request that changes the subscription of a type, or None where nothing changes."""

    @abstractmethod
    def receive(self, response: Any) -> Received:
        """Take a response into the cache."""

    @property
    def is_waiting(self) -> bool:
        """Whether something is wanted of which no server has said anything."""
        return any(not whole.is_known for whole in self._whole.values()) or any(
            (entry := self._cache.get(kind, name)) is not None and entry.status is Status.REQUESTED
            for kind, names in self._wanted.items()
            for name in names
        )

    def undecided(self, kind: ResourceType) -> frozenset[str]:
        """Names of which this server has said nothing, and of which no response on this stream tells by leaving them
        out."""
        is_nothing_asked = not self._cache.counts[kind, Status.REQUESTED] and not self._cache.kept
        if is_nothing_asked or kind in self._whole:
            return frozenset()
        return frozenset(
            name
            for name in self._wanted.get(kind, frozenset())
            if (entry := self._cache.get(kind, name)) is not None
            and (entry.status is Status.REQUESTED or entry.kept_at)
        )

    def question(self, kind: ResourceType, names: frozenset[str]) -> Any:
        """The first request of a stream of its own, of the state of the world; see `learn_absence`."""
        return discovery_pb2.DiscoveryRequest(node=self._node, resource_names=sorted(names), type_url=kind.type_url)

    def learn_absence(
        self, kind: ResourceType, asked: frozenset[str], response: Any
    ) -> tuple[frozenset[str], frozenset[str]]:
        """Take the answer to `question`: those of `asked` that do not exist, and those that do.

        Only absence is learnt from it: a resource is taken from the stream that will bring its changes.
        """
        try:
            there = {unwrap(kind, container).names[0] for container in response.resources}
        except ResourceError:
            return frozenset(), frozenset()
        absent = (asked - there) & self.undecided(kind)
        for name in absent:
            self._delete(kind, name)
        return absent, asked & there

    def _introduce(self, request: Any) -> Any:
        if not self._introduced:
            request.node.CopyFrom(self._node)
            self._introduced = True
        return request

    def _change(self, kind: ResourceType, names: frozenset[str]) -> tuple[frozenset[str], frozenset[str]]:
        """Want these names: which are new, and which are wanted no more."""
        before = self._wanted.get(kind, frozenset())
        gone, new = before - names, names - before
        whole = self._whole.get(kind)
        for name in gone:
            self._cache.forget(kind, name)
            if whole is not None:
                whole.let_go(name)
        for name in new:
            self._cache.request(kind, name)
        self._wanted[kind] = names
        if whole is not None:
            self._refer(kind, whole, new)
        return new, gone

    def _refer(self, kind: ResourceType, whole: PackedResources, names: frozenset[str]) -> None:
        """Of what is subscribed to as a whole it is known at once what there is, once that has come."""
        for name in names:
            whole.refer(name)
            entry = whole.get(name)
            if entry is not None:
                self._put(kind, name, *entry, Outcome())
            elif whole.is_known:
                self._delete(kind, name)

    def _settle_whole(self, kind: ResourceType, gone: Iterable[str], outcome: Outcome) -> None:
        """A response has come to a subscription to all of a type; these are gone."""
        whole = self._whole[kind]
        if not self._keep_deleted:
            whole.remove(gone)
        if not outcome.unreadable:
            whole.is_known = True
            for name in self._wanted.get(kind, frozenset()):
                if whole.get(name) is None:
                    self._delete(kind, name)
                    outcome.seen.add(name)
        if kind is not ResourceType.LISTENER:
            whole.take_changed()  # Who refers to others than listeners does so by name.
        if whole.has_changed or whole.take_marks_changed():
            self._cache.touch(ResourceType.LISTENER)

    def _take(self, kind: ResourceType, container: Any, version: str, outcome: Outcome) -> None:
        try:
            arrived = unwrap(kind, container)
        except ResourceError as error:
            outcome.errors.append(str(error))
            outcome.unreadable = True
            return
        self._take_arrived(kind, arrived, arrived.version if self.is_incremental else version, outcome)

    def _take_arrived(self, kind: ResourceType, arrived: Arrived, version: str, outcome: Outcome) -> None:
        wanted = self._wanted.get(kind, frozenset())
        outcome.seen.update(arrived.names)
        names = arrived.names
        whole = self._whole.get(kind)
        if whole is not None and arrived.packed is not None:
            whole.put(names[0], arrived.packed, version)
            names = whole.names_of(names[0])
            outcome.seen.update(names)
        names = [name for name in names if name in wanted]
        if not names and whole is None and arrived.packed is not None:
            outcome.others[arrived.names[0]] = arrived.packed  # Servers may send more than was asked for.
        for name in names:
            outcome.sent.add(name)
            outcome.lifetimes[name] = arrived.lifetime
            if arrived.packed is not None:
                self._put(kind, name, arrived.packed, version, outcome)

    def _put(self, kind: ResourceType, name: str, packed: bytes, version: str, outcome: Outcome) -> None:
        known = self._cache.get(kind, name)
        if known is not None and known.resource is not None and known.packed == packed:
            self._cache.accept_unchanged(kind, name, version)
            return
        try:
            before = (known.packed, known.resource) if known is not None and known.resource is not None else None
            resource: Resource = self._decode(kind, name, packed, before)
        except ResourceError as error:
            outcome.errors.append(str(error))
            self._cache.reject(kind, name, str(error), version, drops=self._drop_bad)
        else:
            if known is not None and known.resource == resource and kind is ResourceType.SECRET:
                self._cache.accept_unchanged(kind, name, version)
            else:
                self._cache.accept(kind, name, resource, version, kept_bytes(kind, packed))

    def _decode(self, kind: ResourceType, name: str, packed: bytes, before: tuple[bytes, Resource] | None) -> Resource:
        if not self._whole:
            found: Resource = decode(kind, packed, grpc_profile=True, has_identity=self._has_identity, before=before)
            return found
        found = decode(kind, packed, sidecar_profile=True, before=before)
        if not isinstance(found, Cluster):
            return found
        found = found if self._has_identity else without_automatic_tls(found)
        return found if stands_for(name) == name else at_original(found, name)

    def _delete(self, kind: ResourceType, name: str) -> None:
        known = self._cache.get(kind, name)
        # Envoy: routes, endpoints and secrets go with what names them, in whatever order that is told.
        is_kept = self._keep_deleted or not kind.is_complete_in_every_response
        if is_kept and known is not None and known.resource is not None:
            self._cache.keep_deleted(kind, name, f"{_DELETED}; what it sent last stays in use")
        elif known is None or known.status is not Status.DOES_NOT_EXIST or known.kept_at:
            self._cache.remove(kind, name, Status.DOES_NOT_EXIST, _DELETED)

    def _take_errors(self, kind: ResourceType, response: Any, outcome: Outcome) -> None:
        """What the server says of resources that it cannot send (xRFC TP3, gRFC A88)."""
        wanted = self._wanted.get(kind, frozenset())
        for one in response.resource_errors:
            name, status = normalised(one.resource_name.name), one.error_detail
            if name not in wanted or name in outcome.sent:
                continue
            outcome.seen.add(name)
            said = f"the management server says {code_name(status.code)}: {status.message[:_MAX_ERROR_LENGTH]}"
            drops = self._drop_bad and status.code in (code_pb2.NOT_FOUND, code_pb2.PERMISSION_DENIED)
            self._cache.blame(kind, name, said, drops=drops, is_missing=status.code == code_pb2.NOT_FOUND)

    def _look_for_ours(self, outcome: Outcome) -> None:
        """Notice a server that sends listeners of proxies whatever it is asked for, so that none of ours can come."""
        if ResourceType.LISTENER in self._whole:
            return
        if outcome.sent:
            self.problem = ""
        elif outcome.others and not any(map(_is_for_clients, outcome.others.values())):
            names = ", ".join(sorted(outcome.others)[:_SHOWN_NAMES])
            self.problem = (
                f"the management server sends listeners for proxies ({names}, …) and none that was asked for, so no"
                " host can be known and no policy comes; of istiod they are asked for by Mesh(profile='sidecar')"
            )


def refusal(errors: list[str]) -> Any:
    """What is said of a response that is refused."""
    message = "; ".join(errors)[:_MAX_ERROR_LENGTH]
    return status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message=message)


def code_name(code: int) -> str:
    """NOT_FOUND and the like; the number where it has no name."""
    value = code_pb2.Code.DESCRIPTOR.values_by_number.get(code)
    return str(value.name) if value is not None else str(code)


def _is_for_clients(packed: bytes) -> bool:
    """Whether a listener is one that clients without a proxy ask for."""
    message = listener_pb2.Listener()
    try:
        message.ParseFromString(packed)
    except DecodeError:
        return False
    return bool(message.HasField("api_listener"))


def unwrap(kind: ResourceType, container: Any) -> Arrived:
    """What is in a google.protobuf.Any, or in a discovery Resource, which may stand in an Any itself.

    Raises:
        ResourceError: It is of another type, or its name cannot be read.
    """
    if not isinstance(container, discovery_pb2.Resource):
        if container.type_url.rpartition("/")[2] != _WRAPPER:
            return Arrived(*_named(kind, "", container))
        wrapper = discovery_pb2.Resource()
        try:
            wrapper.ParseFromString(container.value)
        except DecodeError as error:
            raise ResourceError("Resource", f"does not parse: {error}") from error
        container = wrapper
    lifetime = container.ttl.seconds + container.ttl.nanos / 1e9 if container.HasField("ttl") else None
    if container.HasField("resource"):
        names, packed = _named(kind, container.name, container.resource)
    elif container.name:
        names, packed = [normalised(container.name)], None
    else:
        raise ResourceError("Resource", "has neither a name nor a resource")
    return Arrived([*names, *map(normalised, container.aliases)], packed, container.version, lifetime)


def _named(kind: ResourceType, name: str, container: Any) -> tuple[list[str], bytes | None]:
    if container.type_url != kind.type_url:
        raise ResourceError("resources", f"holds {container.type_url[:200]!r} among {kind.type_url!r}")
    packed = bytes(container.value)
    name = normalised(name or resource_name(kind, packed))
    if not name:
        raise ResourceError(kind.type_url.rpartition(".")[2], "does not parse, or has no name")
    return [name], packed
