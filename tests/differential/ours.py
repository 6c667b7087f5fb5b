"""meshsdk, asked what it does with a request under a route configuration; what Envoy is asked in `judge`."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401 - JSON names it in an Any
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from google.protobuf import json_format

from meshsdk.balancing import Cluster
from meshsdk.errors import ResourceError
from meshsdk.exchange import LocalReply
from meshsdk.exchange.directory import begin
from meshsdk.resources import DnsDiscovery, Listener, ResourceType, RouteConfiguration, StaticDiscovery, decode
from meshsdk.routing import RequestHead, RouteTable
from meshsdk.routing.timeouts import is_grpc

from .judge import Decision, ManagerOptions, Request
from .upstream import RESPONSE_HEADERS

__all__ = ["OurRoutes", "make_clusters", "make_listener"]


def make_clusters(configs: Sequence[dict[str, object]]) -> dict[str, Cluster]:
    """Living clusters from what Envoy is given."""
    clusters = {}
    for config in configs:
        message = json_format.ParseDict(config, cluster_pb2.Cluster())
        parsed = decode(ResourceType.CLUSTER, message.SerializeToString())
        cluster = Cluster(parsed)
        assert isinstance(parsed.discovery, StaticDiscovery | DnsDiscovery)
        cluster.update(parsed, parsed.discovery.endpoints)
        clusters[parsed.name] = cluster
    return clusters


def make_listener(option: ManagerOptions, filters: Sequence[dict[str, object]] = ()) -> Listener:
    """A client listener with the settings of Envoy's connection manager."""
    router = {
        "name": "router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
    }
    manager = {
        "stat_prefix": "ours",
        "generate_request_id": False,
        "rds": {"route_config_name": option.name, "config_source": {"ads": {}}},
        "http_filters": [*filters, router],
        **option.fields,
    }
    message = listener_pb2.Listener(name=option.name)
    message.api_listener.api_listener.Pack(
        json_format.ParseDict(manager, http_connection_manager_pb2.HttpConnectionManager())
    )
    listener = decode(ResourceType.LISTENER, message.SerializeToString())
    assert isinstance(listener, Listener)
    return listener


class OurRoutes:
    """A route configuration as meshsdk carries it out.

    Raises:
        ResourceError: meshsdk refuses it.
    """

    def __init__(
        self, listener: Listener, configuration: route_pb2.RouteConfiguration, clusters: Mapping[str, Cluster]
    ) -> None:
        parsed = decode(ResourceType.ROUTE_CONFIGURATION, configuration.SerializeToString())
        assert isinstance(parsed, RouteConfiguration)
        self._table = RouteTable(listener, parsed)
        self._clusters = clusters

    @classmethod
    def refusal(
        cls, listener: Listener, configuration: route_pb2.RouteConfiguration, clusters: Mapping[str, Cluster]
    ) -> OurRoutes | ResourceError:
        """The routes, or why they are refused."""
        try:
            return cls(listener, configuration, clusters)
        except ResourceError as error:
            return error

    def decide(self, request: Request) -> Decision:
        """What would come of a request, with the upstream's own response headers."""
        raw = [(b"host", request.authority.encode())]
        raw += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in request.headers]
        head = RequestHead(request.method, "http", request.authority, request.target, raw)
        begun = begin(self._table, self._clusters, head, random.random)
        if isinstance(begun, LocalReply):
            return _of_reply(begun, head)
        attempt = begun.begin(0.0)
        if isinstance(attempt, LocalReply):
            return _of_reply(attempt, head)
        attempt.finish()
        headers = begun.response_headers(attempt, 200, RESPONSE_HEADERS)
        return Decision(200, attempt.endpoint.cluster.name, attempt.target, _text(attempt.headers), _text(headers))


def _of_reply(reply: LocalReply, head: RequestHead) -> Decision:
    if is_grpc(head):
        reply = reply.as_grpc()
    return Decision(reply.status, response_headers=_text(reply.headers), body=reply.body.decode("latin-1"))


def _text(headers: Sequence[tuple[bytes, bytes]]) -> tuple[tuple[str, str], ...]:
    return tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers)
