"""Which priority gets a request, and whether it is in panic.

Theory of operation (Envoy docs, upstream/load_balancing/{priority, degraded, panic_threshold}; Envoy
source/extensions/load_balancing_policies/common/load_balancer_impl.cc, recalculatePerPriorityState):

- The availability of a priority is its share of healthy endpoints times the overprovisioning factor, at most 100.
- Each priority in turn takes of the traffic what it can, until 100 percent are given; degraded endpoints come after
  the healthy ones of all priorities. If all together have less than 100, the loads are scaled up to it.
- A priority is in panic when all together have less than 100 and its own share of healthy and degraded endpoints is
  below the panic threshold: then its endpoints are picked whatever their health.
- If nothing is available anywhere, each priority gets traffic by its size, in panic; with panic switched off (0),
  priority 0 gets all and has no one to send to.

Integer arithmetic as Envoy's, so that the same numbers come out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from .context import PickContext
from .endpoint import Endpoint
from .host_set import HostSet
from .policies import PickOne

__all__ = ["PriorityPicker"]


class PriorityPicker:
    """Picks an endpoint over all priorities.

    Args:
        host_sets: By priority, the highest first.
        panic_threshold: In percent; 0 switches panic off.
        hashed: The request's hash chooses the priority, too.

    Attributes:
        pick: From a random number in [0, 1) to an endpoint, or None where the priority that it falls on has none.
        healthy_loads, degraded_loads: Percent of the traffic by priority.
        in_panic: By priority.
    """

    __slots__ = (
        "_availability",
        "_hashed",
        "_host_sets",
        "_shares",
        "degraded_loads",
        "healthy_loads",
        "in_panic",
        "pick",
    )

    def __init__(self, host_sets: Sequence[HostSet], panic_threshold: float, *, hashed: bool = False) -> None:
        self._host_sets = host_sets
        self._hashed = hashed
        healthy = self._availability = [
            _availability(hosts.healthy, hosts.size, hosts.settings.overprovisioning_factor) for hosts in host_sets
        ]
        degraded = [
            _availability(hosts.degraded, hosts.size, hosts.settings.overprovisioning_factor) for hosts in host_sets
        ]
        total = min(100, sum(healthy) + sum(degraded))
        self.in_panic = [
            panic_threshold > 0 and total < 100 and _in_panic(hosts, panic_threshold) for hosts in host_sets
        ]
        if total:
            self.healthy_loads, self.degraded_loads = _loads(healthy, degraded, total)
        else:
            self.in_panic = [panic_threshold > 0] * len(host_sets)
            self.healthy_loads = _loads_without_health([hosts.size for hosts in host_sets], panic_threshold > 0)
            self.degraded_loads = [0] * len(host_sets)
        self._shares = self._cumulate(host_sets)
        self.pick: Callable[[PickContext], Endpoint | None]
        # Where all traffic goes to one list, as is usual, picking is that list's own function and nothing around it.
        self.pick = (self._shares[0][1] or _nobody) if len(self._shares) == 1 else self._pick_by_share

    def _cumulate(self, host_sets: Sequence[HostSet]) -> list[tuple[int, PickOne | None]]:
        """Upper bounds of each priority's share of 100, and how to pick there."""
        shares: list[tuple[int, PickOne | None]] = []
        bound = 0
        for loads, is_degraded in ((self.healthy_loads, False), (self.degraded_loads, True)):
            for hosts, load, panic in zip(host_sets, loads, self.in_panic, strict=True):
                if load:
                    bound += load
                    pick = hosts.pick_in_panic if panic else hosts.pick_degraded if is_degraded else hosts.pick
                    shares.append((bound, pick))
        return shares

    def _pick_by_share(self, context: PickContext) -> Endpoint | None:
        if self._hashed and context.hash_key is not None:
            point: float = context.hash_key % 100
        else:
            point = context.random_fraction() * 100
        for bound, pick in self._shares:
            if point < bound:
                return pick(context) if pick is not None else None
        return None

    def pick_elsewhere(self, context: PickContext, tried: Collection[int]) -> Endpoint | None:
        """Pick from a priority that was not tried yet; from any where all were, or none else is available.

        RetryPolicy.retry_priority with previous_priorities: the healthy loads are worked out without those tried.
        """
        left = [0 if index in tried else one for index, one in enumerate(self._availability)]
        if not any(left):
            return self.pick(context)
        loads, _ = _loads(left, [0] * len(left), min(100, sum(left)))
        point = context.random_fraction() * 100
        for hosts, load, panic in zip(self._host_sets, loads, self.in_panic, strict=True):
            if point < load:
                pick = hosts.pick_in_panic if panic else hosts.pick
                return pick(context) if pick is not None else None
            point -= load
        return None


def _nobody(context: PickContext) -> None:
    """Picks nobody: the only list that may be picked from is empty."""


def _availability(available: int, size: int, factor: int) -> int:
    return min(100, factor * available // size) if size else 0


def _in_panic(hosts: HostSet, threshold: float) -> bool:
    if not hosts.size:
        return True
    return 100.0 * (hosts.healthy + hosts.degraded) / hosts.size < threshold


def _loads(healthy: Sequence[int], degraded: Sequence[int], total: int) -> tuple[list[int], list[int]]:
    """Percent of the traffic by priority, to healthy and to degraded endpoints; together 100."""
    remaining = 100
    tiers: list[list[int]] = []
    for tier in (healthy, degraded):
        loads = []
        for availability in tier:
            load = min(remaining, availability * 100 // total)
            loads.append(load)
            remaining -= load
        tiers.append(loads)
    if remaining:
        # What rounding left goes to the first priority that takes any.
        loads = next(tier for tier in tiers if any(tier))
        loads[next(index for index, load in enumerate(loads) if load)] += remaining
    return tiers[0], tiers[1]


def _loads_without_health(sizes: Sequence[int], panic: bool) -> list[int]:
    total = sum(sizes)
    if not panic or not total:
        return [100] + [0] * (len(sizes) - 1)
    loads = [100 * size // total for size in sizes]
    loads[next(index for index, size in enumerate(sizes) if size)] += 100 - sum(loads)
    return loads
