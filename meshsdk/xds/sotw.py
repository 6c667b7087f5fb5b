"""State-of-the-world xDS, without I/O.

Theory of operation (Envoy docs, xds_protocol):

- A DiscoveryRequest names all resources of one type that are wanted. The server answers with all of them (Listener
  and Cluster: what is missing is gone) or with those that changed (the other types).
- Each response has a nonce, and is answered with a request that carries it. Accepting a response sets
  `version_info` to the response's; refusing it keeps the last accepted version and says why in `error_detail`.
- The version outlives the stream, the nonce does not. The node is sent in a stream's first request only.
- A change of subscription is a request with the last nonce; a response that crossed it is still answered.
- Nothing in a response says which request it answers. So a name that a complete response lacks is gone only where the
  server has sent it before (gRFC A53, grpc-core), or where each request of this stream has named it, so that whichever
  is answered asked for it. Of any other name the response says nothing: it may answer an earlier request.
- A server may pass over the names in a refusal (istiod does), and those in a request that crossed a response. A refusal
  that is the first to carry new names under its nonce is therefore followed by the same request without the refusal.

The incremental variant would stand beside this class with the same three methods.
"""

from __future__ import annotations

from typing import Any

from envoy.config.listener.v3 import listener_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, status_pb2
from msgspec import Struct, field

from ..errors import ResourceError
from ..resources import RESOURCE_TYPES, Resource, ResourceType, decode, resource_name
from .cache import ResourceCache, Status

__all__ = ["Received", "SotwSession"]

_WRAPPER = discovery_pb2.Resource.DESCRIPTOR.full_name

# What a NACK says is bounded: a server must not be able to make us echo its whole response.
_MAX_ERROR_LENGTH = 4096

# Of listeners that nobody asked for, as many are named.
_SHOWN_NAMES = 3


class Received(Struct):
    """What came of one response: what to send, and which of the wanted resources it settled."""

    answers: list[Any]
    kind: ResourceType | None = None
    settled: set[str] = field(default_factory=set)


class SotwSession:
    """The protocol state of one server, across its streams.

    Args:
        node: The envoy.config.core.v3.Node to introduce oneself with.
        cache: Where resources are put.
        keep_deleted: gRFC A53: a resource that the server deletes stays in use.
        has_identity: This process can show a certificate of the mesh.

    Attributes:
        problem: Why no listener of ours can ever come; empty where nothing speaks for that.
    """

    def __init__(
        self, node: Any, cache: ResourceCache, *, keep_deleted: bool = False, has_identity: bool = False
    ) -> None:
        self._node = node
        self._has_identity = has_identity
        self._cache = cache
        self._keep_deleted = keep_deleted
        self._wanted: dict[ResourceType, frozenset[str]] = {}
        # What all requests of a type have in common. Each has all names, and there may be ten thousand.
        self._questions: dict[ResourceType, Any] = {}
        self._versions: dict[ResourceType, str] = {}
        self._nonces: dict[ResourceType, str] = {}
        self._introduced = False
        # What each request of this stream has named, and the types whose names were changed since the last response.
        self._always_named: dict[ResourceType, frozenset[str]] = {}
        self._changed: set[ResourceType] = set()
        self.problem = ""

    @property
    def wanted(self) -> dict[ResourceType, frozenset[str]]:
        """The names subscribed to, by type."""
        return self._wanted

    def open(self) -> list[Any]:
        """The first requests of a new stream."""
        self._nonces.clear()
        self._introduced = False
        self._changed.clear()
        self._always_named = {kind: names for kind, names in self._wanted.items() if names}
        return [self._request(kind) for kind in ResourceType if self._wanted.get(kind)]

    def subscribe(self, kind: ResourceType, names: frozenset[str]) -> Any | None:
        """The request that changes the subscription of a type, or None where nothing changes."""
        if self._wanted.get(kind, frozenset()) == names:
            return None
        for gone in self._wanted.get(kind, frozenset()) - names:
            self._cache.forget(kind, gone)
        for new in names:
            self._cache.request(kind, new)
        self._wanted[kind] = names
        self._questions[kind] = discovery_pb2.DiscoveryRequest(type_url=kind.type_url, resource_names=sorted(names))
        self._always_named[kind] = self._always_named.get(kind, names) & names
        self._changed.add(kind)
        return self._request(kind)

    def undecided(self, kind: ResourceType) -> frozenset[str]:
        """Names of which nothing is known, and of which no response on this stream tells by leaving them out."""
        if not self._cache.counts[kind, Status.REQUESTED]:
            return frozenset()
        return frozenset(
            name
            for name in self._wanted.get(kind, frozenset()) - self._always_named.get(kind, frozenset())
            if (entry := self._cache.get(kind, name)) is not None and entry.status is Status.REQUESTED
        )

    def question(self, kind: ResourceType, names: frozenset[str]) -> Any:
        """The first request of a stream of its own; see `learn_absence`."""
        return discovery_pb2.DiscoveryRequest(node=self._node, resource_names=sorted(names), type_url=kind.type_url)

    def learn_absence(
        self, kind: ResourceType, asked: frozenset[str], response: Any
    ) -> tuple[frozenset[str], frozenset[str]]:
        """Take the answer to `question`: those of `asked` that do not exist, and those that do.

        Only absence is learnt from it: a resource is taken from the stream that will bring its changes.
        """
        try:
            there = {_unwrap(kind, container)[0] for container in response.resources}
        except ResourceError:
            return frozenset(), frozenset()
        absent = (asked - there) & self.undecided(kind)
        for name in absent:
            self._delete(kind, name)
        return absent, asked & there

    def receive(self, response: Any) -> Received:
        """Take a DiscoveryResponse into the cache."""
        kind = RESOURCE_TYPES.get(response.type_url)
        if kind is None:
            return Received([self._refusal_of_type(response)])
        self._nonces[kind] = response.nonce
        outcome = _Outcome()
        for container in response.resources:
            self._take(kind, container, response.version_info, outcome)
        wanted = self._wanted.get(kind, frozenset())
        # A resource that could not be read may be any of the missing ones, so none of them counts as deleted.
        if kind.is_complete_in_every_response and not outcome.unreadable:
            always_named = self._always_named.get(kind, frozenset())
            for name in wanted - outcome.seen:
                if name in always_named or self._was_sent(kind, name):
                    self._delete(kind, name)
                    outcome.seen.add(name)
        if kind is ResourceType.LISTENER:
            self._look_for_ours(outcome)
        if not outcome.errors:
            self._versions[kind] = response.version_info
        answers = [self._request(kind, outcome.errors)]
        if outcome.errors and kind in self._changed:
            answers.append(self._request(kind))
        self._changed.discard(kind)
        return Received(answers, kind, outcome.seen & wanted)

    def _was_sent(self, kind: ResourceType, name: str) -> bool:
        entry = self._cache.get(kind, name)
        return entry is not None and entry.status in (Status.ACKED, Status.NACKED)

    def _look_for_ours(self, outcome: _Outcome) -> None:
        """Notice a server that sends listeners of proxies whatever it is asked for, so that none of ours can come."""
        if outcome.sent:
            self.problem = ""
        elif outcome.others and not any(map(_is_for_clients, outcome.others.values())):
            names = ", ".join(sorted(outcome.others)[:_SHOWN_NAMES])
            self.problem = (
                f"the management server sends listeners for proxies ({names}, …) and none that was asked for, so no"
                " host can be known and no policy comes; istiod does so where the bootstrap's node.metadata has no"
                ' "GENERATOR": "grpc"'
            )

    def _take(self, kind: ResourceType, container: Any, version: str, outcome: _Outcome) -> None:
        try:
            name, packed = _unwrap(kind, container)
        except ResourceError as error:
            outcome.errors.append(str(error))
            outcome.unreadable = True
            return
        outcome.seen.add(name)
        if name not in self._wanted.get(kind, frozenset()):
            outcome.others[name] = packed  # Servers may send more than was asked for.
            return
        outcome.sent.add(name)
        known = self._cache.get(kind, name)
        if known is not None and known.resource is not None and known.packed == packed:
            self._cache.accept_unchanged(kind, name, version)
            return
        try:
            resource: Resource = decode(kind, packed, grpc_profile=True, has_identity=self._has_identity)
        except ResourceError as error:
            outcome.errors.append(str(error))
            self._cache.reject(kind, name, str(error))
        else:
            self._cache.accept(kind, name, resource, version, packed)

    def _delete(self, kind: ResourceType, name: str) -> None:
        known = self._cache.get(kind, name)
        if self._keep_deleted and known is not None and known.resource is not None:
            return
        if known is None or known.status is not Status.DOES_NOT_EXIST:
            self._cache.remove(kind, name, Status.DOES_NOT_EXIST, "the management server has no such resource")

    def _request(self, kind: ResourceType, errors: list[str] | None = None) -> Any:
        request = discovery_pb2.DiscoveryRequest(
            version_info=self._versions.get(kind, ""), type_url=kind.type_url, response_nonce=self._nonces.get(kind, "")
        )
        if kind in self._questions:
            request.MergeFrom(self._questions[kind])
        if errors:
            message = "; ".join(errors)[:_MAX_ERROR_LENGTH]
            request.error_detail.CopyFrom(status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message=message))
        if not self._introduced:
            request.node.CopyFrom(self._node)
            self._introduced = True
        return request

    def _refusal_of_type(self, response: Any) -> Any:
        message = f"type {response.type_url[:200]!r} was not asked for"
        return discovery_pb2.DiscoveryRequest(
            type_url=response.type_url,
            response_nonce=response.nonce,
            error_detail=status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message=message),
        )


class _Outcome(Struct):
    """What taking one response in has found so far."""

    errors: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    sent: set[str] = field(default_factory=set)
    others: dict[str, bytes] = field(default_factory=dict)
    unreadable: bool = False


def _is_for_clients(packed: bytes) -> bool:
    """Whether a listener is one that clients without a proxy ask for."""
    message = listener_pb2.Listener()
    try:
        message.ParseFromString(packed)
    except DecodeError:
        return False
    return bool(message.HasField("api_listener"))


def _unwrap(kind: ResourceType, container: Any) -> tuple[str, bytes]:
    """Name and bytes of a resource, which may stand in a discovery Resource wrapper.

    Raises:
        ResourceError: It is of another type, or its name cannot be read.
    """
    name = ""
    if container.type_url.rpartition("/")[2] == _WRAPPER:
        wrapper = discovery_pb2.Resource()
        try:
            wrapper.ParseFromString(container.value)
        except DecodeError as error:
            raise ResourceError("Resource", f"does not parse: {error}") from error
        name, container = wrapper.name, wrapper.resource
    if container.type_url != kind.type_url:
        raise ResourceError("resources", f"holds {container.type_url[:200]!r} among {kind.type_url!r}")
    packed = bytes(container.value)
    name = name or resource_name(kind, packed)
    if not name:
        raise ResourceError(kind.type_url.rpartition(".")[2], "does not parse, or has no name")
    return name, packed
