"""Incremental xDS ("delta"), without I/O.

Theory of operation (Envoy docs, xds_protocol, "Incremental xDS"):

- A DeltaDiscoveryRequest says which names are new in a subscription and which have left it; a response has what is new
  of those, each with a version of its own, and names what is gone. So a mesh of thousands of services costs what
  changes, and a new name what it brings.
- A response is answered by its nonce alone. A subscription that changes needs none.
- A new stream begins with all names, and the versions of what is known of them, so that only what has changed since
  then comes again (`initial_resource_versions`).
- What is gone is said (`removed_resources`). A name that never existed should be said to be gone; not all servers do.
"""

from __future__ import annotations

from typing import Any

from envoy.service.discovery.v3 import discovery_pb2

from ..resources import RESOURCE_TYPES, ResourceType
from ..xdstp import normalised
from .cache import Status
from .session import Outcome, Received, Session, refusal

__all__ = ["DeltaSession"]


class DeltaSession(Session):
    """Incremental; see `Session`."""

    is_incremental = True

    def open(self, *, is_same_server: bool = True) -> list[Any]:
        """See `Session.open`."""
        self._introduced = False
        requests = []
        for kind in ResourceType:
            names, whole = self._wanted.get(kind, frozenset()), self._whole.get(kind)
            if whole is not None and not is_same_server:
                whole.doubt()
            if names or whole is not None:
                request = discovery_pb2.DeltaDiscoveryRequest(
                    type_url=kind.type_url,
                    # Without any name it is for all.
                    resource_names_subscribe=sorted(names) if whole is None else (),
                    initial_resource_versions=self._versions(kind, names) if is_same_server else {},
                )
                requests.append(self._introduce(request))
        return requests

    def _versions(self, kind: ResourceType, names: frozenset[str]) -> dict[str, str]:
        """Of what is in use, as far as this process has heard it itself.

        What was refused has one that no server gives: it must come again, be it the last good one once more, or be said
        to be gone.
        """
        entries = [(name, one) for name in names if (one := self._cache.get(kind, name)) is not None]
        refused = {name: "" for name, one in entries if one.status in (Status.NACKED, Status.RECEIVED_ERROR)}
        if kind in self._whole:
            return self._whole[kind].versions() | {name: "" for name in refused if name in self._whole[kind]}
        versions = {name: one.version for name, one in entries if one.resource is not None and not one.kept_at}
        return versions | {name: "" for name in refused if name in versions}

    def subscribe(self, kind: ResourceType, names: frozenset[str]) -> Any | None:
        """See `Session.subscribe`."""
        if self._wanted.get(kind, frozenset()) == names:
            return None
        new, gone = self._change(kind, names)
        if kind in self._whole:
            return None
        request = discovery_pb2.DeltaDiscoveryRequest(
            type_url=kind.type_url, resource_names_subscribe=sorted(new), resource_names_unsubscribe=sorted(gone)
        )
        return self._introduce(request)

    def receive(self, response: Any) -> Received:
        """See `Session.receive`: a DeltaDiscoveryResponse."""
        answer = discovery_pb2.DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
        kind = RESOURCE_TYPES.get(response.type_url)
        if kind is None:
            answer.error_detail.CopyFrom(refusal([f"type {response.type_url[:200]!r} was not asked for"]))
            return Received([answer])
        outcome = Outcome()
        for container in response.resources:
            self._take(kind, container, "", outcome)
        self._take_errors(kind, response, outcome)
        wanted = self._wanted.get(kind, frozenset())
        if kind in self._whole:
            removed = map(normalised, response.removed_resources)
            gone = {*removed, *self._whole[kind].take_unconfirmed()} - outcome.seen
            self._settle_whole(kind, gone, outcome)
        for name in map(normalised, response.removed_resources):
            # A server that says both has the resource: it may be the one that was asked for again meanwhile.
            if name in wanted and name not in outcome.sent:
                self._delete(kind, name)
                outcome.seen.add(name)
        if kind is ResourceType.LISTENER:
            self._look_for_ours(outcome)
        if outcome.errors:
            answer.error_detail.CopyFrom(refusal(outcome.errors))
        return Received([answer], kind, outcome.seen & wanted, outcome.lifetimes)
