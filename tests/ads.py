"""A management server over a socket, whose every state a test says."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

import grpc
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401 - for what is read from JSON.
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2  # noqa: F401
from google.protobuf import json_format

from meshsdk.resources import RESOURCE_TYPES, ResourceType, resource_name
from meshsdk.xds.ads_server import AdsService

__all__ = ["AdsServer"]

_MESSAGES = {
    ResourceType.LISTENER: listener_pb2.Listener,
    ResourceType.ROUTE_CONFIGURATION: route_pb2.RouteConfiguration,
    ResourceType.CLUSTER: cluster_pb2.Cluster,
    ResourceType.ENDPOINTS: endpoint_pb2.ClusterLoadAssignment,
}


class _State:
    def __init__(self, resources: tuple[dict[str, Any], ...]) -> None:
        self._packed: dict[tuple[ResourceType, str], bytes] = {}
        for resource in resources:
            kind = RESOURCE_TYPES[resource["@type"]]
            data = {key: value for key, value in resource.items() if key != "@type"}
            packed = json_format.ParseDict(data, _MESSAGES[kind]()).SerializeToString()
            self._packed[(kind, resource_name(kind, packed))] = packed

    def for_client(self, user_agent: str) -> Mapping[tuple[ResourceType, str], bytes]:
        return self._packed


class AdsServer:
    """Serves what it was told last.

    Args:
        resources: In the shape of `tests.grpc.xds`.
        port: To listen on; 0 takes any.

    Attributes:
        requests: What its clients have sent, in order.
    """

    def __init__(self, *resources: dict[str, Any], port: int = 0) -> None:
        self.requests: list[Any] = []
        self._service = AdsService(_State(resources), self.requests.append)
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        self._service.add_to(self._server)
        port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()
        self.entry = {"server_uri": f"127.0.0.1:{port}", "channel_creds": [{"type": "insecure"}]}
        self.bootstrap = {
            "xds_servers": [self.entry],
            "node": {"id": "test"},
        }

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
