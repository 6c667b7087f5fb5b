"""What hosts a client may call on a port, and under which names, each with its routes.

Source: istio/istio pilot/pkg/networking/core/httproute.go, BuildSidecarOutboundVirtualHosts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.route.v3 import route_components_pb2 as pb
from google.protobuf.message import Message
from msgspec import Struct

from ..errors import ConfigError
from .byte_routes import byte_destinations
from .client import Client
from .client_rules import ClientRules
from .clusters import for_grpc_core
from .http_rules import HttpRetry, VirtualService
from .memo import Memo
from .names import names_of, short_forms
from .originals import Originals, PodHost, make_originals, originals_of, pod_hosts
from .protocols import BYTES
from .routes import RouteInputs, has_routes, make_routes, tell_grpc_of_timeouts
from .scope import Scope
from .world import NOT_SAYABLE, Port, Resolution, Service

__all__ = ["PORT_OF_OTHERS", "VirtualHost", "hosts_of_rules", "leads_elsewhere", "make_virtual_hosts", "short_names"]

# VirtualServices of hosts that are no service hold for what is asked for there.
PORT_OF_OTHERS = 80


class VirtualHost(Struct, frozen=True, eq=False):
    """A virtual host.

    Attributes:
        clusters: That only its own routes lead to.
        errors: Why it has no routes. So it refuses: unknown, it would be called past the mesh.
    """

    domains: Sequence[str]
    message: pb.VirtualHost
    clusters: Sequence[Message] = ()
    errors: Sequence[ConfigError] = ()


def make_virtual_hosts(scope: Scope, number: int, memo: Memo, *, is_grpc_core: bool = False) -> list[VirtualHost]:
    """The virtual hosts of all that a client may call on a port, no domain twice.

    Args:
        scope: What there is for the client.
        number: The port.
        memo: Those that were made before.
        is_grpc_core: For gRPC's own client, which is told timeouts in its way, too.
    """
    imports, entries = scope.at(number), [*_services_at(scope, number)]
    called = [_Called(one.host, tuple(scope.aliases.get(one.host, ())), one.addresses) for one, _ in entries]
    asked = number, scope.client.namespace, scope.world.domain
    domains = memo.keep(("domains", number), (called, *asked), lambda _: _domains(called, *asked))
    found: list[VirtualHost] = []
    for (service, port), own in zip(entries, domains, strict=True):
        if own:
            inputs = _inputs(scope, service.host, own, port, imports.virtual_services_of(service.host), is_grpc_core)
            found.append(_keep_host(inputs, memo))
    found += [_keep_host(one, memo) for one in _pods(scope, entries, is_grpc_core)]
    if number == PORT_OF_OTHERS:
        taken = {one for own in domains for one in own}
        found += [_keep_host(one, memo) for one in _others(scope, taken)]
    return found


class _Called(NamedTuple):
    """What a service is called by, beside its short forms."""

    host: str
    aliases: tuple[str, ...]
    addresses: tuple[str, ...]


def _domains(every: Sequence[_Called], number: int, namespace: str, domain: str) -> list[list[str]]:
    """The names under which each of some services may be asked for, none twice."""
    full = {name for one in every for name in (one.host, f"{one.host}:{number}")}
    taken: set[str] = set()
    found = []
    for one in every:
        hosts, addresses = (one.host, *one.aliases), one.addresses
        names = names_of(*hosts, port=number, namespace=namespace, domain=domain, addresses=addresses)
        # A short form is no one's who has it for a full name (dedupeDomains), with the port or without.
        own = (one.host, f"{one.host}:{number}")
        found.append([name for name in names if name not in taken and (name in own or name not in full)])
        taken.update(found[-1])
    return found


def leads_elsewhere(scope: Scope, service: Service, number: int) -> bool:
    """Whether requests for hosts that are passed through, and have no cluster, go to others by a rule."""
    for port in (one for one in service.ports if one.number == number):
        rules = scope.at(number).virtual_services_of(service.host)
        if port.protocol in BYTES:
            led_to = byte_destinations(scope.client, rules, service.host, port)
            return all(one.host != service.host for one in led_to)
        for rule in rules:
            if has_routes(scope.client, rule, port):
                return all(one.host != service.host for one in rule.every_destination())
    return False


def _services_at(scope: Scope, number: int) -> Iterator[tuple[Service, Port]]:
    for service in scope.at(number).services.values():
        for port in service.ports:
            if (
                port.number == number
                and not service.external_name
                and (service.resolution is not Resolution.NONE or leads_elsewhere(scope, service, number))
            ):
                yield service, port


class _HostInputs(NamedTuple):
    """All that a virtual host depends on, among the rules and names of everybody."""

    host: str
    domains: Sequence[str]
    port: Port
    rules: Sequence[VirtualService]
    destination_rules: ClientRules
    external_names: Mapping[str, str]
    client: Client
    default_retry: HttpRetry
    originals: Originals | None
    is_grpc_core: bool
    service: str = ""


def _inputs(
    scope: Scope,
    host: str,
    domains: Sequence[str],
    port: Port,
    rules: Sequence[VirtualService],
    is_grpc_core: bool = False,
) -> _HostInputs:
    of_all = scope.destination_rules, scope.external_names, scope.client, scope.default_retry
    return _HostInputs(host, domains, port, rules, *of_all, originals_of(scope, host, rules), is_grpc_core)


def _keep_host(inputs: _HostInputs, memo: Memo) -> VirtualHost:
    def make(inside: Memo) -> VirtualHost:
        routes = _route_inputs(inputs)
        own = inputs.domains, routes, inputs.originals, inputs.is_grpc_core
        return inside.keep("routes", own, partial(_make_host, inputs, routes))

    return memo.keep(("host", inputs.host, inputs.port.number, inputs.is_grpc_core), inputs, make)


def _route_inputs(inputs: _HostInputs) -> RouteInputs:
    """What of everybody's rules and names the routes of one host depend on."""
    led_to = (one.host for rule in inputs.rules for one in rule.every_destination())
    hosts = dict.fromkeys([inputs.service or inputs.host, *led_to])
    found = {one: inputs.destination_rules.of(one) for one in hosts}
    return RouteInputs(
        host=inputs.host,
        port=inputs.port,
        rules=inputs.rules,
        destination_rules={one: rule for one, rule in found.items() if rule is not None},
        external_names={one: inputs.external_names[one] for one in hosts if one in inputs.external_names},
        client=inputs.client,
        default_retry=inputs.default_retry,
        looked_up=frozenset(inputs.originals.services if inputs.originals is not None else ()),
        service=inputs.service,
    )


def _make_host(inputs: _HostInputs, routes: RouteInputs, _: Memo) -> VirtualHost:
    name = f"{inputs.host}:{inputs.port.number}"
    message = pb.VirtualHost(name=name, domains=inputs.domains, include_request_attempt_count=True)
    try:
        message.routes.extend(make_routes(routes))
    except NOT_SAYABLE as error:
        problem = ConfigError(name, f"its routes cannot be said in xDS: {error}")
        return VirtualHost(inputs.domains, message, errors=[problem])
    if inputs.is_grpc_core:
        tell_grpc_of_timeouts(message.routes)
    errors: list[ConfigError] = []
    clusters = make_originals(inputs.originals, inputs.host, inputs.port, inputs.client, errors)
    if inputs.is_grpc_core:
        clusters = [for_grpc_core(one) if isinstance(one, cluster_pb2.Cluster) else one for one in clusters]
    return VirtualHost(inputs.domains, message, clusters, errors)


def _pods(scope: Scope, entries: Iterable[tuple[Service, Port]], is_grpc_core: bool) -> Iterator[_HostInputs]:
    """Pods of headless services, each with the routes of its service (generateVirtualHostDomains: `*.db`)."""
    for service, port in entries:
        rules = scope.at(port.number).virtual_services_of(service.host)
        for pod in pod_hosts(service):
            names = [pod.host, f"{pod.host}.", *short_names(scope, pod)]
            domains = [text for name in names for text in (name, f"{name}:{port.number}")]
            own = _inputs(scope, pod.host, domains, port, rules, is_grpc_core)
            originals = originals_of(scope, pod.host, rules, pod)
            yield own._replace(originals=originals, service=service.host)


def short_names(scope: Scope, pod: PodHost) -> list[str]:
    """The short forms of a pod's name: below those of its service."""
    forms = short_forms(pod.service.host, scope.client.namespace, scope.world.domain)
    return [f"{pod.name}.{form}" for form in forms]


def hosts_of_rules(scope: Scope) -> Mapping[str, Sequence[VirtualService]]:
    """Hosts that rules are about and that no service needs to have, with those rules."""
    return scope.at(PORT_OF_OTHERS).hosts_of_rules(PORT_OF_OTHERS)


def _others(scope: Scope, taken: Iterable[str]) -> Iterator[_HostInputs]:
    """Hosts that no service has there (route.go, buildSidecarVirtualHostsForVirtualService)."""
    port = Port("http", PORT_OF_OTHERS)
    for host, rules in hosts_of_rules(scope).items():
        if host in taken:
            continue
        # By their full names alone (generateVirtualHostDomains is for services).
        domains = [one for one in (host, f"{host}:{port.number}") if one not in taken]
        rule = next((one for one in rules if has_routes(scope.client, one, port)), None)
        if domains and rule is not None:
            yield _inputs(scope, host, domains, port, [rule])
