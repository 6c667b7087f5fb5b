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
"""

from __future__ import annotations

from typing import Any

from envoy.service.discovery.v3 import discovery_pb2

from ..resources import RESOURCE_TYPES, ResourceType
from .cache import ResourceCache, Status
from .session import Outcome, Received, Session, refusal

__all__ = ["SotwSession"]


class SotwSession(Session):
    """The state of the world; see `Session`."""

    def __init__(self, node: Any, cache: ResourceCache, **rules: bool) -> None:
        super().__init__(node, cache, **rules)
        # What all requests of a type have in common. Each has all names, and there may be ten thousand.
        self._questions: dict[ResourceType, Any] = {}
        self._versions: dict[ResourceType, str] = {}
        self._nonces: dict[ResourceType, str] = {}
        # What each request of this stream has named, and the types whose names were changed since the last response.
        self._always_named: dict[ResourceType, frozenset[str]] = {}
        self._changed: set[ResourceType] = set()

    def open(self, *, is_same_server: bool = True) -> list[Any]:
        """See `Session.open`."""
        if not is_same_server:
            self._versions.clear()
        self._nonces.clear()
        self._introduced = False
        self._changed.clear()
        self._always_named = {kind: names for kind, names in self._wanted.items() if names}
        return [self._request(kind) for kind in ResourceType if self._wanted.get(kind) or kind in self._cache.packed]

    def subscribe(self, kind: ResourceType, names: frozenset[str]) -> Any | None:
        """See `Session.subscribe`."""
        if self._wanted.get(kind, frozenset()) == names:
            return None
        self._change(kind, names)
        if kind in self._cache.packed:
            return None
        self._questions[kind] = discovery_pb2.DiscoveryRequest(resource_names=sorted(names))
        self._always_named[kind] = self._always_named.get(kind, names) & names
        self._changed.add(kind)
        return self._request(kind)

    def undecided(self, kind: ResourceType) -> frozenset[str]:
        """See `Session.undecided`."""
        return super().undecided(kind) - self._always_named.get(kind, frozenset())

    def receive(self, response: Any) -> Received:
        """See `Session.receive`: a DiscoveryResponse."""
        kind = RESOURCE_TYPES.get(response.type_url)
        if kind is None:
            return Received([_refusal_of_type(response)])
        self._nonces[kind] = response.nonce
        outcome = Outcome()
        for container in response.resources:
            self._take(kind, container, response.version_info, outcome)
        self._take_errors(kind, response, outcome)
        wanted = self._wanted.get(kind, frozenset())
        # A resource that could not be read may be any of the missing ones, so none of them counts as deleted.
        if kind in self._cache.packed:
            gone = () if outcome.unreadable else self._cache.packed[kind].others_than(outcome.seen)
            self._settle_whole(kind, gone, outcome)
        elif kind.is_complete_in_every_response and not outcome.unreadable:
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
        return Received(answers, kind, outcome.seen & wanted, outcome.lifetimes)

    def _was_sent(self, kind: ResourceType, name: str) -> bool:
        entry = self._cache.get(kind, name)
        return entry is not None and (entry.resource is not None or entry.status is Status.NACKED)

    def _request(self, kind: ResourceType, errors: list[str] | None = None) -> Any:
        request = discovery_pb2.DiscoveryRequest(
            version_info=self._versions.get(kind, ""), type_url=kind.type_url, response_nonce=self._nonces.get(kind, "")
        )
        if kind in self._questions:
            request.MergeFrom(self._questions[kind])
        if errors:
            request.error_detail.CopyFrom(refusal(errors))
        return self._introduce(request)


def _refusal_of_type(response: Any) -> Any:
    return discovery_pb2.DiscoveryRequest(
        type_url=response.type_url,
        response_nonce=response.nonce,
        error_detail=refusal([f"type {response.type_url[:200]!r} was not asked for"]),
    )
