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
<<<<<<< HEAD
from .traffic_policy import DestinationRule
from .world import Service, Sidecar, World, covers_host, hosts_overlap, is_exported
=======
from .memo import Memo
from .world import Service, Sidecar, World, hosts_overlap, is_exported
>>>>>>> wt-perf

__all__ = ["Scope"]

# pilot/pkg/networking/core/route/retry/retry.go, newRetryPolicy.
DEFAULT_RETRY = HttpRetry(attempts=2)

<<<<<<< HEAD
RulesByHost: TypeAlias = dict[str, list[DestinationRule]]


class _Rules:
    """DestinationRules by the hosts that they name, of which some are wildcards."""

    def __init__(self, by_host: RulesByHost) -> None:
        self._by_host = by_host
        self._wildcards = [one for one in by_host if one.startswith("*")]

    def most_specific(self, host: str) -> list[DestinationRule]:
        """Those of a host: of its own name, or of the longest wildcard that it is one of."""
        exact = self._by_host.get(host)
        if exact is not None:
            return exact
        wildcards = [one for one in self._wildcards if covers_host(one, host)]
        return self._by_host[max(wildcards, key=len)] if wildcards else []


_EVERYBODY, _OWN = "*", "."
=======
_EVERYBODY = "*"
>>>>>>> wt-perf


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
    """

    def __init__(self, world: World, client: Client, memo: Memo) -> None:
        self.world = world
        self.client = client
        self.root_namespace = world.security.mesh.root_namespace
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

<<<<<<< HEAD
    def destination_rule(self, host: str) -> DestinationRule | None:
        """The rule that holds for a host; several for one host are one."""
        if host not in self._rules:
            self._rules[host] = self._find_destination_rule(host)
        return self._rules[host]

    def _find_destination_rule(self, host: str) -> DestinationRule | None:
        service = self.services.get(host)
        own = self.client.namespace
        found = self._own_rules.most_specific(host)
        if not found and service is not None:
            found = self._exported_rules(service.namespace).most_specific(host)
        if not found:
            found = self._exported_rules(self.root_namespace).most_specific(host)
        for rule in found:
            if rule.is_broken:
                return rule  # It cannot be told whether it would be this client's.
        # Those for some workloads come first, and are of the client's own namespace.
        for rule in found:
            if rule.selector is not None and rule.namespace == own and self.client.has(rule.selector):
                return rule
        return next((rule for rule in reversed(found) if rule.selector is None), None)

    @cached_property
    def _rules_of_namespaces(self) -> dict[str, list[DestinationRule]]:
        found: dict[str, list[DestinationRule]] = {}
        for rule in self.world.destination_rules:
            found.setdefault(rule.namespace, []).append(rule)
        return found

    @cached_property
    def _own_rules(self) -> _Rules:
        own = self.client.namespace
        rules = self._rules_of_namespaces.get(own, [])
        if own == self.root_namespace:
            # What the root namespace has for everybody does not stand before the rules of services.
            return _Rules(_merged([rule for rule in rules if self._is_private(rule)]))
        return _Rules(_merged([rule for rule in rules if is_exported(rule.export_to, own, own)]))

    def _exported_rules(self, namespace: str) -> _Rules:
        found = self._exported.get(namespace)
        if found is None:
            rules = [one for one in self._rules_of_namespaces.get(namespace, []) if not self._is_private(one)]
            client = self.client.namespace
            exported = {
                host: [rule for rule in of_host if is_exported(rule.export_to, rule.namespace, client)]
                for host, of_host in _merged(rules).items()
            }
            found = self._exported[namespace] = _Rules(exported)
        return found

    def _is_private(self, rule: DestinationRule) -> bool:
        exported = rule.export_to or self.world.defaults.destination_rule_export_to
        return rule.selector is not None or exported in ((_OWN,), (rule.namespace,))

=======
>>>>>>> wt-perf

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
