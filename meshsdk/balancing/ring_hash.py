"""Endpoints on a ring (Envoy docs, load_balancers, ring hash; source/extensions/load_balancing_policies/ring_hash).

Each endpoint stands on the ring at as many places as its weight asks for; a place is the hash of its address, an
underscore and a number. A request goes to the first place at or after its own hash. The same resources and the same
hash lead to the same endpoint as in Envoy.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

import xxhash

from ..resources.cluster import HashFunction, RingHash
from .endpoint import Endpoint
from .hashing import HashedPick, NormalizedWeights, hash_name
from .murmur_hash import murmur_hash_2

__all__ = ["make_ring"]


def make_ring(policy: RingHash, weights: NormalizedWeights) -> HashedPick:
    """A function from a hash to an endpoint.

    Args:
        policy: Sizes and hash function.
        weights: Endpoints with weights that add up to 1; at least one.
    """
    least = min(weight for _, weight in weights)
    # Scaled so that the lightest endpoint has a whole number of places.
    scale = min(math.ceil(least * policy.minimum_ring_size) / least, float(policy.maximum_ring_size))
    places: list[tuple[int, int]] = []
    target = 0.0
    for index, (endpoint, weight) in enumerate(weights):
        target += scale * weight
        prefix = hash_name(endpoint, use_hostname=policy.common.use_hostname) + b"_"
        number = 0
        while len(places) < target:
            places.append((_hash(policy.hash_function, prefix + b"%d" % number), index))
            number += 1
    places.sort()
    return _Ring([place for place, _ in places], [weights[index][0] for _, index in places]).pick


def _hash(function: HashFunction, text: bytes) -> int:
    return murmur_hash_2(text) if function is HashFunction.MURMUR_HASH_2 else xxhash.xxh64_intdigest(text)


class _Ring:
    __slots__ = ("_endpoints", "_hashes")

    def __init__(self, hashes: Sequence[int], endpoints: Sequence[Endpoint]) -> None:
        self._hashes = hashes
        self._endpoints = endpoints

    def pick(self, key: int, pick_number: int) -> Endpoint:
        """The endpoint for a hash; further picks for one attempt go further along the ring."""
        size = len(self._endpoints)
        index = bisect_left(self._hashes, key)
        return self._endpoints[(index + pick_number) % size if index < size else pick_number % size]
