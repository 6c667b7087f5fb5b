"""What hosts a client may call on a port, and under which names, each with its routes.

Source: istio/istio pilot/pkg/networking/core/httproute.go, BuildSidecarOutboundVirtualHosts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from envoy.config.route.v3 import route_components_pb2 as pb

from ..errors import ConfigError
from .http_rules import VirtualService
from .memo import Memo
from .names import names_of
from .routes import RouteInputs, has_routes, make_routes, tell_grpc_of_timeouts
from .scope import Scope
from .world import NOT_SAYABLE, Port, Resolution, Service

__all__ = ["PORT_OF_OTHERS", "VirtualHost", "leads_elsewhere", "make_virtual_hosts"]

# VirtualServices of hosts that are no service hold for what is asked for there.
PORT_OF_OTHERS = 80


@dataclass(frozen=True, slots=True, eq=False)
class VirtualHost:
    """A virtual host. Where its routes cannot be said it has none, and refuses: unknown, it would be called past the
    mesh.

    Attributes:
        errors: Why it has none.
    """

    domains: Sequence[str]
    message: pb.VirtualHost
    errors: Sequence[ConfigError] = ()


def make_virtual_hosts(scope: Scope, number: int, memo: Memo, *, is_grpc_core: bool = False) -> list[VirtualHost]:
    """The virtual hosts of all that a client may call on a port, no domain twice.

    Args:
        scope: What there is for the client.
        number: The port.
        memo: Those that were made before.
        is_grpc_core: For gRPC's own client, which is told timeouts in its way, too.
    """
    entries = [*_services_at(scope, number)]
    called = [_Called(one.host, tuple(scope.aliases.get(one.host, ())), one.addresses) for one, _ in entries]
    asked = number, scope.client.namespace, scope.world.domain
    domains = memo.keep(("domains", number), (called, *asked), lambda _: _domains(called, *asked))
    found: list[VirtualHost] = []
    for (service, port), own in zip(entries, domains, strict=True):
        if own:
            inputs = _route_inputs(scope, service.host, port, scope.virtual_services_of(service.host), memo)
            found.append(_keep_host(memo, own, inputs, is_grpc_core=is_grpc_core))
    if number == PORT_OF_OTHERS:
        taken = {one for own in domains for one in own}
        found += [_keep_host(memo, *one, is_grpc_core=False) for one in _others(scope, taken, memo)]
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
        for rule in scope.virtual_services_of(service.host):
            if has_routes(scope.client, rule, port):
                return all(one.host != service.host for one in rule.every_destination())
    return False


def _services_at(scope: Scope, number: int) -> Iterator[tuple[Service, Port]]:
    for service in scope.services.values():
        for port in service.ports:
            if (
                port.number == number
                and not service.external_name
                and (service.resolution is not Resolution.NONE or leads_elsewhere(scope, service, number))
                and scope.imports(service.namespace, service.host, number)
            ):
                yield service, port


def _route_inputs(scope: Scope, host: str, port: Port, rules: Sequence[VirtualService], memo: Memo) -> RouteInputs:
    hosts = memo.keep(("hosts of", host), (host, rules), lambda _: _hosts_of(host, rules))
    return RouteInputs(
        host=host,
        port=port,
        rules=rules,
        destination_rules={one: rule for one in hosts if (rule := scope.destination_rule(one)) is not None},
        external_names={one: name for one in hosts if (name := scope.external_name(one))},
        client=scope.client,
        default_retry=scope.default_retry,
    )


def _hosts_of(host: str, rules: Iterable[VirtualService]) -> list[str]:
    """A host, and those that its rules lead to."""
    return [*dict.fromkeys([host, *(one.host for rule in rules for one in rule.every_destination())])]


def _keep_host(memo: Memo, domains: Sequence[str], inputs: RouteInputs, *, is_grpc_core: bool) -> VirtualHost:
    name = f"{inputs.host}:{inputs.port.number}"

    def make(_: Memo) -> VirtualHost:
        message = pb.VirtualHost(name=name, domains=domains, include_request_attempt_count=True)
        try:
            message.routes.extend(make_routes(inputs))
        except NOT_SAYABLE as error:
            return VirtualHost(domains, message, [ConfigError(name, f"its routes cannot be said in xDS: {error}")])
        if is_grpc_core:
            tell_grpc_of_timeouts(message.routes)
        return VirtualHost(domains, message)

    return memo.keep(("host", name, is_grpc_core), (domains, inputs), make)


def _others(scope: Scope, taken: Iterable[str], memo: Memo) -> Iterator[tuple[Sequence[str], RouteInputs]]:
    """Hosts that no service has there (route.go, buildSidecarVirtualHostsForVirtualService)."""
    port = Port("http", PORT_OF_OTHERS)
    for host, rules in scope.hosts_of_rules.items():
        if host in taken:
            continue
        # By their full names alone (generateVirtualHostDomains is for services).
        domains = [one for one in (host, f"{host}:{port.number}") if one not in taken]
        rule = next((one for one in rules if has_routes(scope.client, one, port)), None)
        if domains and rule is not None:
            yield domains, _route_inputs(scope, host, port, [rule], memo)
