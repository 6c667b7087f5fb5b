"""What one client gets of the mesh: as a folder is translated, or as istiod has it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from google.protobuf import descriptor_pool, json_format, symbol_database
from google.protobuf.message import Message

from meshsdk.bootstrap import Bootstrap, Node
from meshsdk.control import Control
from meshsdk.controlplane import FolderState
from meshsdk.controlplane import client as controlplane
from meshsdk.controlplane.raw import _import_type
from meshsdk.controlplane.world import hosts_overlap
from meshsdk.errors import ResourceError
from meshsdk.resources import (
    RESOURCE_TYPES,
    Cluster,
    DnsDiscovery,
    Endpoints,
    Fault,
    HttpFilter,
    Listener,
    ResourceType,
    RouteConfiguration,
    decode,
)
from meshsdk.routing import RouteTable

from .case import Client, Request
from .istiod import PASSTHROUGH, NodeResources, byte_clusters, default_clusters

__all__ = ["Profile", "View", "of_folder", "of_grpc_profile", "of_sidecar_profile", "to_message"]

Json = dict[str, Any]

Profile = Literal["grpc", "sidecar", "client"]


@dataclass
class View:
    """A client's resources, parsed.

    Attributes:
        refused: Resources that meshsdk's parser refuses, and why, by name.
        kinds: Of clusters that are refused: their type, as Envoy names it.
    """

    client: Client
    listeners: dict[str, Listener] = field(default_factory=dict)
    routes: dict[str, RouteConfiguration] = field(default_factory=dict)
    clusters: dict[str, Cluster] = field(default_factory=dict)
    endpoints: dict[str, Endpoints] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    tables: dict[str, RouteTable] = field(default_factory=dict)

    def add(self, kind: ResourceType, name: str, packed: bytes) -> None:
        """One more resource."""
        try:
            parsed = decode(kind, packed)
        except ResourceError as error:
            self.refused[name] = str(error)
            return
        places: dict[ResourceType, dict[str, Any]] = {
            ResourceType.LISTENER: self.listeners,
            ResourceType.ROUTE_CONFIGURATION: self.routes,
            ResourceType.CLUSTER: self.clusters,
            ResourceType.ENDPOINTS: self.endpoints,
        }
        places[kind][name] = parsed

    @cached_property
    def _control(self) -> Control:
        node = Node(metadata={"NAMESPACE": self.client.namespace})

        def nothing(*_: object) -> Any:
            raise AssertionError("names are made without a source")

        return Control(Bootstrap(node=node), nothing)

    def names_of(self, request: Request) -> tuple[str, ...]:
        """The listeners that may stand for a request's host, best first."""
        return self._control.listener_names(request.host, request.port, port_is_explicit=request.port != 80)

    def table_of(self, request: Request) -> RouteTable | None:
        """The routes that a request goes by; None where the mesh does not know its host."""
        raise NotImplementedError

    def without_routes(self, request: Request) -> dict[str, Any]:
        """What becomes of a request that goes by no routes."""
        return {"answer": "passthrough"}

    def passes_through(self, cluster: str) -> bool:
        """Whether a cluster stands for the host that the request names itself, wherever that is."""
        return False

    def is_original(self, cluster: str, request: Request) -> bool:
        """Whether a cluster is where the request's own host is looked up, though it has the place of another one."""
        return False

    def compiled(self, listener: Listener, routes: RouteConfiguration) -> RouteTable:
        """The routes of a listener; made once."""
        name = f"{listener.name} {routes.name}"
        if name not in self.tables:
            self.tables[name] = RouteTable(listener, routes)
        return self.tables[name]


class GrpcView(View):
    """Listeners are asked for by host and port, in the ways in which meshsdk asks."""

    def table_of(self, request: Request) -> RouteTable | None:
        for name in self.names_of(request):
            listener = self.listeners.get(name)
            if listener is None:
                continue
            routes = listener.route_configuration or self.routes.get(listener.route_name)
            if routes is not None:
                return self.compiled(listener, routes)
        return None


class FolderView(GrpcView):
    """The same from a folder, which has listeners for hosts that nothing names, too.

    Attributes:
        listener: Makes one by its name.
    """

    listener: Callable[[str], bytes | None]

    def is_original(self, cluster: str, request: Request) -> bool:
        if not cluster.startswith("original_dst@"):
            return False
        addresses = {cluster.partition("|")[0].partition("@")[2]}
        found = self.clusters.get(cluster)
        if found is not None and isinstance(found.discovery, DnsDiscovery):
            groups = found.discovery.endpoints.localities
            addresses |= {str(one.address) for group in groups for one in group.endpoints}
        # A pod's short name is the beginning of its full one, and of nothing else that the folder has.
        host = request.host.lower().removesuffix(".")
        named = {one for one in addresses if one.startswith(f"{host}.") and one.endswith(f":{request.port}")}
        return addresses - named <= {name.lower() for name in self.names_of(request)}

    def table_of(self, request: Request) -> RouteTable | None:
        found = super().table_of(request)
        if found is not None:
            return found
        for name in self.names_of(request):
            packed = self.listener(name)
            if packed is not None:
                self.add(ResourceType.LISTENER, name, packed)
        return super().table_of(request)


class SidecarView(View):
    """Routes by port, as an Envoy beside the client goes by them.

    Attributes:
        registry_only: Hosts that the mesh does not know must not be called.
        of_bytes: Clusters that a listener leads to without looking at requests.
    """

    registry_only = False
    of_bytes: frozenset[str] = frozenset()

    def table_of(self, request: Request) -> RouteTable | None:
        names = [str(request.port), *self.names_of(request)]
        routes = next((self.routes[name] for name in names if name in self.routes), None)
        return None if routes is None else self.compiled(_LISTENER, routes)

    def without_routes(self, request: Request) -> dict[str, Any]:
        for name in self.names_of(request):
            host, _, port = name.rpartition(":")
            for cluster in sorted(self.of_bytes, key=len, reverse=True):
                _, number, _, pattern = cluster.split("|")
                if number == port and hosts_overlap(pattern, host):
                    if self.passes_through(cluster):
                        return {"answer": "passthrough", "has_listener": False}
                    return {"answer": "bytes", "clusters": [[cluster, 1.0]]}
        there = {"has_listener": self.table_of(request) is not None}
        if self.registry_only:
            # A port of which nothing is known leads to BlackHoleCluster: there is no answer. Where there are routes,
            # hosts that are not among them get this one.
            return {"answer": "reply", "status": 502, "body": "", "headers": [], "fault": [], **there}
        return {"answer": "passthrough", **there}

    def passes_through(self, cluster: str) -> bool:
        return self.kinds.get(cluster) == "ORIGINAL_DST"


# With the one filter of a sidecar that matters to a client.
_LISTENER = Listener(
    "sidecar",
    filters=(HttpFilter("envoy.filters.http.fault", Fault(), package="envoy.extensions.filters.http.fault.v3"),),
)


def of_folder(state: FolderState, client: Client, profile: Profile = "grpc") -> View:
    """A folder as meshsdk translates it for one client. The only place that knows how a client tells who it is."""
    region, zone, sub_zone = (*client.locality.split("/"), "", "")[:3]
    labels = tuple(sorted(client.labels.items()))
    translated = state.view(controlplane.Client(client.namespace, labels, (region, zone, sub_zone)))
    view: View
    if profile == "sidecar":
        view, packed = SidecarView(client), translated.sidecar
    else:
        view, packed = FolderView(client), translated.grpc
        view.listener = translated.listener
    for (kind, name), body in packed.items():
        view.add(kind, name, body)
    return view


def of_grpc_profile(node: NodeResources, client: Client) -> GrpcView:
    """istiod's resources for a client that asks as gRPC does."""
    view = GrpcView(client)
    _fill(view, (*node.listeners, *node.routes, *node.clusters, *node.endpoints))
    return view


def of_sidecar_profile(node: NodeResources, client: Client) -> SidecarView:
    """istiod's resources for an Envoy: its routes by port, and of its listeners where they send bytes."""
    view = SidecarView(client)
    _fill(view, (*node.routes, *node.clusters, *node.endpoints))
    defaults = [name for one in node.listeners for name in default_clusters(one)]
    view.registry_only = bool(defaults) and PASSTHROUGH not in defaults
    view.of_bytes = frozenset(
        name for one in node.listeners for name in byte_clusters(one) if name.startswith("outbound|")
    )
    return view


def _fill(view: View, resources: Iterable[Json]) -> None:
    for document in resources:
        kind = RESOURCE_TYPES[document["@type"]]
        name = document.get("name") or document.get("cluster_name") or ""
        if kind is ResourceType.CLUSTER:
            view.kinds[name] = document.get("type", "STATIC")
        view.add(kind, name, to_message(document).SerializeToString())


# What istiod sends of Istio's own, which xds-protos does not know and which decides nothing about a request.
_OF_ISTIO = ("istio.", "udpa.type.v1.TypedStruct", "stats.", "envoy.extensions.filters.http.grpc_stats")


def to_message(document: Mapping[str, Any]) -> Message:
    """A resource from JSON with its "@type", without what is Istio's own."""
    body = _known_part({name: value for name, value in document.items() if name != "@type"})
    full_name = document["@type"].rpartition("/")[2]
    message: Message = symbol_database.Default().GetSymbol(full_name)()
    json_format.ParseDict(body, message, descriptor_pool=descriptor_pool.Default(), max_recursion_depth=100)
    return message


def _known_part(value: Any) -> Any:
    if isinstance(value, dict):
        type_url = value.get("@type")
        if isinstance(type_url, str):
            _learn(type_url.rpartition("/")[2])
        return {name: _known_part(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_known_part(one) for one in value if not _is_of_istio(one)]
    return value


def _is_of_istio(value: Any) -> bool:
    packed = value.get("typed_config") if isinstance(value, dict) else None
    type_url = packed.get("@type", "") if isinstance(packed, dict) else ""
    return type_url.rpartition("/")[2].startswith(_OF_ISTIO)


_MODULES = {
    "envoy.extensions.filters.http.grpc_stats.v3": "config",
    "envoy.extensions.network.dns_resolver.cares.v3": "cares_dns_resolver",
    "envoy.extensions.network.dns_resolver.getaddrinfo.v3": "getaddrinfo_dns_resolver",
    "envoy.extensions.filters.network.rbac.v3": "rbac",
    "envoy.extensions.transport_sockets.internal_upstream.v3": "internal_upstream",
    "envoy.extensions.http.original_ip_detection.xff.v3": "xff",
    "envoy.extensions.filters.http.set_filter_state.v3": "set_filter_state",
    "envoy.extensions.request_id.uuid.v3": "uuid",
}


def _learn(full_name: str) -> None:
    package = full_name.rpartition(".")[0]
    if package in _MODULES:
        importlib.import_module(f"{package}.{_MODULES[package]}_pb2")
    _import_type(full_name)
