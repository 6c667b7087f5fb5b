"""What ring hash and maglev share: names, weights, and a bound on the load of each endpoint.

Source: Envoy source/extensions/load_balancing_policies/common/thread_aware_lb_impl.cc.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from .endpoint import Endpoint

__all__ = ["HashedPick", "NormalizedWeights", "bounded", "hash_name"]

# Endpoints with weights that add up to 1.
NormalizedWeights = Sequence[tuple[Endpoint, float]]

# From a hash, and how many picks of the same attempt were refused before, to an endpoint.
HashedPick = Callable[[int, int], Endpoint]


def hash_name(endpoint: Endpoint, *, use_hostname: bool) -> bytes:
    """What an endpoint is placed by: `hash_key` of its `envoy.lb` metadata, its host name, or its address."""
    key = endpoint.config.metadata.get("envoy.lb", {}).get("hash_key")
    if isinstance(key, str) and key:
        return key.encode()
    if use_hostname and endpoint.config.hostname:
        return endpoint.config.hostname.encode()
    address = endpoint.address
    return (address.host if address.is_unix else endpoint.name).encode()


def bounded(pick: HashedPick, weights: NormalizedWeights, balance_factor: int) -> HashedPick:
    """The same, but an endpoint that carries more than its share times `balance_factor` percent is passed over.

    ConsistentHashingLbConfig.hash_balance_factor; "Consistent Hashing with Bounded Loads". Others are tried in an
    order that depends on the hash alone; where all are overloaded, the least overloaded one is taken.
    """
    shares = dict(weights)
    endpoints = [endpoint for endpoint, _ in weights]

    def overload(endpoint: Endpoint, total_slots: int) -> float:
        return endpoint.active_requests / max(math.ceil(total_slots * shares[endpoint]), 1)

    def pick_bounded(key: int, pick_number: int) -> Endpoint:
        first = best = pick(key, pick_number)
        cluster = first.cluster
        active = cluster.breaker.requests + cluster.high_breaker.requests
        total_slots = ((active + 1) * balance_factor + 99) // 100
        least = overload(first, total_slots)
        if least <= 1.0:
            return first
        for other in _shuffled(endpoints, key):
            if other is first:
                continue
            load = overload(other, total_slots)
            if load <= 1.0:
                return other
            if load < least:
                best, least = other, load
        return best

    return pick_bounded


def _shuffled(endpoints: Sequence[Endpoint], key: int) -> Sequence[Endpoint]:
    """Fisher-Yates with a Mersenne Twister that is seeded as C++'s std::mt19937 is, so that Envoy's order comes out."""
    twister = _mersenne_twister(key & 0xFFFFFFFF)
    order = list(endpoints)
    size = len(order)
    for index in range(size):
        other = index + _below(twister, size - index)
        order[index], order[other] = order[other], order[index]
    return order


def _below(twister: random.Random, limit: int) -> int:
    step = (1 << 32) // limit
    while (number := twister.getrandbits(32) // step) >= limit:
        pass
    return number


def _mersenne_twister(seed: int) -> random.Random:
    # Python seeds by another function; the state is the same 624 words.
    words = [seed]
    for index in range(1, 624):
        words.append((1812433253 * (words[-1] ^ (words[-1] >> 30)) + index) & 0xFFFFFFFF)
    twister = random.Random()
    twister.setstate((3, (*words, 624), None))
    return twister
