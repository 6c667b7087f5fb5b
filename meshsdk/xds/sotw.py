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
  is answered asked for it. Of any other name the response says nothing: it may answer an earlier request. That goes
  for one that was sent, too, where it was dropped and wanted again on this stream: it is doubted, and asked for once
  more (`second_question`).
- A request with an old nonce is passed over, and with it that a name was dropped. Of routes and endpoints the server
  then takes the client for one that has what it has forgotten, and never sends it again. So a name that was dropped and
  wanted again, and that the next response lacks, is left out of one request and named in another.
- A server may pass over the names in a refusal (istiod does), and those in a request that crossed a response. A refusal
  soon after a change of names is therefore followed by the same request without the refusal.
"""

from __future__ import annotations

from typing import Any

from envoy.service.discovery.v3 import discovery_pb2

from ..resources import RESOURCE_TYPES, ResourceType
from .cache import ResourceCache, Status
from .session import Outcome, Received, Session, refusal

__all__ = ["SotwSession"]

# Names of a type that were dropped on a stream; of more, those that were dropped first count as never wanted.
_MAX_DROPPED = 4096
# Responses that may be under way when names change; istiod sends the next of a type when one is answered.
_MAX_CROSSING = 8
# How often a name is asked for anew: it may be one that does not exist.
_MAX_ASKED_ANEW = 5


class SotwSession(Session):
    """The state of the world; see `Session`."""

    def __init__(self, node: Any, cache: ResourceCache, **rules: bool) -> None:
        super().__init__(node, cache, **rules)
        # What all requests of a type have in common. Each has all names, and there may be ten thousand.
        self._questions: dict[ResourceType, Any] = {}
        self._versions: dict[ResourceType, str] = {}
        self._nonces: dict[ResourceType, str] = {}
        # What each request of this stream has named; and how many responses more may have crossed a change of names.
        self._always_named: dict[ResourceType, frozenset[str]] = {}
        self._crossing = dict.fromkeys(ResourceType, 0)
        # On this stream: dropped, wanted again, and of those what the last response lacks.
        self._dropped: dict[ResourceType, dict[str, None]] = {kind: {} for kind in ResourceType}
        self._returned: dict[ResourceType, set[str]] = {kind: set() for kind in ResourceType}
        self._doubted: dict[ResourceType, set[str]] = {kind: set() for kind in ResourceType}
        self._asked_anew: dict[tuple[ResourceType, str], int] = {}

    def open(self, *, is_same_server: bool = True) -> list[Any]:
        """See `Session.open`."""
        if not is_same_server:
            self._versions.clear()
        self._nonces.clear()
        self._introduced = False
        self._crossing = dict.fromkeys(ResourceType, 0)
        for kind in ResourceType:
            self._dropped[kind].clear()
            self._returned[kind].clear()
            self._doubted[kind].clear()
        self._asked_anew.clear()
        self._always_named = {kind: names for kind, names in self._wanted.items() if names}
        return [self._request(kind) for kind in ResourceType if self._wanted.get(kind) or kind in self._whole]

    def subscribe(self, kind: ResourceType, names: frozenset[str]) -> Any | None:
        """See `Session.subscribe`."""
        if self._wanted.get(kind, frozenset()) == names:
            return None
        new, gone = self._change(kind, names)
        if kind in self._whole:
            return None
        self._note_change(kind, new, gone)
        self._questions[kind] = discovery_pb2.DiscoveryRequest(resource_names=sorted(names))
        self._always_named[kind] = self._always_named.get(kind, names) & names
        self._crossing[kind] = _MAX_CROSSING
        return self._request(kind)

    def _note_change(self, kind: ResourceType, new: frozenset[str], gone: frozenset[str]) -> None:
        dropped = self._dropped[kind]
        for name in new & dropped.keys():
            self._returned[kind].add(name)
            del dropped[name]
        self._returned[kind] -= gone
        self._doubted[kind] -= gone
        for name in gone:
            self._asked_anew.pop((kind, name), None)
        dropped.update(dict.fromkeys(gone))
        while len(dropped) > _MAX_DROPPED:
            del dropped[next(iter(dropped))]

    def undecided(self, kind: ResourceType) -> frozenset[str]:
        """See `Session.undecided`."""
        return (super().undecided(kind) - self._always_named.get(kind, frozenset())) | self._doubted[kind]

    def learn_absence(
        self, kind: ResourceType, asked: frozenset[str], response: Any
    ) -> tuple[frozenset[str], frozenset[str]]:
        """See `Session.learn_absence`."""
        absent, there = super().learn_absence(kind, asked, response)
        self._doubted[kind] -= absent | there
        return absent, there

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
        self._doubted[kind] -= outcome.seen
        doubted: set[str] = set()
        # A resource that could not be read may be any of the missing ones, so none of them counts as deleted.
        if kind in self._whole:
            gone = () if outcome.unreadable else self._whole[kind].others_than(outcome.seen)
            self._settle_whole(kind, gone, outcome)
        elif kind.is_complete_in_every_response and not outcome.unreadable:
            always_named = self._always_named.get(kind, frozenset())
            for name in wanted - outcome.seen:
                was_sent = self._was_sent(kind, name)
                if was_sent and name in self._returned[kind]:
                    doubted.add(name)
                elif was_sent or name in always_named:
                    self._delete(kind, name)
                    outcome.seen.add(name)
        self._doubted[kind] |= doubted
        if kind is ResourceType.LISTENER:
            self._look_for_ours(outcome)
        if not outcome.errors:
            self._versions[kind] = response.version_info
        answers = [self._request(kind, outcome.errors)]
        if self._crossing[kind]:
            self._crossing[kind] -= 1
            if outcome.errors:
                answers.append(self._request(kind))
        answers += self._ask_anew(kind, wanted)
        return Received(answers, kind, outcome.seen & wanted, outcome.lifetimes, doubted)

    def _ask_anew(self, kind: ResourceType, wanted: frozenset[str]) -> list[Any]:
        """Requests by which a server sends again what it may think the client has."""
        if kind.is_complete_in_every_response or not self._returned[kind]:
            return []
        missing = {
            name
            for name in self._returned[kind] & super().undecided(kind)
            if self._asked_anew.get((kind, name), 0) < _MAX_ASKED_ANEW
        }
        if not missing:
            return []
        for name in missing:
            self._asked_anew[kind, name] = self._asked_anew.get((kind, name), 0) + 1
        without = self._request(kind)
        del without.resource_names[:]
        without.resource_names.extend(sorted(wanted - missing))
        return [without, self._request(kind)]

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
