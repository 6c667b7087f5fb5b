"""Listeners and route configurations, in the two shapes in which Istio's clients ask for them.

`grpc`: one api_listener for each host and port, its routes by RDS (istio/istio pilot/pkg/networking/grpcgen).
`sidecar`: one socket listener for each port, all hosts of the port in one route configuration
(pilot/pkg/networking/core/listener.go, httproute.go), bound to loopback, since there is no redirection to hide behind.
"""

from __future__ import annotations

from collections.abc import Iterable

from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from google.protobuf.message import Message

from .names import cluster_name, domains_of
from .routes import FAULT_FILTER, make_virtual_host
from .world import Port, Resolution, Service, World

__all__ = ["make_grpc_listeners", "make_sidecar_listeners"]


def make_grpc_listeners(world: World) -> Iterable[Message]:
    """A Listener and a RouteConfiguration for each port of each service."""
    for service, port in _ports(world):
        listener = listener_pb2.Listener(name=f"{service.host}:{port.number}")
        route_name = cluster_name(port.number, "", service.host)
        listener.api_listener.api_listener.Pack(_make_manager(route_name, route_name))
        yield listener
        routes = route_pb2.RouteConfiguration(name=route_name)
        routes.virtual_hosts.append(make_virtual_host(world, service, port, domains_of(service, port=port.number)))
        yield routes


def make_sidecar_listeners(world: World) -> Iterable[Message]:
    """A Listener and a RouteConfiguration for each port number."""
    by_port: dict[int, list[tuple[Service, Port]]] = {}
    for service, port in _ports(world):
        by_port.setdefault(port.number, []).append((service, port))
    for number, entries in sorted(by_port.items()):
        listener = listener_pb2.Listener(name=f"127.0.0.1_{number}")
        listener.address.socket_address.address = "127.0.0.1"
        listener.address.socket_address.port_value = number
        http_filter = listener.filter_chains.add().filters.add(name="envoy.filters.network.http_connection_manager")
        http_filter.typed_config.Pack(_make_manager(str(number), f"outbound_{number}"))
        yield listener
        routes = route_pb2.RouteConfiguration(name=str(number), ignore_port_in_host_matching=True)
        taken: set[str] = set()
        for service, port in entries:
            domains = [domain for domain in domains_of(service, port=None) if domain not in taken]
            taken.update(domains)
            if domains:
                routes.virtual_hosts.append(make_virtual_host(world, service, port, domains))
        yield routes


def _ports(world: World) -> Iterable[tuple[Service, Port]]:
    for service in world.services.values():
        if service.resolution is not Resolution.NONE:
            yield from ((service, port) for port in service.ports)


def _make_manager(route_name: str, stat_prefix: str) -> http_connection_manager_pb2.HttpConnectionManager:
    manager = http_connection_manager_pb2.HttpConnectionManager(stat_prefix=stat_prefix)
    manager.rds.route_config_name = route_name
    manager.rds.config_source.ads.SetInParent()
    manager.rds.config_source.resource_api_version = 2  # V3
    for name, filter_config in (
        (FAULT_FILTER, fault_pb2.HTTPFault()),
        ("envoy.filters.http.router", router_pb2.Router()),
    ):
        manager.http_filters.add(name=name).typed_config.Pack(filter_config)
    return manager
