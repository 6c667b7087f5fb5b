"""Listeners and route configurations, in the two shapes in which Istio's clients ask for them.

`grpc`: one api_listener for each host and port, its routes by RDS (istio/istio pilot/pkg/networking/grpcgen).
`sidecar`: one socket listener for each port, all hosts of the port in one route configuration
(pilot/pkg/networking/core/listener.go, httproute.go), bound to loopback, since there is no redirection to hide behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from google.protobuf.message import Message

from ..errors import ConfigError
from .access_logging import ManagerTelemetry
from .names import cluster_name, names_of
from .originals import pod_hosts
from .packing import Packer, Resources
from .routes import FAULT_FILTER
from .scope import Scope
from .virtual_hosts import PORT_OF_OTHERS, VirtualHost, hosts_of_rules, leads_elsewhere, make_virtual_hosts
from .world import Resolution

__all__ = ["grpc_listeners", "make_refusal", "sidecar_listeners", "with_own_domains"]


# grpc-core makes neither logs nor spans.
NOTHING = ManagerTelemetry()


def grpc_listeners(scope: Scope, packer: Packer, *, is_grpc_core: bool = False) -> Iterator[Resources]:
    """A Listener and a RouteConfiguration for each port of each host (see `make_virtual_hosts`)."""
    for number in _ports(scope):
        virtual_hosts = make_virtual_hosts(scope, number, packer.memo, is_grpc_core=is_grpc_core)
        by_domain = {domain: one for one in virtual_hosts for domain in one.domains}
        for host in _hosts_of(scope, number):
            one = by_domain.get(host)
            if one is None:
                continue
            # Whoever names a host by a short form asks for its full name, too, be it a service's or a rule's alone.
            names = names_of(host, port=number, namespace=scope.client.namespace, domain=scope.world.domain)
            forms = [form for form in names if form not in by_domain]
            telemetry = NOTHING if is_grpc_core else scope.telemetry
            make = partial(_of_host, host, number, one, forms, telemetry)
            yield packer.keep(("listener", host, number, is_grpc_core), (one, forms, telemetry), make)


def _of_host(
    host: str,
    number: int,
    virtual_host: VirtualHost,
    forms: Sequence[str],
    telemetry: ManagerTelemetry,
    errors: list[ConfigError],
) -> Iterator[Message]:
    errors += virtual_host.errors
    listener = listener_pb2.Listener(name=f"{host}:{number}")
    route_name = cluster_name(number, "", host)
    listener.api_listener.api_listener.Pack(_make_manager(route_name, route_name, telemetry))
    yield listener
    routes = route_pb2.RouteConfiguration(name=route_name, virtual_hosts=[virtual_host.message])
    routes.virtual_hosts[0].domains.extend(forms)
    yield routes
    yield from virtual_host.clusters


def sidecar_listeners(scope: Scope, packer: Packer) -> Iterator[Resources]:
    """A Listener and a RouteConfiguration for each port number."""
    for number in sorted(_ports(scope)):
        virtual_hosts = make_virtual_hosts(scope, number, packer.memo)
        make = partial(_of_port, number, virtual_hosts, scope.telemetry)
        yield packer.keep(("port", number), (virtual_hosts, scope.telemetry), make)


def _of_port(
    number: int, virtual_hosts: Iterable[VirtualHost], telemetry: ManagerTelemetry, errors: list[ConfigError]
) -> Iterator[Message]:
    listener = listener_pb2.Listener(name=f"127.0.0.1_{number}")
    listener.address.socket_address.address = "127.0.0.1"
    listener.address.socket_address.port_value = number
    http_filter = listener.filter_chains.add().filters.add(name="envoy.filters.network.http_connection_manager")
    http_filter.typed_config.Pack(_make_manager(str(number), f"outbound_{number}", telemetry))
    yield listener
    routes = route_pb2.RouteConfiguration(name=str(number), ignore_port_in_host_matching=True)
    for virtual_host in virtual_hosts:
        errors += virtual_host.errors
        # Ports are not looked at.
        domains = [one for one in virtual_host.domains if not one.endswith(f":{number}")]
        if domains:
            added = routes.virtual_hosts.add()
            added.CopyFrom(virtual_host.message)
            added.domains[:] = domains
            yield from virtual_host.clusters
    yield routes


def make_refusal(name: str, telemetry: ManagerTelemetry) -> Message:
    """The listener of a host that is not in the registry, where only those that are may be called.

    As a sidecar answers (pilot/pkg/networking/core/httproute.go, buildSidecarOutboundHTTPRouteConfig, block_all).
    """
    listener: Message = listener_pb2.Listener(name=name)
    manager = _make_manager("", "block_all", telemetry)
    manager.route_config.name = "block_all"
    block = manager.route_config.virtual_hosts.add(name="block_all", domains=["*"])
    route = block.routes.add(name="block_all")
    route.match.prefix = "/"
    route.direct_response.status = 502
    listener.api_listener.api_listener.Pack(manager)  # type: ignore[attr-defined]
    return listener


def with_own_domains(listener: bytes, routes: bytes, name: str, domains: Sequence[str]) -> bytes:
    """A listener under another name, whose routes stand in it and hold for these domains alone."""
    message = listener_pb2.Listener.FromString(listener)
    message.name = name
    manager = http_connection_manager_pb2.HttpConnectionManager()
    message.api_listener.api_listener.Unpack(manager)
    manager.route_config.CopyFrom(route_pb2.RouteConfiguration.FromString(routes))
    manager.route_config.virtual_hosts[0].domains[:] = domains
    message.api_listener.api_listener.Pack(manager)
    packed: bytes = message.SerializeToString(deterministic=True)
    return packed


def _ports(scope: Scope) -> list[int]:
    numbers = {
        port.number: None
        for service in scope.services.values()
        for port in service.ports
        if service.resolution is not Resolution.NONE or leads_elsewhere(scope, service, port.number)
    }
    if hosts_of_rules(scope):
        numbers.setdefault(PORT_OF_OTHERS)
    return list(numbers)


def _hosts_of(scope: Scope, number: int) -> Iterable[str]:
    """Hosts that are asked for on a port."""
    there = [one for one in scope.hosts.values() if any(port.number == number for port in one.ports)]
    hosts = [host for one in there for host in (one.host, *(pod.host for pod in pod_hosts(one)))]
    yield from dict.fromkeys([*hosts, *(hosts_of_rules(scope) if number == PORT_OF_OTHERS else ())])


def _make_manager(
    route_name: str, stat_prefix: str, telemetry: ManagerTelemetry
) -> http_connection_manager_pb2.HttpConnectionManager:
    manager = http_connection_manager_pb2.HttpConnectionManager(stat_prefix=stat_prefix)
    telemetry.add_to(manager)
    # A stream may stand still for as long as it likes (listener_builder.go, buildHTTPConnectionManager).
    manager.stream_idle_timeout.SetInParent()
    if route_name:
        manager.rds.route_config_name = route_name
        manager.rds.config_source.ads.SetInParent()
        manager.rds.config_source.resource_api_version = 2  # V3
    manager.http_filters.add(name=FAULT_FILTER).typed_config.Pack(fault_pb2.HTTPFault())
    telemetry.add_filter_to(manager)
    manager.http_filters.add(name="envoy.filters.http.router").typed_config.Pack(router_pb2.Router())
    return manager
