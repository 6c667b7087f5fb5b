"""The endpoints of one priority: who is available, and which locality's turn it is.

Sources: Envoy docs, upstream/load_balancing/{priority, locality_weight, panic_threshold}; Envoy
source/common/upstream/upstream_impl.cc (HostSetImpl::effectiveLocalityWeight).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..bootstrap import Locality
from ..resources import LbPolicy
from .edf import EdfScheduler
from .endpoint import Endpoint
from .policies import PickOne, make_policy

__all__ = ["HostSet", "LocalityHosts"]

RandomFraction = Callable[[], float]


@dataclass(frozen=True, slots=True)
class LocalityHosts:
    """The endpoints of one locality at one priority; weight None was not set and counts as 0."""

    locality: Locality
    weight: int | None
    endpoints: tuple[Endpoint, ...]


class HostSet:
    """One priority of a cluster.

    Args:
        localities: Its endpoints by locality.
        policy: How one endpoint of a list is chosen.
        overprovisioning_factor: In percent.
        locality_weighted: Whether localities have turns by weight; otherwise all endpoints are one list.
        random_fraction: Uniform in [0, 1).

    Attributes:
        pick: Picks a healthy endpoint; None where there is none.
        pick_degraded: Picks a degraded one.
        pick_in_panic: Picks any, whatever its health.
    """

    __slots__ = (
        "degraded_count",
        "healthy_count",
        "localities",
        "pick",
        "pick_degraded",
        "pick_in_panic",
        "size",
    )

    def __init__(
        self,
        localities: Sequence[LocalityHosts],
        policy: LbPolicy,
        overprovisioning_factor: int,
        locality_weighted: bool,
        random_fraction: RandomFraction,
    ) -> None:
        self.localities = tuple(localities)
        weighted = locality_weighted and any(locality.weight for locality in localities)
        everyone = [endpoint for locality in localities for endpoint in locality.endpoints]
        self.size = len(everyone)
        self.healthy_count = sum(endpoint.is_healthy for endpoint in everyone)
        self.degraded_count = sum(endpoint.is_degraded for endpoint in everyone)

        def picker(available: Callable[[Endpoint], bool]) -> PickOne | None:
            if weighted:
                return _by_locality(localities, available, policy, overprovisioning_factor, random_fraction)
            chosen = [endpoint for endpoint in everyone if available(endpoint)]
            return make_policy(policy, chosen, random_fraction) if chosen else None

        self.pick = picker(lambda endpoint: endpoint.is_healthy)
        self.pick_degraded = picker(lambda endpoint: endpoint.is_degraded) if self.degraded_count else None
        if self.healthy_count == self.size and not weighted:
            self.pick_in_panic = self.pick
        else:
            # In panic localities do not count: Envoy balances over all hosts of the priority.
            self.pick_in_panic = make_policy(policy, everyone, random_fraction) if everyone else None


def _by_locality(
    localities: Sequence[LocalityHosts],
    available: Callable[[Endpoint], bool],
    policy: LbPolicy,
    overprovisioning_factor: int,
    random_fraction: RandomFraction,
) -> PickOne | None:
    """A locality by its effective weight, then an available endpoint of it."""
    turns: list[tuple[float, PickOne]] = []
    for locality in localities:
        chosen = [endpoint for endpoint in locality.endpoints if available(endpoint)]
        if not chosen or not locality.weight:
            continue
        # A locality keeps its full weight as long as overprovisioning makes up for those that are not available.
        share = min(1.0, overprovisioning_factor / 100 * len(chosen) / len(locality.endpoints))
        turns.append((locality.weight * share, make_policy(policy, chosen, random_fraction)))
    if not turns:
        return None
    if len(turns) == 1:
        return turns[0][1]
    scheduler = EdfScheduler(turns, lambda turn: turn[0])
    scheduler.advance(int(random_fraction() * len(turns)))
    first = turns[0]
    return lambda random_fraction: (scheduler.pick() or first)[1](random_fraction)
