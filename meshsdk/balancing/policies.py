"""Policies: one endpoint of a list (Envoy docs, upstream/load_balancing/load_balancers).

Each is a function that was made for one list and remembers its own turn. Lists are never empty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import count

from ..resources import LbPolicy, LeastRequest, Random
from .edf import EdfScheduler
from .endpoint import Endpoint

__all__ = ["PickOne", "make_policy"]

RandomFraction = Callable[[], float]
PickOne = Callable[[RandomFraction], Endpoint]

# Envoy starts each worker at a random turn; past a few hundred more turns change nothing that could be seen.
_MAX_RANDOM_START = 256


def make_policy(policy: LbPolicy, endpoints: Sequence[Endpoint], random_fraction: RandomFraction) -> PickOne:
    """The policy's choice among `endpoints`.

    Args:
        policy: Which policy.
        endpoints: At least one.
        random_fraction: Uniform in [0, 1); chooses the first turn.
    """
    if len(endpoints) == 1:
        only = endpoints[0]
        return lambda random_fraction: only
    weighted = len({endpoint.weight for endpoint in endpoints}) > 1
    if isinstance(policy, Random):
        # Envoy's random does not look at weights.
        return _random_choice(tuple(endpoints))
    if isinstance(policy, LeastRequest):
        if weighted:
            return _weighted_least_request(endpoints, policy, random_fraction)
        return _least_request(tuple(endpoints), policy)
    if weighted:
        return _weighted_round_robin(endpoints, random_fraction)
    return _round_robin(tuple(endpoints), random_fraction)


def _random_choice(endpoints: tuple[Endpoint, ...]) -> PickOne:
    size = len(endpoints)
    return lambda random_fraction: endpoints[int(random_fraction() * size)]


def _round_robin(endpoints: tuple[Endpoint, ...], random_fraction: RandomFraction) -> PickOne:
    size = len(endpoints)
    turn = partial(next, count(int(random_fraction() * size)))
    return lambda random_fraction: endpoints[turn() % size]


def _weighted_round_robin(endpoints: Sequence[Endpoint], random_fraction: RandomFraction) -> PickOne:
    scheduler = EdfScheduler(endpoints, lambda endpoint: endpoint.weight)
    scheduler.advance(int(random_fraction() * min(len(endpoints), _MAX_RANDOM_START)))
    return _by_turns(scheduler, tuple(endpoints))


def _least_request(endpoints: tuple[Endpoint, ...], policy: LeastRequest) -> PickOne:
    """The least busy of a few chosen at random ("power of two choices")."""
    size, choices = len(endpoints), policy.choice_count

    def pick(random_fraction: RandomFraction) -> Endpoint:
        best = endpoints[int(random_fraction() * size)]
        for _ in range(choices - 1):
            other = endpoints[int(random_fraction() * size)]
            if other.active_requests < best.active_requests:
                best = other
        return best

    return pick


def _weighted_least_request(
    endpoints: Sequence[Endpoint], policy: LeastRequest, random_fraction: RandomFraction
) -> PickOne:
    """Weighted turns with weight / (active requests + 1) ** bias (LeastRequestLbConfig.active_request_bias)."""
    bias = policy.active_request_bias

    def weight(endpoint: Endpoint) -> float:
        return float(endpoint.weight / (endpoint.active_requests + 1) ** bias)

    scheduler = EdfScheduler(endpoints, weight)
    scheduler.advance(int(random_fraction() * min(len(endpoints), _MAX_RANDOM_START)))
    return _by_turns(scheduler, tuple(endpoints))


def _by_turns(scheduler: EdfScheduler[Endpoint], endpoints: tuple[Endpoint, ...]) -> PickOne:
    size = len(endpoints)

    def pick(random_fraction: RandomFraction) -> Endpoint:
        # With more threads than endpoints, all may be out of the heap for an instant.
        return scheduler.pick() or endpoints[int(random_fraction() * size)]

    return pick
