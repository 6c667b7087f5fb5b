"""Policies: one endpoint of a list (Envoy docs, upstream/load_balancing/load_balancers).

Each is a function that was made for one list and remembers its own turn. Lists are never empty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, count, islice
from operator import attrgetter

from ..resources.cluster import (
    ClientSideWeightedRoundRobin,
    LbPolicy,
    LeastRequest,
    Maglev,
    OverrideHost,
    PickFirst,
    Random,
    RingHash,
    RoundRobin,
    SlowStart,
    Subset,
)
from .client_weights import current_weights
from .context import PickContext
from .edf import EdfScheduler
from .endpoint import Endpoint
from .hashing import HashedPick, NormalizedWeights, bounded
from .maglev import make_table
from .ring_hash import make_ring
from .slow_start import slow_start_weight

__all__ = ["PickOne", "is_hashed", "make_policy", "normalized"]

Clock = Callable[[], float]

# Envoy starts each worker at a random turn; past a few hundred more turns change nothing that could be seen.
_MAX_RANDOM_START = 256

PickOne = Callable[[PickContext], Endpoint]


def is_hashed(policy: LbPolicy) -> bool:
    """Whether a policy picks by the request's hash."""
    inner = policy.inner if isinstance(policy, Subset) else policy
    return isinstance(inner, (RingHash, Maglev))


def make_policy(
    policy: LbPolicy,
    endpoints: Sequence[Endpoint],
    random_fraction: Callable[[], float],
    clock: Clock,
    weights: NormalizedWeights | None = None,
) -> PickOne:
    """The policy's choice among `endpoints`.

    Args:
        policy: Which policy.
        endpoints: At least one.
        random_fraction: Uniform in [0, 1); chooses the first turn.
        clock: In seconds, only ever forward.
        weights: For policies that hash, where localities weigh; by default endpoints' own weights.
    """
    if len(endpoints) == 1:
        only = endpoints[0]
        return lambda context: only
    match policy:
        case RingHash() | Maglev():
            return _by_hash(policy, weights or normalized(endpoints))
        case Random():
            return _random_choice(tuple(endpoints))
        case PickFirst(shuffle=shuffle):
            first = endpoints[int(random_fraction() * len(endpoints))] if shuffle else endpoints[0]
            return lambda context: first
        case LeastRequest():
            return _least_request(policy, endpoints, random_fraction, clock)
        case ClientSideWeightedRoundRobin():
            return _by_reports(policy, tuple(endpoints), random_fraction, clock)
        case RoundRobin(slow_start=slow_start):
            return _round_robin(slow_start_of(slow_start, endpoints, clock), endpoints, random_fraction)
        case OverrideHost(fallback=fallback) | Subset(inner=fallback):
            return make_policy(fallback, endpoints, random_fraction, clock, weights)


def normalized(endpoints: Sequence[Endpoint], share: float = 1.0) -> NormalizedWeights:
    """Endpoints with weights that add up to `share`."""
    total = sum(endpoint.weight for endpoint in endpoints)
    return [(endpoint, endpoint.weight * share / total) for endpoint in endpoints]


def _by_hash(policy: RingHash | Maglev, weights: NormalizedWeights) -> PickOne:
    pick: HashedPick = make_ring(policy, weights) if isinstance(policy, RingHash) else make_table(policy, weights)
    if policy.common.balance_factor:
        pick = bounded(pick, weights, policy.common.balance_factor)

    def by_hash(context: PickContext) -> Endpoint:
        key = context.hash_key
        if key is None:
            # Envoy: without a hash any number will do.
            key = int(context.random_fraction() * (1 << 53)) << 11
        return pick(key, context.pick_number)

    return by_hash


def _random_choice(endpoints: tuple[Endpoint, ...]) -> PickOne:
    size = len(endpoints)
    return lambda context: endpoints[int(context.random_fraction() * size)]


Weight = Callable[[Endpoint], float]


def slow_start_of(slow_start: SlowStart | None, endpoints: Sequence[Endpoint], clock: Clock) -> Weight | None:
    """The weight of endpoints, or None where all weigh the same for good."""
    if slow_start is not None:
        return slow_start_weight(slow_start, clock)
    if len({endpoint.weight for endpoint in endpoints}) > 1:
        return _configured_weight
    return None


def _configured_weight(endpoint: Endpoint) -> float:
    return endpoint.weight


def _round_robin(weight: Weight | None, endpoints: Sequence[Endpoint], random_fraction: Callable[[], float]) -> PickOne:
    if weight is not None:
        return _by_turns(weight, endpoints, random_fraction)
    everyone, size = tuple(endpoints), len(endpoints)
    turn = partial(next, count(int(random_fraction() * size)))
    return lambda context: everyone[turn() % size]


def _by_turns(weight: Weight, endpoints: Sequence[Endpoint], random_fraction: Callable[[], float]) -> PickOne:
    """Weighted turns."""
    scheduler = EdfScheduler(endpoints, weight)
    scheduler.advance(int(random_fraction() * min(len(endpoints), _MAX_RANDOM_START)))
    everyone, size = tuple(endpoints), len(endpoints)

    def pick(context: PickContext) -> Endpoint:
        # With more threads than endpoints, all may be out of the heap for an instant.
        return scheduler.pick() or everyone[int(context.random_fraction() * size)]

    return pick


def _least_request(
    policy: LeastRequest, endpoints: Sequence[Endpoint], random_fraction: Callable[[], float], clock: Clock
) -> PickOne:
    base = slow_start_of(policy.slow_start, endpoints, clock)
    if base is not None:
        weight, bias = base, policy.active_request_bias
        # LeastRequestLbConfig.active_request_bias: weighted turns with weight / (active requests + 1) ** bias.
        return _by_turns(
            lambda endpoint: weight(endpoint) / (endpoint.active_requests + 1) ** bias, endpoints, random_fraction
        )
    everyone = tuple(endpoints)
    return _least_of_all(everyone) if policy.full_scan else _least_of_some(everyone, policy.choice_count)


def _least_of_some(endpoints: tuple[Endpoint, ...], choices: int) -> PickOne:
    """The least busy of a few chosen at random ("power of two choices")."""
    size = len(endpoints)

    def pick(context: PickContext) -> Endpoint:
        random_fraction = context.random_fraction
        best = endpoints[int(random_fraction() * size)]
        for _ in range(choices - 1):
            other = endpoints[int(random_fraction() * size)]
            if other.active_requests < best.active_requests:
                best = other
        return best

    return pick


def _least_of_all(endpoints: tuple[Endpoint, ...]) -> PickOne:
    """The least busy of all; chance decides among equals (SelectionMethod.FULL_SCAN)."""
    busy = attrgetter("active_requests")
    size = len(endpoints)

    def pick(context: PickContext) -> Endpoint:
        start = int(context.random_fraction() * size)
        return min(islice(chain(islice(endpoints, start, None), endpoints), size), key=busy)

    return pick


def _by_reports(
    policy: ClientSideWeightedRoundRobin,
    endpoints: tuple[Endpoint, ...],
    random_fraction: Callable[[], float],
    clock: Clock,
) -> PickOne:
    """Turns by reported weights, which are taken over every `update_seconds`."""
    due = clock() + policy.update_seconds
    turns = _by_turns(current_weights(policy, endpoints, clock()).__getitem__, endpoints, random_fraction)

    def pick(context: PickContext) -> Endpoint:
        nonlocal due, turns
        now = clock()
        if now >= due:
            due = now + policy.update_seconds
            turns = _by_turns(current_weights(policy, endpoints, now).__getitem__, endpoints, random_fraction)
        return turns(context)

    return pick
