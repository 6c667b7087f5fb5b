"""The world as one client sees it: which services there are for it, and which rules hold.

Theory of operation. Services and rules are exported to namespaces; a Sidecar says which of them a workload uses at all.
Of the VirtualServices the first one that names a service has it, and one by a wildcard only where no other names it.

Source: istio/istio pilot/pkg/model/push_context.go (initVirtualServices), sidecar.go (SidecarScope,
computeWildcardHostVirtualServiceIndex).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from .client import Client
from .client_rules import ClientRules
from .http_rules import HttpRetry, VirtualService
from .memo import Memo
from .world import Service, Sidecar, World, covers_host, hosts_overlap, is_exported

__all__ = ["Scope"]

# pilot/pkg/networking/core/route/retry/retry.go, newRetryPolicy.
DEFAULT_RETRY = HttpRetry(attempts=2)

_EVERYBODY = "*"


class Scope:
    """What there is for a client.

    Args:
        world: All that there is.
        client: Who asks.
        memo: What was made for the client before.

    Attributes:
        services: By host, those that it may call.
        virtual_services: Those that may hold for it, those of its own namespace's first.
        destination_rules: Those that hold for it.
        access_logs: Of what it sends, serialized.
        stats: What is changed of its metrics; see `World.stats`.
    """

    def __init__(self, world: World, client: Client, memo: Memo) -> None:
        self.world = world
        self.client = client
        self.root_namespace = world.security.mesh.root_namespace
        self.access_logs = world.access_logs(client.namespace, dict(client.labels), is_server=False)
        self.stats = world.stats(client.namespace, dict(client.labels), is_server=False)
        defaults = world.defaults
        exported = [
            one
            for one in world.services.values()
            if is_exported(one.export_to or defaults.service_export_to, one.namespace, client.namespace)
        ]
        rules = [
            one
            for one in world.virtual_services
            if is_exported(one.export_to or defaults.virtual_service_export_to, one.namespace, client.namespace)
        ]
        rules = _private_ones_first(rules, client)
        self.sidecar = _sidecar_of(world, client)
        if self.sidecar is not None:
            rules = [rule for rule in rules if any(self.imports(rule.namespace, host) for host in rule.hosts)]
            wanted = {one.host for rule in rules for one in rule.every_destination()}
            exported = [one for one in exported if one.host in wanted or self.imports(one.namespace, one.host)]
        self.services: dict[str, Service] = {one.host: one for one in exported}
        self.virtual_services: Sequence[VirtualService] = rules
        namespaces = {one.host: one.namespace for one in exported}
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

    def imports(self, namespace: str, host: str, port: int | None = None) -> bool:
        """Whether the client's Sidecar has a host at all, or on a port; without a Sidecar it has all."""
        if self.sidecar is None or not self.sidecar.egress:
            return True
        if port is None:
            return any(one.imports(self.client.namespace, namespace, host) for one in self.sidecar.egress)
        listener = self.sidecar.listener_for(port)
        return listener is not None and listener.imports(self.client.namespace, namespace, host)

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
            service is not None and rule.namespace in (service.namespace, self.client.namespace)
        )

    @cached_property
    def hosts_of_rules(self) -> dict[str, list[VirtualService]]:
        """Hosts that VirtualServices name, be they services or not, and wildcards of which none is a service."""
        exact, wildcards = self._claims
        claims = {
            **exact,
            **{
                pattern: [rule]
                for pattern, rule in wildcards.items()
                if not any(hosts_overlap(pattern, host) for host in self.services)
            },
        }
        every = {host: [rule for rule in rules if not rule.is_of_gateway_api] for host, rules in claims.items()}
        return {host: rules for host, rules in every.items() if rules}


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
