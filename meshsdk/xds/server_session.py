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
from collections.abc import Iterator, Mapping
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
    """What a client wants of one type, and what it was sent: name to version."""

    names: set[str] = field(default_factory=set)
    is_wildcard: bool = False
    sent: dict[str, str] = field(default_factory=dict)
    has_answered: bool = False
    nonce: str = ""
    version: str = ""


class _Session(ABC):
    """What both variants share: the client's shape of resources, and its subscriptions."""

    def __init__(self, state: Served) -> None:
        self._state = state
        self._node = base_pb2.Node()
        self._knows_node = False
        self._subscriptions: dict[Kind, _Subscription] = {}
        self._nonces = itertools.count(1)
        # What was hashed last, by type and name: nearly all resources of a new state are those of the one before it.
        self._known: dict[Kind, dict[str, tuple[bytes, str]]] = {}

    def _meet(self, request: Any) -> None:
        """A client introduces itself in its first request; by that it gets the shape of resources that it takes."""
        if not self._knows_node and request.HasField("node"):
            self._knows_node = True
            self._node = request.node

    @property
    def _resources(self) -> Mapping[tuple[Kind, str], bytes]:
        found: Mapping[Any, bytes] = self._state.for_client(self._node)
        return found

    def _wanted(self, kind: Kind, subscription: _Subscription) -> dict[str, bytes]:
        resources = self._resources
        if subscription.is_wildcard:
            return {name: packed for (of, name), packed in resources.items() if of is kind}
        return {name: resources[(kind, name)] for name in subscription.names if (kind, name) in resources}

    def _versions(self, kind: Kind, wanted: Mapping[str, bytes]) -> dict[str, str]:
        before, known = self._known.get(kind, {}), {}
        for name, packed in wanted.items():
            one = before.get(name)
            known[name] = one if one is not None and one[0] is packed else (packed, _version(packed))
        self._known[kind] = known
        return {name: version for name, (_, version) in known.items()}

    def _log_refusal(self, request: Any) -> None:
        if request.HasField("error_detail"):
            logger.error("%s was refused: %s", request.type_url, request.error_detail.message)

    def update(self, state: Served) -> Iterator[Any]:
        """There is a new state: what to send."""
        self._state = state
        for kind in _SEND_ORDER:
            subscription = self._subscriptions.get(kind)
            if subscription is not None:
                yield from self._send(kind, subscription)

    @abstractmethod
    def _send(self, kind: Kind, subscription: _Subscription) -> Iterator[Any]:
        """The responses that bring the client up to date with one type."""


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
        if not names and is_first and kind.is_complete_in_every_response:
            subscription.is_wildcard = True
        if "*" in names:
            subscription.is_wildcard = True
            names.discard("*")
        grown = bool(names - subscription.names)
        for gone in subscription.names - names:
            subscription.sent.pop(gone, None)
        subscription.names = names
        yield from self._send(kind, subscription, force=is_first or grown)

    def _send(self, kind: Kind, subscription: _Subscription, *, force: bool = False) -> Iterator[Any]:
        wanted = self._wanted(kind, subscription)
        versions = self._versions(kind, wanted)
        if versions == subscription.sent and not force:
            return
        if not kind.is_complete_in_every_response:
            # Of these types what has changed is sent, and nothing else (xds_protocol, "Grouping resources into
            # responses"); what is not there, the client's own timer finds out.
            wanted = {name: packed for name, packed in wanted.items() if subscription.sent.get(name) != versions[name]}
            if not wanted:
                subscription.sent = versions
                return
        subscription.sent = versions
        subscription.nonce = str(next(self._nonces))
        subscription.version = _version("".join(f"{n}={versions[n]};" for n in sorted(versions)).encode())
        yield discovery_pb2.DiscoveryResponse(
            type_url=kind.type_url,
            version_info=subscription.version,
            nonce=subscription.nonce,
            resources=[any_pb2.Any(type_url=kind.type_url, value=wanted[name]) for name in sorted(wanted)],
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
        added = set(request.resource_names_subscribe)
        if "*" in added:
            subscription.is_wildcard = True
            added.discard("*")
        for name in request.resource_names_unsubscribe:
            subscription.names.discard(name)
            subscription.sent.pop(name, None)
            if name == "*":
                subscription.is_wildcard = False
        for name in added:
            # Subscribing again asks for the resource again.
            if not is_first:
                subscription.sent.pop(name, None)
        subscription.names |= added
        resources = self._resources
        missing = {name for name in added if (kind, name) not in resources}
        yield from self._send(kind, subscription, missing=missing, force=is_first and subscription.is_wildcard)

    def _send(
        self,
        kind: Kind,
        subscription: _Subscription,
        *,
        missing: set[str] | frozenset[str] = frozenset(),
        force: bool = False,
    ) -> Iterator[Any]:
        wanted = self._wanted(kind, subscription)
        versions = self._versions(kind, wanted)
        changed = [name for name in sorted(wanted) if subscription.sent.get(name) != versions[name]]
        removed = sorted((subscription.sent.keys() - versions.keys()) | missing)
        if not changed and not removed and not force:
            return
        subscription.sent = versions
        response = discovery_pb2.DeltaDiscoveryResponse(
            type_url=kind.type_url, nonce=str(next(self._nonces)), removed_resources=removed
        )
        for name in changed:
            resource = response.resources.add(name=name, version=versions[name])
            resource.resource.type_url, resource.resource.value = kind.type_url, wanted[name]
        yield response


def _version(packed: bytes) -> str:
    return hashlib.sha256(packed).hexdigest()[:16]
