"""The server's side of xDS, without I/O: what one client asked for, and what to send it.

Theory of operation (Envoy docs, xds_protocol). A session belongs to one stream. A request changes what is subscribed
to, or answers a response (ACK, NACK); a new state of the resources may change what is subscribed to. Both come down to
one question for each type: is there something that the client should have and was not sent? A NACK is not answered
with the same again.

`SotwServerSession` sends whole sets; `DeltaServerSession` sends what changed and what is gone.
"""

from __future__ import annotations

import hashlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Protocol

from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2
from msgspec import Struct, field

from ..log_lines import logger_of
from ..resources import RESOURCE_TYPES, ResourceType

__all__ = ["SECRET", "DeltaServerSession", "Served", "SotwServerSession"]

logger = logger_of("meshsdk.xds")


class _Secrets(Struct, frozen=True):
    """The type of secrets, which is no `ResourceType`: meshsdk's own clients get them by an identity."""

    type_url: str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
    is_complete_in_every_response: bool = False


SECRET = _Secrets()

Kind = ResourceType | _Secrets

_KINDS: dict[str, Kind] = {**RESOURCE_TYPES, SECRET.type_url: SECRET}

# Clusters, their endpoints, listeners, their routes: make before break (xds_protocol, eventual consistency).
_SEND_ORDER: tuple[Kind, ...] = (
    SECRET,
    ResourceType.CLUSTER,
    ResourceType.ENDPOINTS,
    ResourceType.LISTENER,
    ResourceType.ROUTE_CONFIGURATION,
)


class Served(Protocol):
    """What a server has at one moment."""

    def for_client(self, node: base_pb2.Node) -> Mapping[tuple[ResourceType, str], bytes]:
        """The resources in the shape that a client wants, by what it says of itself."""


class _Subscription(Struct):
    """What a client wants of one type, and what it was sent: name to version.

    Attributes:
        digest: Of all that was sent; what changes one resource changes it without a look at the others.
        has_named: Some name was wanted once: to name none is to want none then, and not all.
    """

    names: set[str] = field(default_factory=set)
    is_wildcard: bool = False
    sent: dict[str, str] = field(default_factory=dict)
    has_answered: bool = False
    nonce: str = ""
    digest: int = 0
    has_named: bool = False

    def put(self, name: str, version: str) -> None:
        """A resource is sent."""
        self.drop(name)
        self.sent[name] = version
        self.digest ^= _digest(name, version)

    def drop(self, name: str) -> None:
        """The client has a resource no longer, or is to have it again."""
        version = self.sent.pop(name, None)
        if version is not None:
            self.digest ^= _digest(name, version)


class _Change(Struct):
    """What a client was not sent of one type, with bytes and version, and what it was sent and is there no more."""

    new: dict[str, tuple[bytes, str]]
    gone: set[str]


class _Session(ABC):
    """What both variants share: the client's shape of resources, and its subscriptions."""

    def __init__(self, state: Served) -> None:
        self._state = state
        self._node = base_pb2.Node()
        self._knows_node = False
        self._subscriptions: dict[Kind, _Subscription] = {}
        self._nonces = itertools.count(1)
        # What was hashed last, by type and name: nearly all resources of a new state are those of the one before it.
        self._known: dict[Kind, dict[str, tuple[bytes, str]]] = {kind: {} for kind in _SEND_ORDER}

    def _meet(self, request: Any) -> None:
        """A client introduces itself in its first request; by that it gets the shape of resources that it takes."""
        if not self._knows_node and request.HasField("node"):
            self._knows_node = True
            self._node = request.node

    @property
    def _resources(self) -> Mapping[tuple[Kind, str], bytes]:
        found: Mapping[Any, bytes] = self._state.for_client(self._node)
        return found

    def _wanted(self, kind: Kind, subscription: _Subscription, among: AbstractSet[str] | None) -> dict[str, bytes]:
        resources = self._resources
        if among is None:
            names: AbstractSet[str] = subscription.names
        else:
            names = among if subscription.is_wildcard else among & subscription.names
        wanted = {name: resources[(kind, name)] for name in names if (kind, name) in resources}
        if among is None and subscription.is_wildcard:
            wanted.update({name: packed for (of, name), packed in resources.items() if of is kind})
        return wanted

    def _change(self, kind: Kind, subscription: _Subscription, among: AbstractSet[str] | None) -> _Change:
        """What is to be told of one type.

        Args:
            among: Only these names are looked at; None looks at all that there is.
        """
        sent, known = subscription.sent, self._known[kind]
        wanted = self._wanted(kind, subscription, among)
        gone = (sent.keys() if among is None else sent.keys() & among) - wanted.keys()
        new: dict[str, tuple[bytes, str]] = {}
        for name, packed in wanted.items():
            one = known.get(name)
            if one is None or one[0] is not packed:
                one = known[name] = (packed, _version(packed))
            if sent.get(name) != one[1]:
                new[name] = one
        return _Change(new, gone)

    def _forget(self, kind: Kind, subscription: _Subscription, name: str) -> None:
        subscription.drop(name)
        self._known[kind].pop(name, None)

    def _log_refusal(self, request: Any) -> None:
        if request.HasField("error_detail"):
            logger.error("%s was refused: %s", request.type_url, request.error_detail.message)

    def update(self, state: Served, changed: Collection[tuple[Kind, str]] | None = None) -> Iterator[Any]:
        """There is a new state: what to send.

        Args:
            changed: All that differs from the state before; None where that is to be found out.
        """
        self._state = state
        for kind in _SEND_ORDER:
            subscription = self._subscriptions.get(kind)
            among = None if changed is None else {name for of, name in changed if of is kind}
            if subscription is not None and (among is None or among):
                yield from self._send(kind, subscription, among)

    @abstractmethod
    def _send(self, kind: Kind, subscription: _Subscription, among: AbstractSet[str] | None) -> Iterator[Any]:
        """The responses that bring the client up to date with one type, or with some names of it."""


class SotwServerSession(_Session):
    """State of the world: DiscoveryRequests in, DiscoveryResponses out."""

    def receive(self, request: Any) -> Iterator[Any]:
        """A request came: what to send."""
        self._meet(request)
        kind = _KINDS.get(request.type_url)
        if kind is None:
            return
        self._log_refusal(request)
        subscription = self._subscriptions.setdefault(kind, _Subscription())
        if request.response_nonce and request.response_nonce != subscription.nonce:
            return  # An answer to an older response; the one to the newest will come.
        names = set(request.resource_names)
        is_first = not subscription.has_answered
        subscription.has_answered = True
        subscription.has_named = subscription.has_named or bool(names)
        # xds_protocol, "How the client specifies what resources to return".
        had_all = subscription.is_wildcard
        wants_all = "*" in names or (kind.is_complete_in_every_response and not subscription.has_named)
        subscription.is_wildcard = wants_all
        is_first = is_first or (wants_all and not had_all)
        names.discard("*")
        grown = names - subscription.names
        for gone in subscription.names - names:
            self._forget(kind, subscription, gone)
        subscription.names = names
        among = None if is_first or kind.is_complete_in_every_response else grown
        yield from self._send(kind, subscription, among, force=is_first or bool(grown))

    def _send(
        self, kind: Kind, subscription: _Subscription, among: AbstractSet[str] | None, *, force: bool = False
    ) -> Iterator[Any]:
        change = self._change(kind, subscription, among)
        for name in change.gone:
            self._forget(kind, subscription, name)
        for name, (_, version) in change.new.items():
            subscription.put(name, version)
        if kind.is_complete_in_every_response:
            if not change.new and not change.gone and not force:
                return
            resources = self._wanted(kind, subscription, None)
        elif change.new:
            # Of these types what has changed is sent, and nothing else (xds_protocol, "Grouping resources into
            # responses"); what is not there, the client's own timer finds out.
            resources = {name: packed for name, (packed, _) in change.new.items()}
        else:
            return
        subscription.nonce = str(next(self._nonces))
        yield discovery_pb2.DiscoveryResponse(
            type_url=kind.type_url,
            version_info=f"{subscription.digest:016x}",
            nonce=subscription.nonce,
            resources=[any_pb2.Any(type_url=kind.type_url, value=resources[name]) for name in sorted(resources)],
        )


class DeltaServerSession(_Session):
    """Incremental: DeltaDiscoveryRequests in, DeltaDiscoveryResponses out."""

    def receive(self, request: Any) -> Iterator[Any]:
        """A request came: what to send."""
        self._meet(request)
        kind = _KINDS.get(request.type_url)
        if kind is None:
            return
        self._log_refusal(request)
        is_first = kind not in self._subscriptions
        subscription = self._subscriptions.setdefault(kind, _Subscription())
        if is_first:
            # What the client kept from an earlier stream counts as sent.
            subscription.sent = dict(request.initial_resource_versions)
            if not request.resource_names_subscribe and kind.is_complete_in_every_response:
                subscription.is_wildcard = True
        added, gone = set(request.resource_names_subscribe), set(request.resource_names_unsubscribe)
        looks_at_all = "*" in added or (is_first and subscription.is_wildcard)
        subscription.is_wildcard = looks_at_all or (subscription.is_wildcard and "*" not in gone)
        added.discard("*")
        for name in gone:
            subscription.names.discard(name)
            self._forget(kind, subscription, name)
        for name in added:
            # Subscribing again asks for the resource again.
            if not is_first:
                subscription.drop(name)
        subscription.names |= added
        if "*" in gone and not subscription.is_wildcard:
            # A client drops by itself what it has unsubscribed from.
            for name in subscription.sent.keys() - subscription.names:
                self._forget(kind, subscription, name)
        resources = self._resources
        missing = {name for name in added if (kind, name) not in resources}
        # Of a name that it wants no more a client is told all the same where it wants all (xds_protocol).
        among = None if looks_at_all else added | gone
        yield from self._send(kind, subscription, among, missing=missing, force=is_first and subscription.is_wildcard)

    def _send(
        self,
        kind: Kind,
        subscription: _Subscription,
        among: AbstractSet[str] | None,
        *,
        missing: AbstractSet[str] = frozenset(),
        force: bool = False,
    ) -> Iterator[Any]:
        change = self._change(kind, subscription, among)
        removed = sorted(change.gone | missing)
        if not change.new and not removed and not force:
            return
        for name in change.gone:
            self._forget(kind, subscription, name)
        response = discovery_pb2.DeltaDiscoveryResponse(
            type_url=kind.type_url, nonce=str(next(self._nonces)), removed_resources=removed
        )
        for name in sorted(change.new):
            packed, version = change.new[name]
            subscription.put(name, version)
            resource = response.resources.add(name=name, version=version)
            resource.resource.type_url, resource.resource.value = kind.type_url, packed
        yield response


def _digest(name: str, version: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{name}={version}".encode()).digest()[:8])


def _version(packed: bytes) -> str:
    return hashlib.sha256(packed).hexdigest()[:16]
