"""The world as one client sees it: which services there are for it, and which rules hold.

Theory of operation. Services and rules are exported to namespaces; a Sidecar says which of them a workload uses at all,
for each of its egress listeners. Where those rules lead is a service for it, too, though none that it asks for by name.
Of the VirtualServices the first one that names a service has it, and one by a wildcard only where no other names it.

Source: istio/istio pilot/pkg/model/push_context.go (initVirtualServices), sidecar.go (SidecarScope,
collectImportedServices, computeWildcardHostVirtualServiceIndex).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from .client import Client
from .client_rules import ClientRules
from .http_rules import HttpRetry, VirtualService
from .imports import Imports, select_rules, select_services, with_ports
from .memo import Memo
from .world import EgressListener, Service, Sidecar, World, is_exported

__all__ = ["Scope"]

# pilot/pkg/networking/core/route/retry/retry.go, newRetryPolicy.
DEFAULT_RETRY = HttpRetry(attempts=2)

_EVERYBODY = "*"

_NOTHING: Imports = Imports({}, (), "")


class Scope:
    """What there is for a client.

    Args:
        world: All that there is.
        client: Who asks.
        memo: What was made for the client before.

    Attributes:
        services: By host, those that it may call, and those that rules of its listeners lead to.
        destination_rules: Those that hold for it.
        telemetry: What is told of what it sends.
    """

    def __init__(self, world: World, client: Client, memo: Memo) -> None:
        self.world = world
        self.client = client
        self.root_namespace = world.security.mesh.root_namespace
        self.telemetry = world.told_of(client.namespace, dict(client.labels), is_server=False)
        defaults = world.defaults
        exported = [one for one in world.services.values() if self._sees(one)]
        rules = [
            one
            for one in world.virtual_services
            if is_exported(one.export_to or defaults.virtual_service_export_to, one.namespace, client.namespace)
        ]
        rules = _private_ones_first(rules, client)
        self.sidecar = _sidecar_of(world, client)
        egress = (self.sidecar.egress if self.sidecar is not None else ()) or (EgressListener(),)
        self._listeners = [(one, self._imports(one, exported, rules)) for one in egress]
        has_all = egress == (EgressListener(),) and len(exported) == len(world.services)
        self.services = dict(world.services) if has_all else self._joined()
        namespaces = {host: one.namespace for host, one in self.services.items()}
        inputs = world.destination_rules, client, namespaces, self.root_namespace, defaults.destination_rule_export_to
        self.destination_rules = memo.keep("destination rules", inputs, lambda _: ClientRules(*inputs))

    @property
    def registry_only(self) -> bool:
        """Whether hosts that are no service must not be called (OutboundTrafficPolicy)."""
        own = self.sidecar.registry_only if self.sidecar is not None else None
        return self.world.defaults.registry_only if own is None else own

    @property
    def default_retry(self) -> HttpRetry:
        """What is tried again where no rule says so (MeshConfig.default_http_retry_policy)."""
        return self.world.defaults.retry or DEFAULT_RETRY

    def at(self, number: int) -> Imports:
        """What the client has on a port (sidecar.go, GetEgressListenerForRDS)."""
        for listener, imports in self._listeners:
            if listener.port is None or (listener.port == number and not listener.is_proxy):
                return imports
        return _NOTHING

    @cached_property
    def hosts(self) -> dict[str, Service]:
        """Services that some listener has, by host: those that the client may name itself."""
        return {host: one for _, imports in self._listeners for host, one in imports.services.items()}

    def _sees(self, service: Service) -> bool:
        """Whether a service is exported to the client."""
        export_to = service.export_to or self.world.defaults.service_export_to
        return is_exported(export_to, service.namespace, self.client.namespace)

    def _imports(self, listener: EgressListener, exported: list[Service], rules: list[VirtualService]) -> Imports:
        namespace = self.client.namespace
        if listener == EgressListener():
            return Imports({one.host: one for one in exported}, rules, namespace)
        chosen = select_services(listener, exported, namespace)
        return Imports(chosen, select_rules(listener, rules, namespace), namespace)

    def _joined(self) -> dict[str, Service]:
        """What all listeners have, and where their rules lead to, each service with the ports that any of them has."""
        ports: dict[str, set[int]] = {}
        for listener, imports in self._listeners:
            for service in (*imports.services.values(), *self._led_to(listener, imports)):
                ports.setdefault(service.host, set()).update(port.number for port in service.ports)
        found = ((host, with_ports(self.world.services[host], numbers)) for host, numbers in ports.items())
        return {host: service for host, service in found if service is not None}

    def _led_to(self, listener: EgressListener, imports: Imports) -> Iterator[Service]:
        """Services that rules of a listener send to: also one that is hidden from the client's own namespace."""
        namespace = self.client.namespace
        for rule in imports.virtual_services:
            for destination in rule.every_destination(namespace):
                service = self.world.services.get(destination.host)
                if service is None or (service.namespace != namespace and not self._sees(service)):
                    continue
                wanted = destination.port if listener.takes_every_port else listener.port
                led_to = service if wanted is None else with_ports(service, {wanted})
                if led_to is not None:
                    yield led_to

    @cached_property
    def aliases(self) -> dict[str, list[str]]:
        """Services that are names of others (ExternalName), by the host of those."""
        found: dict[str, list[str]] = {}
        for service in self.services.values():
            target = self.concrete(service)
            if target is not service:
                found.setdefault(target.host, []).append(service.host)
        return found

    @cached_property
    def external_names(self) -> dict[str, str]:
        """The hosts that services are names of, as they say themselves."""
        return {host: service.external_name for host, service in self.services.items() if service.external_name}

    def concrete(self, service: Service) -> Service:
        """The service that one is a name of; itself where it is none."""
        seen: set[str] = set()
        while service.external_name and service.host not in seen:
            seen.add(service.host)
            target = self.services.get(service.external_name)
            if target is None:
                break
            service = target
        return service


def _private_ones_first(rules: list[VirtualService], client: Client) -> list[VirtualService]:
    def rank(rule: VirtualService) -> int:
        if not rule.export_to or _EVERYBODY in rule.export_to:
            # push_context.go, VirtualServicesForGateway: a consumer's own routes stand before the producer's.
            return 2 if rule.is_of_gateway_api and rule.namespace == client.namespace else 3
        return 0 if rule.namespace == client.namespace else 1

    return sorted(rules, key=lambda rule: (rank(rule), rule.age))


def _sidecar_of(world: World, client: Client) -> Sidecar | None:
    """The Sidecar of a client: one for its labels, its namespace's, or the root namespace's."""
    root = world.security.mesh.root_namespace
    own = sorted((one for one in world.sidecars if one.namespace == client.namespace), key=lambda one: one.age)
    for sidecar in own:
        if sidecar.selector is not None and client.has(sidecar.selector):
            return sidecar
    of_root = [one for one in world.sidecars if one.namespace == root] if root != client.namespace else []
    return next((one for one in (*own, *of_root) if one.selector is None), None)
