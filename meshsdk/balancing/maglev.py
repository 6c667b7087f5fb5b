"""Endpoints in a table of prime size (Envoy docs, load_balancers, Maglev; NSDI 2016, listing 1).

Every endpoint has its own order of the table's slots; in turns, weighted, each takes the first free slot of its
order. A request goes to the slot of its hash. The same resources and the same hash lead to the same endpoint as in
Envoy.
"""

from __future__ import annotations

import xxhash

from ..resources.cluster import Maglev
from .endpoint import Endpoint
from .hashing import HashedPick, NormalizedWeights, hash_name

__all__ = ["make_table"]

_64_BITS = (1 << 64) - 1


def make_table(policy: Maglev, weights: NormalizedWeights) -> HashedPick:
    """A function from a hash to an endpoint.

    Args:
        policy: Size of the table.
        weights: Endpoints with weights that add up to 1; at least one.
    """
    size = policy.table_size
    table = _fill(size, weights, use_hostname=policy.common.use_hostname)

    def pick(key: int, pick_number: int) -> Endpoint:
        if pick_number:
            # Another slot far away for another pick of one attempt.
            key ^= (_64_BITS - pick_number + 1) & _64_BITS
        return table[key % size]

    return pick


def _fill(size: int, weights: NormalizedWeights, *, use_hostname: bool) -> list[Endpoint]:
    named = sorted(
        ((hash_name(endpoint, use_hostname=use_hostname), index) for index, (endpoint, _) in enumerate(weights)),
    )
    endpoints = [weights[index][0] for _, index in named]
    shares = [weights[index][1] for _, index in named]
    positions = [xxhash.xxh64_intdigest(name) % size for name, _ in named]
    skips = [xxhash.xxh64_intdigest(name, 1) % (size - 1) + 1 for name, _ in named]
    largest = max(shares)
    targets = [0.0] * len(named)
    table: list[Endpoint | None] = [None] * size
    filled, turn = 0, 0
    everyone = range(len(named))
    while True:
        turn += 1
        for index in everyone:
            # An endpoint of a third of the largest weight takes a slot in every third turn.
            if turn * shares[index] < targets[index]:
                continue
            targets[index] += largest
            position, skip = positions[index], skips[index]
            while table[position] is not None:
                position = (position + skip) % size
            table[position] = endpoints[index]
            positions[index] = (position + skip) % size
            filled += 1
            if filled == size:
                return [endpoint for endpoint in table if endpoint is not None]
