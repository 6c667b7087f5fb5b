"""A management server over a socket, whose every state a test says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

import grpc
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.clusters.aggregate.v3 import cluster_pb2 as _aggregate  # noqa: F401 - for what is read from JSON.
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401 - for what is read from JSON.
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2  # noqa: F401
from envoy.service.endpoint.v3 import eds_pb2_grpc
from envoy.service.route.v3 import rds_pb2_grpc
from envoy.service.secret.v3 import sds_pb2_grpc
from google.protobuf import json_format

from meshsdk.resources import RESOURCE_TYPES, ResourceType, resource_name
from meshsdk.xds.ads_server import AdsService
from meshsdk.xds.server_session import SECRET

__all__ = ["AdsServer", "bootstrap_of"]

_MESSAGES = {
    ResourceType.LISTENER: listener_pb2.Listener,
    ResourceType.ROUTE_CONFIGURATION: route_pb2.RouteConfiguration,
    ResourceType.CLUSTER: cluster_pb2.Cluster,
    ResourceType.ENDPOINTS: endpoint_pb2.ClusterLoadAssignment,
    ResourceType.SECRET: secret_pb2.Secret,
}


class _State:
    def __init__(self, resources: tuple[dict[str, Any], ...]) -> None:
        self._packed: dict[tuple[ResourceType, str], bytes] = {}
        for resource in resources:
            kind = RESOURCE_TYPES[resource["@type"]]
            data = {key: value for key, value in resource.items() if key != "@type"}
            packed = json_format.ParseDict(data, _MESSAGES[kind]()).SerializeToString()
            # The server's side has a kind of its own for secrets.
            served: Any = SECRET if kind is ResourceType.SECRET else kind
            self._packed[(served, resource_name(kind, packed))] = packed

    def for_client(self, user_agent: str) -> Mapping[tuple[ResourceType, str], bytes]:
        return self._packed


class _OneType:
    def __init__(self, ads: AdsService) -> None:
        stream, delta = ads.StreamAggregatedResources, ads.DeltaAggregatedResources
        self.StreamEndpoints = self.StreamRoutes = self.StreamSecrets = stream
        self.DeltaEndpoints = self.DeltaRoutes = self.DeltaSecrets = delta


class _Endpoints(_OneType, eds_pb2_grpc.EndpointDiscoveryServiceServicer):  # type: ignore[misc]
    pass


class _Routes(_OneType, rds_pb2_grpc.RouteDiscoveryServiceServicer):  # type: ignore[misc]
    pass


class _Secrets(_OneType, sds_pb2_grpc.SecretDiscoveryServiceServicer):  # type: ignore[misc]
    pass


def bootstrap_of(port: int, features: Sequence[str] = ()) -> dict[str, Any]:
    """For clients of a server on the loopback."""
    server = {"server_uri": f"127.0.0.1:{port}", "channel_creds": [{"type": "insecure"}]}
    return {"xds_servers": [{**server, "server_features": list(features)}], "node": {"id": "test"}}


class AdsServer:
    """Serves what it was told last, over ADS and by the services of single types.

    Args:
        resources: In the shape of `tests.grpc.xds`.
        port: To listen on; 0 takes any.
        services: What it offers besides, each as what adds it to a server.
        make_service: Serves them; by default as our own server does.
        features: Of the server, in the bootstrap.

    Attributes:
        requests: What its clients have sent, in order.
    """

    def __init__(
        self,
        *resources: dict[str, Any],
        port: int = 0,
        services: Sequence[Callable[[grpc.Server], None]] = (),
        make_service: Callable[[Any], AdsService] | None = None,
        features: Sequence[str] = (),
    ) -> None:
        self.requests: list[Any] = []
        state = _State(resources)
        self._service = make_service(state) if make_service is not None else AdsService(state, self.requests.append)
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        self._service.add_to(self._server)
        for add, service in (
            (eds_pb2_grpc.add_EndpointDiscoveryServiceServicer_to_server, _Endpoints(self._service)),
            (rds_pb2_grpc.add_RouteDiscoveryServiceServicer_to_server, _Routes(self._service)),
            (sds_pb2_grpc.add_SecretDiscoveryServiceServicer_to_server, _Secrets(self._service)),
        ):
            add(service, self._server)
        for add_to in services:
            add_to(self._server)
        port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()
        self.port = port
        self.bootstrap = bootstrap_of(port, features)
        [self.entry] = self.bootstrap["xds_servers"]

    def publish(self, *resources: dict[str, Any]) -> None:
        """Serve these from now on, and no others."""
        self._service.publish(_State(resources))

    def names(self, kind: ResourceType) -> set[str]:
        """The names of a type that it has been asked for so far."""
        return {
            name
            for one in list(self.requests)
            if one.type_url == kind.type_url
            for name in getattr(one, "resource_names", None) or one.resource_names_subscribe
        }

    def __enter__(self) -> AdsServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._service.close()
        self._server.stop(0).wait()
