"""Endpoints whose metadata fits the route's (Envoy docs, load_balancing/subsets).

For each selector, endpoints that have all of its keys form a subset for each combination of their values. A route
whose metadata_match has exactly a selector's keys finds its subset by one look-up; where there is none, the selector's
fallback, then the cluster's, says what happens (source/extensions/load_balancing_policies/subset/subset_lb.cc).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product

from ..resources.cluster import Subset, SubsetFallback, SubsetSelector
from ..resources.values import Metadatum, frozen
from .context import MetadataMatch, PickContext
from .endpoint import Endpoint
from .host_set import HostSet

__all__ = ["SubsetPicker"]

Pick = Callable[[PickContext], Endpoint | None]
MakePick = Callable[[Sequence[HostSet]], Pick]

_FALLBACK_LIST = "fallback_list"


class SubsetPicker:
    """Picks from the subset that fits a request.

    Args:
        policy: Selectors and fallbacks.
        host_sets: All endpoints by priority.
        make_pick: Makes the choice over priorities from host sets.
    """

    __slots__ = ("_any", "_by_keys", "_default", "_fallback", "_policy", "_subsets")

    def __init__(self, policy: Subset, host_sets: Sequence[HostSet], make_pick: MakePick) -> None:
        self._policy = policy
        self._by_keys = {selector.keys: selector for selector in policy.selectors}
        members: dict[MetadataMatch, set[Endpoint]] = {}
        for hosts in host_sets:
            for locality in hosts.localities:
                for endpoint in locality.endpoints:
                    for criteria in _criteria_of(endpoint, policy):
                        members.setdefault(criteria, set()).add(endpoint)

        def restricted(keep: Callable[[Endpoint], bool]) -> Pick:
            return make_pick(
                [
                    hosts.restricted(
                        keep, aware_of_localities=policy.locality_weight_aware, scale=policy.scale_locality_weight
                    )
                    for hosts in host_sets
                ]
            )

        self._subsets = {criteria: restricted(some.__contains__) for criteria, some in members.items()}
        self._any = make_pick(host_sets)
        self._default = restricted(lambda endpoint: _carries(endpoint, policy.default, policy.list_as_any))
        self._fallback = self._named(policy.fallback)

    def pick(self, context: PickContext) -> Endpoint | None:
        """An endpoint for a request, or None where none fits."""
        criteria = context.metadata_match
        if self._policy.fallback_list:
            alternatives = dict(criteria).get(_FALLBACK_LIST)
            if isinstance(alternatives, tuple) and alternatives:
                kept = {key: value for key, value in criteria if key != _FALLBACK_LIST}
                return self._first_of(alternatives, kept, context)
        return self._choose(criteria, context)

    def _first_of(
        self, alternatives: Iterable[Metadatum], kept: dict[str, Metadatum], context: PickContext
    ) -> Endpoint | None:
        """LbSubsetConfig.metadata_fallback_policy: each item takes the place of the same keys of the route."""
        for alternative in alternatives:
            if isinstance(alternative, frozenset):
                endpoint = self._choose(_sorted(kept | dict(alternative)), context)
                if endpoint is not None:
                    return endpoint
        return None

    def _choose(self, criteria: MetadataMatch, context: PickContext) -> Endpoint | None:
        if self._policy.allow_redundant_keys and criteria:
            criteria = self._without_redundant_keys(criteria)
        if criteria:
            subset = self._subsets.get(criteria)
            if subset is not None:
                return subset(context)
            selector = self._by_keys.get(tuple(key for key, _ in criteria))
            if selector is not None and selector.fallback is not SubsetFallback.NOT_DEFINED:
                return self._fall_back(selector, criteria, context)
        if self._fallback is None:
            return None
        endpoint = self._fallback(context)
        return self._any(context) if endpoint is None and self._policy.panic_mode_any else endpoint

    def _fall_back(self, selector: SubsetSelector, criteria: MetadataMatch, context: PickContext) -> Endpoint | None:
        if selector.fallback is SubsetFallback.KEYS_SUBSET:
            return self._choose(tuple(one for one in criteria if one[0] in selector.fallback_keys), context)
        pick = self._named(selector.fallback)
        return pick(context) if pick is not None else None

    def _named(self, fallback: SubsetFallback) -> Pick | None:
        if fallback is SubsetFallback.ANY_ENDPOINT:
            return self._any
        return self._default if fallback is SubsetFallback.DEFAULT_SUBSET else None

    def _without_redundant_keys(self, criteria: MetadataMatch) -> MetadataMatch:
        given = dict(criteria)
        for selector in self._policy.selectors:
            if all(key in given for key in selector.keys):
                return tuple((key, given[key]) for key in selector.keys)
        return criteria


def _values(endpoint: Endpoint) -> dict[str, Metadatum]:
    return {key: frozen(value) for key, value in endpoint.config.metadata.get("envoy.lb", {}).items()}


def _criteria_of(endpoint: Endpoint, policy: Subset) -> Iterable[MetadataMatch]:
    """The criteria of every subset that an endpoint is part of."""
    values = _values(endpoint)
    for selector in policy.selectors:
        if all(key in values for key in selector.keys):
            yield from product(
                *([(key, value) for value in _each(values[key], policy.list_as_any)] for key in selector.keys)
            )


def _each(value: Metadatum, list_as_any: bool) -> Sequence[Metadatum]:
    return value if list_as_any and isinstance(value, tuple) and value[:1] != ("bool",) else (value,)


def _carries(endpoint: Endpoint, criteria: MetadataMatch, list_as_any: bool) -> bool:
    values = _values(endpoint)
    return all(key in values and value in _each(values[key], list_as_any) for key, value in criteria)


def _sorted(values: dict[str, Metadatum]) -> MetadataMatch:
    return tuple(sorted(values.items(), key=lambda item: item[0]))
