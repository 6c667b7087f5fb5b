"""What a client of profile sidecar gets of istiod's own bytes: by the session, the graph and the cache of a Mesh.

Nothing here is written for tests but the answers to what the graph asks for, and name look-ups.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2

from meshsdk.bootstrap import Bootstrap, Node
from meshsdk.control import Control
from meshsdk.discovery import SERVER_ROOT, Graph, ListenerView, ServerView, Snapshot
from meshsdk.resources import RESOURCE_TYPES, Cluster, DnsDiscovery, Endpoints, ResourceType, resource_name
from meshsdk.routing import RouteTable
from meshsdk.xds import ResourceCache, Status
from meshsdk.xds.packed import of_sidecars
from meshsdk.xds.sotw import SotwSession

from .case import Client, Request
from .istiod import NodeResources
from .view import View

__all__ = ["OwnView", "Sidecar", "packed_of"]

WHOLE = tuple(of_sidecars())

# More answers than any configuration needs.
_ROUNDS = 20


def packed_of(node: NodeResources) -> list[tuple[ResourceType, bytes]]:
    """A node's resources as istiod has sent them."""
    return [(RESOURCE_TYPES[one["type_url"]], base64.b64decode(one["value"])) for one in node.packed]


class _Names:
    """Every name is looked up, and is its own address."""

    def __init__(self, cache: ResourceCache) -> None:
        self._cache = cache

    def endpoints(self, name: str) -> Endpoints | None:
        entry = self._cache.get(ResourceType.CLUSTER, name)
        found = entry.resource if entry is not None else None
        return found.discovery.endpoints if isinstance(found, Cluster) and _is_dns(found) else None

    def problem(self, name: str) -> str:
        return ""

    def take_changed(self) -> set[str]:
        return set()


def _is_dns(cluster: Cluster) -> bool:
    return isinstance(cluster.discovery, DnsDiscovery)


class Sidecar:
    """A client that istiod takes for a sidecar, and has answered.

    Attributes:
        snapshot: What requests are decided by.
        refused: What its session has refused.
    """

    def __init__(
        self,
        packed: Iterable[tuple[ResourceType, bytes]],
        namespace: str = "default",
        *,
        has_identity: bool = True,
    ) -> None:
        self._answers: dict[ResourceType, dict[str, bytes]] = {kind: {} for kind in ResourceType}
        for kind, one in packed:
            self._answers[kind][resource_name(kind, one)] = one
        self.cache = ResourceCache()
        self.cache.packed = of_sidecars()
        self.refused: list[str] = []
        self._session = SotwSession(base_pb2.Node(), self.cache, has_identity=has_identity, takes_all=True)
        self._number = 0
        names: Any = _Names(self.cache)
        self._graph = Graph(self.cache, names, complete=Node(metadata={"NAMESPACE": namespace}).complete)
        self._roots: dict[str, None] = {}
        self.snapshot = Snapshot()
        self._session.open()
        for kind in WHOLE:
            self._answer(kind, self._answers[kind])

    def outbound(self, root: str) -> ListenerView:
        """What is decided by for a host and port."""
        self._settle(root)
        return self.snapshot.listeners[root]

    def inbound(self) -> ServerView:
        """What its servers have."""
        self._settle(f"{SERVER_ROOT}virtualInbound")
        return self.snapshot.servers["virtualInbound"]

    def everything(self, kind: ResourceType) -> list[str]:
        """The names of all that has come of a type, each of which is parsed now; a client would not."""
        names = [name for name in self._answers[kind] if name != "virtualInbound"]
        self._session.subscribe(kind, frozenset(names))
        return names

    def problem(self, kind: ResourceType, name: str) -> str:
        """Why a resource is refused; empty where it is not."""
        entry = self.cache.get(kind, name)
        return "not there" if entry is None else entry.error

    def notes(self, kind: ResourceType, name: str) -> tuple[str, ...]:
        """What of a resource is not acted on."""
        entry = self.cache.get(kind, name)
        return tuple(getattr(entry.resource, "notes", ())) if entry is not None else ()

    def clusters(self) -> list[Cluster]:
        """All clusters, parsed."""
        entries = [self.cache.get(ResourceType.CLUSTER, name) for name in self.everything(ResourceType.CLUSTER)]
        return [one.resource for one in entries if one is not None and isinstance(one.resource, Cluster)]

    def send_again(self) -> None:
        """The server sends all listeners and clusters once more, as it does when something else has changed."""
        for kind in WHOLE:
            self._answer(kind, self._answers[kind])

    def _settle(self, root: str) -> None:
        self._roots[root] = None
        for _ in range(_ROUNDS):
            seen = self.cache.changes
            resolution = self._graph.resolve(self._roots, 0.0)
            self.snapshot = resolution.snapshot
            for kind in ResourceType:
                names = resolution.wanted.get(kind, frozenset())
                self._session.subscribe(kind, names)
                missing = [name for name in names if self._is_asked_for(kind, name)]
                if missing:
                    there = {name: one for name, one in self._answers[kind].items() if name in names}
                    self._answer(kind, there)
                    for name in missing:
                        if name not in there:
                            self.cache.remove(kind, name, Status.DOES_NOT_EXIST, "istiod has not sent it")
            if self.cache.changes == seen:
                return
        raise AssertionError(f"{root} does not settle")

    def _is_asked_for(self, kind: ResourceType, name: str) -> bool:
        entry = self.cache.get(kind, name)
        return entry is not None and entry.status is Status.REQUESTED

    def _answer(self, kind: ResourceType, resources: dict[str, bytes]) -> None:
        self._number += 1
        response = discovery_pb2.DiscoveryResponse(
            type_url=kind.type_url,
            version_info=str(self._number),
            nonce=str(self._number),
            resources=[any_pb2.Any(type_url=kind.type_url, value=one) for one in resources.values()],
        )
        for request in self._session.receive(response).answers:
            if request.HasField("error_detail"):
                self.refused.append(request.error_detail.message)


class OwnView(View):
    """The same as a view, for comparison.

    Attributes:
        sidecar: The client.
    """

    sidecar: Sidecar

    @classmethod
    def of(cls, node: NodeResources, client: Client) -> OwnView:
        """Of what istiod sends the sidecar of a client."""
        view = cls(client)
        view.sidecar = Sidecar(packed_of(node), client.namespace)
        return view

    def names_of(self, request: Request) -> tuple[str, ...]:
        return self._own.listener_names(request.host, request.port, port_is_explicit=request.port != 80)

    @property
    def _own(self) -> Control:
        namespace = self.client.namespace
        node = Node(id=f"sidecar~192.0.2.1~client.{namespace}~{namespace}.svc.cluster.local")

        def nothing(*_: object) -> Any:
            raise AssertionError("names are made without a source")

        return Control(Bootstrap(node=node), nothing)

    def table_of(self, request: Request) -> RouteTable | None:
        [root] = self.names_of(request)
        found = self.sidecar.outbound(root)
        if found.listener is None or found.routes is None:
            return None
        if root not in self.tables:
            self.tables[root] = RouteTable(found.listener, found.routes)
        return self.tables[root]

    def without_routes(self, request: Request) -> dict[str, Any]:
        [root] = self.names_of(request)
        found = self.sidecar.outbound(root)
        known = found.does_not_exist or found.passes_through
        return {"answer": "passthrough" if known else f"problem: {found.problem}"}

    def is_original(self, cluster: str, request: Request) -> bool:
        return cluster.startswith(f"original_dst@{request.host.lower()}:{request.port}|")
