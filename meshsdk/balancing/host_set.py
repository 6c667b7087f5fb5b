"""The endpoints of one priority: who is available, and which locality's turn it is.

Sources: Envoy docs, upstream/load_balancing/{priority, locality_weight, panic_threshold}; Envoy
source/common/upstream/upstream_impl.cc (HostSetImpl::effectiveLocalityWeight).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from ..node import Locality
from ..resources import LbPolicy
from .edf import EdfScheduler
from .endpoint import Endpoint
from .policies import PickOne, is_hashed, make_policy, normalized

__all__ = ["HostSet", "HostSetSettings", "LocalityHosts"]


class LocalityHosts(Struct, frozen=True):
    """The endpoints of one locality at one priority; weight None was not set and counts as 0."""

    locality: Locality
    weight: float | None
    endpoints: tuple[Endpoint, ...]


class HostSetSettings(Struct, frozen=True):
    """How a host set chooses.

    Attributes:
        policy: Among the endpoints of a list.
        overprovisioning_factor: In percent.
        locality_weighted: Localities have turns by weight; otherwise all endpoints are one list.
        weighted_health: Availability counts weights instead of endpoints.
        fail_traffic_on_panic: In panic nobody is picked, instead of anybody.
        only_healthy: Endpoints that the control plane calls worse than healthy do not count at all.
        ignore_unchecked: Endpoints that wait for their first health check do not count at all.
        random_fraction: Uniform in [0, 1).
        clock: In seconds, only ever forward.
    """

    policy: LbPolicy
    overprovisioning_factor: int
    locality_weighted: bool
    weighted_health: bool
    fail_traffic_on_panic: bool
    only_healthy: bool
    ignore_unchecked: bool
    random_fraction: Callable[[], float]
    clock: Callable[[], float]


Available = Callable[[Endpoint], bool]


class HostSet:
    """One priority of a cluster.

    Args:
        localities: Its endpoints by locality.
        settings: How it chooses.

    Attributes:
        localities: All of them.
        usable: Those endpoints of them that may get traffic at all.
        size, healthy, degraded: How many endpoints count, and are healthy and degraded; or their weights.
        pick: Picks a healthy endpoint; None where there is none.
        pick_degraded: Picks a degraded one.
        pick_in_panic: Picks any, whatever its health.
    """

    __slots__ = (
        "degraded",
        "healthy",
        "localities",
        "pick",
        "pick_degraded",
        "pick_in_panic",
        "settings",
        "size",
        "usable",
    )

    def __init__(self, localities: Sequence[LocalityHosts], settings: HostSetSettings) -> None:
        self.localities = tuple(localities)
        self.settings = settings
        self.usable = localities = _called_healthy(localities) if settings.only_healthy else self.localities
        everyone = [endpoint for locality in localities for endpoint in locality.endpoints]
        # Envoy: endpoints that are draining do not count at all, nor do those that wait for their first check.
        counted = [one for one in everyone if not one.is_draining]
        if settings.ignore_unchecked:
            counted = [one for one in counted if one.is_checked]
        healthy = [endpoint for endpoint in counted if endpoint.is_healthy]
        degraded = [endpoint for endpoint in counted if endpoint.is_degraded]
        count = _total_weight if settings.weighted_health else len
        self.size = count(counted)
        self.healthy = count(healthy)
        self.degraded = count(degraded)
        hashed = is_hashed(settings.policy)
        weighted = settings.locality_weighted and any(locality.weight for locality in localities)
        self.pick: PickOne | None
        self.pick_degraded: PickOne | None
        if weighted:
            choose = _on_one_ring if hashed else _by_locality
            self.pick = choose(localities, lambda endpoint: endpoint.is_healthy, settings)
            self.pick_degraded = choose(localities, lambda endpoint: endpoint.is_degraded, settings)
        else:
            self.pick = _policy(healthy, settings)
            self.pick_degraded = _policy(degraded, settings)
        if settings.fail_traffic_on_panic:
            self.pick_in_panic: PickOne | None = None
        elif len(healthy) == len(everyone) and not weighted:
            self.pick_in_panic = self.pick
        elif hashed and weighted:
            self.pick_in_panic = _on_one_ring(localities, lambda endpoint: True, settings)
        else:
            # In panic localities do not count: Envoy balances over all hosts of the priority.
            self.pick_in_panic = _policy(everyone, settings)

    def restricted(self, keep: Available, *, aware_of_localities: bool, scale: bool) -> HostSet:
        """The same with some of the endpoints, for a subset.

        Args:
            keep: Which.
            aware_of_localities: Whether localities keep their weights.
            scale: Whether these shrink with the share of endpoints that is kept.
        """
        localities = []
        for locality in self.localities:
            kept = tuple(endpoint for endpoint in locality.endpoints if keep(endpoint))
            weight = locality.weight if aware_of_localities else None
            if weight and scale and locality.endpoints:
                weight = weight * len(kept) / len(locality.endpoints)
            localities.append(LocalityHosts(locality.locality, weight, kept))
        return HostSet(localities, self.settings)


def _called_healthy(localities: Iterable[LocalityHosts]) -> tuple[LocalityHosts, ...]:
    return tuple(
        replace(locality, endpoints=tuple(one for one in locality.endpoints if one.is_called_healthy))
        for locality in localities
    )


def _total_weight(endpoints: Iterable[Endpoint]) -> int:
    return sum(endpoint.weight for endpoint in endpoints)


def _policy(endpoints: Sequence[Endpoint], settings: HostSetSettings) -> PickOne | None:
    if not endpoints:
        return None
    return make_policy(settings.policy, endpoints, settings.random_fraction, settings.clock)


def _by_locality(
    localities: Sequence[LocalityHosts], available: Available, settings: HostSetSettings
) -> PickOne | None:
    """A locality by its effective weight, then an available endpoint of it."""
    turns: list[tuple[float, PickOne]] = []
    for locality in localities:
        chosen = [endpoint for endpoint in locality.endpoints if available(endpoint)]
        if not chosen or not locality.weight:
            continue
        # A locality keeps its full weight as long as overprovisioning makes up for those that are not available.
        share = min(1.0, settings.overprovisioning_factor / 100 * len(chosen) / len(locality.endpoints))
        pick = make_policy(settings.policy, chosen, settings.random_fraction, settings.clock)
        turns.append((locality.weight * share, pick))
    if not turns:
        return None
    if len(turns) == 1:
        return turns[0][1]
    scheduler = EdfScheduler(turns, lambda turn: turn[0])
    scheduler.advance(int(settings.random_fraction() * len(turns)))
    first = turns[0]
    return lambda context: (scheduler.pick() or first)[1](context)


def _on_one_ring(
    localities: Sequence[LocalityHosts], available: Available, settings: HostSetSettings
) -> PickOne | None:
    """All endpoints in one ring or table, each with its share of its locality's share (normalizeLocalityWeights)."""
    total = sum(locality.weight or 0 for locality in localities)
    weights: list[tuple[Endpoint, float]] = []
    for locality in localities:
        chosen = [endpoint for endpoint in locality.endpoints if available(endpoint)]
        if chosen and locality.weight:
            weights += normalized(chosen, locality.weight / total)
    if not weights:
        return None
    endpoints = [endpoint for endpoint, _ in weights]
    return make_policy(settings.policy, endpoints, settings.random_fraction, settings.clock, weights)
