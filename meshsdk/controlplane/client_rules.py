"""Which DestinationRules hold for one client.

Theory of operation. A rule is looked for in the client's namespace, then in the service's, then in the root namespace;
those of one host in one namespace are one rule.

Source: istio/istio pilot/pkg/model/push_context.go (destinationRule), destination_rule.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TypeAlias

from msgspec.structs import replace

from .client import Client
from .traffic_policy import DestinationRule
from .world import covers_host, is_exported

__all__ = ["ClientRules"]

_OWN = "."

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


class ClientRules:
    """The DestinationRules of a client, by host.

    Args:
        rules: All that there are, in the order of the folder.
        client: Who asks.
        namespaces: Of the services that it may call, by host.
        root_namespace: Whose rules hold for all.
        export_to: Of rules that do not say it themselves (MeshConfig.default_destination_rule_export_to).
    """

    def __init__(
        self,
        rules: Iterable[DestinationRule],
        client: Client,
        namespaces: Mapping[str, str],
        root_namespace: str,
        export_to: Sequence[str],
    ) -> None:
        self._client = client
        self._namespaces = namespaces
        self._root_namespace = root_namespace
        self._export_to = export_to
        self._by_namespace: dict[str, list[DestinationRule]] = {}
        for rule in rules:
            self._by_namespace.setdefault(rule.namespace, []).append(rule)
        self._found: dict[str, DestinationRule | None] = {}
        self._exported: dict[str, _Rules] = {}

    def of(self, host: str) -> DestinationRule | None:
        """The rule that holds for a service; several for one host are one. None of a host that is no service."""
        if host not in self._namespaces:
            return None
        if host not in self._found:
            self._found[host] = self._find(host)
        return self._found[host]

    def _find(self, host: str) -> DestinationRule | None:
        namespace = self._namespaces.get(host)
        own = self._client.namespace
        found = self._own_rules.most_specific(host)
        if not found and namespace is not None:
            found = self._exported_rules(namespace).most_specific(host)
        if not found:
            found = self._exported_rules(self._root_namespace).most_specific(host)
        for rule in found:
            if rule.is_broken:
                return rule  # It cannot be told whether it would be this client's.
        # Those for some workloads come first, and are of the client's own namespace.
        for rule in found:
            if rule.selector is not None and rule.namespace == own and self._client.has(rule.selector):
                return rule
        return next((rule for rule in reversed(found) if rule.selector is None), None)

    @cached_property
    def _own_rules(self) -> _Rules:
        own = self._client.namespace
        rules = self._by_namespace.get(own, [])
        if own == self._root_namespace:
            # What the root namespace has for everybody does not stand before the rules of services.
            return _Rules(_merged([rule for rule in rules if self._is_private(rule)]))
        return _Rules(_merged([rule for rule in rules if is_exported(rule.export_to, own, own)]))

    def _exported_rules(self, namespace: str) -> _Rules:
        found = self._exported.get(namespace)
        if found is None:
            rules = [one for one in self._by_namespace.get(namespace, []) if not self._is_private(one)]
            client = self._client.namespace
            exported = {
                host: [rule for rule in of_host if is_exported(rule.export_to, rule.namespace, client)]
                for host, of_host in _merged(rules).items()
            }
            found = self._exported[namespace] = _Rules(exported)
        return found

    def _is_private(self, rule: DestinationRule) -> bool:
        exported = tuple(rule.export_to or self._export_to)
        return rule.selector is not None or exported in ((_OWN,), (rule.namespace,))


def _merged(rules: Iterable[DestinationRule]) -> RulesByHost:
    """Rules of one namespace, those of one host made one: subsets are added, and the first traffic policy holds.

    One for some workloads takes up those for all that are exported alike (destination_rule.go, mergeDestinationRule).
    """
    by_host: RulesByHost = {}
    for rule in sorted(rules, key=lambda one: (one.selector is None, one.age)):
        merged, stands_alone = by_host.setdefault(rule.host, []), True
        for place, other in enumerate(merged):
            own, others = _exports(rule), _exports(other)
            stands_alone = own != others
            if stands_alone and not (others and own >= others):
                continue
            if other.selector is not None and rule.selector is not None and other.selector != rule.selector:
                stands_alone = True
                continue
            if (other.selector is None) is (rule.selector is None):
                stands_alone = False
            merged[place] = _with(other, rule)
        if stands_alone:
            merged.append(rule)
    return by_host


def _exports(rule: DestinationRule) -> frozenset[str]:
    return frozenset(rule.export_to) if rule.selector is None else frozenset([_OWN])


def _with(rule: DestinationRule, other: DestinationRule) -> DestinationRule:
    known = {subset.name for subset in rule.subsets}
    return replace(
        rule,
        subsets=(*rule.subsets, *(subset for subset in other.subsets if subset.name not in known)),
        policy=rule.policy if rule.policy is not None else other.policy,
        is_broken=rule.is_broken or other.is_broken,
    )
