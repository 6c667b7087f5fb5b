"""What a workload uses: the services and rules that one egress listener of a Sidecar has.

Theory of operation. A host is written `namespace/name`, of which either part may be `*`, and the namespace `.`; with a
`~` before it it is left out. A listener of one port has of each service that port alone. Without a Sidecar there is
one listener, with all that is exported to the client.

Source: istio/istio pilot/pkg/model/sidecar.go (convertIstioListenerToWrapper, selectServices), virtualservice.go
(SelectVirtualServices).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property

from msgspec.structs import replace

from .http_rules import VirtualService
from .world import EgressListener, Service, covers_host, hosts_overlap

__all__ = ["Imports", "select_rules", "select_services", "with_ports"]

# How Istio writes that all there is may be called.
_ALL = "*"


class Imports:
    """The services and rules of one listener.

    Args:
        services: By host.
        virtual_services: In the order in which they count.
        namespace: The client's.
    """

    def __init__(
        self, services: Mapping[str, Service], virtual_services: Sequence[VirtualService], namespace: str
    ) -> None:
        self.services = services
        self.virtual_services = virtual_services
        self._namespace = namespace
        self._of_rules: dict[int, dict[str, list[VirtualService]]] = {}

    @cached_property
    def _claims(self) -> tuple[dict[str, list[VirtualService]], dict[str, VirtualService]]:
        """VirtualServices by the hosts that they name, and by wildcards: of those the first one."""
        exact: dict[str, list[VirtualService]] = {}
        wildcards: dict[str, VirtualService] = {}
        for rule in self.virtual_services:
            for host in rule.hosts:
                if host.startswith("*"):
                    wildcards.setdefault(host, rule)
                else:
                    exact.setdefault(host, []).append(rule)
        return exact, wildcards

    def virtual_services_of(self, host: str) -> Sequence[VirtualService]:
        """The VirtualServices of a service; the first one that has a route for a port has it."""
        exact, wildcards = self._claims
        found = exact.get(host)
        if found is not None:
            return [rule for rule in found if self._is_for_client(rule, host)]
        best = max((one for one in wildcards if covers_host(one, host)), key=len, default=None)
        # route.go, separateVSHostsAndServices: by a wildcard, none of Gateway API has a service.
        return [wildcards[best]] if best is not None and not wildcards[best].is_of_gateway_api else []

    def _is_for_client(self, rule: VirtualService, host: str) -> bool:
        """Of Gateway API, consumers' routes are for themselves alone (route.go, UseGatewaySemantics)."""
        service = self.services.get(host)
        return not rule.is_of_gateway_api or (
            service is not None and rule.namespace in (service.namespace, self._namespace)
        )

    def hosts_of_rules(self, number: int) -> dict[str, list[VirtualService]]:
        """Hosts that VirtualServices name, be they services or not, and wildcards of which none is a service.

        Args:
            number: The port on which a service must be, to be one.
        """
        if number not in self._of_rules:
            self._of_rules[number] = self._find_hosts_of_rules(number)
        return self._of_rules[number]

    def _find_hosts_of_rules(self, number: int) -> dict[str, list[VirtualService]]:
        exact, wildcards = self._claims
        hosts = [one.host for one in self.services.values() if any(port.number == number for port in one.ports)]
        claims = {
            **exact,
            **{
                pattern: [rule]
                for pattern, rule in wildcards.items()
                if not any(hosts_overlap(pattern, host) for host in hosts)
            },
        }
        every = {host: [rule for rule in rules if not rule.is_of_gateway_api] for host, rules in claims.items()}
        return {host: rules for host, rules in every.items() if rules}


def select_services(listener: EgressListener, exported: Iterable[Service], namespace: str) -> dict[str, Service]:
    """The services of a listener, of those that are exported to a client of a namespace."""
    found: dict[str, Service] = {}
    for service in exported:
        patterns = [*_of_namespace(listener.hosts, service.namespace, namespace)]
        left_out = _of_namespace(listener.left_out, service.namespace, namespace)
        if any(_is_within(service.host, one) for one in left_out):
            continue
        if any(_is_within(service.host, one) for one in patterns):
            own = service if listener.takes_every_port else with_ports(service, {listener.port or 0})
            if own is not None:
                found[service.host] = own
    return found


def select_rules(listener: EgressListener, rules: Iterable[VirtualService], namespace: str) -> list[VirtualService]:
    """The VirtualServices of a listener, of those that are exported to a client of a namespace."""
    found = []
    for rule in rules:
        patterns = [*_of_namespace(listener.hosts, rule.namespace, namespace)]
        left_out = [*_of_namespace(listener.left_out, rule.namespace, namespace)]
        # A rule of Istio's is taken with a wildcard of which some hosts are imported, one of Gateway API is not.
        is_had = _is_within if rule.is_of_gateway_api else hosts_overlap
        for host in rule.hosts:
            if any(is_had(host, one) for one in patterns) and not any(_is_within(host, one) for one in left_out):
                found.append(rule)
                break
    return found


def with_ports(service: Service, numbers: Iterable[int]) -> Service | None:
    """A service with some of its ports alone; None where it has none of them."""
    wanted = set(numbers)
    ports = tuple(port for port in service.ports if port.number in wanted)
    if len(ports) == len(service.ports):
        return service
    return replace(service, ports=ports) if ports else None


def _of_namespace(hosts: Iterable[tuple[str, str]], of: str, client_namespace: str) -> Iterator[str]:
    for namespace, host in hosts:
        if namespace == _ALL or (client_namespace if namespace == "." else namespace) == of:
            yield host


def _is_within(host: str, pattern: str) -> bool:
    """Whether a pattern is for all that a host is, which may be a wildcard itself (pkg/config/host, SubsetOf)."""
    if not pattern.startswith("*"):
        return host == pattern
    return not (host.startswith("*") and len(host) < len(pattern)) and host.removeprefix("*").endswith(pattern[1:])
