"""MurmurHash2, 64 bit, with the seed of libstdc++'s std::hash: what Envoy's rings of MURMUR_HASH_2 are made with.

Source: Austin Appleby's public domain MurmurHash64A; Envoy source/common/common/hash.cc.
"""

from __future__ import annotations

__all__ = ["murmur_hash_2"]

_MASK = (1 << 64) - 1
_MULTIPLIER = 0xC6A4A7935BD1E995
_SEED = 0xC70F6907


def murmur_hash_2(data: bytes) -> int:
    """The hash of some bytes, as an unsigned 64 bit number."""
    length = len(data)
    whole = length & ~7
    result = _SEED ^ (length * _MULTIPLIER & _MASK)
    for position in range(0, whole, 8):
        block = int.from_bytes(data[position : position + 8], "little") * _MULTIPLIER & _MASK
        block = (block ^ (block >> 47)) * _MULTIPLIER & _MASK
        result = (result ^ block) * _MULTIPLIER & _MASK
    if length & 7:
        result = (result ^ int.from_bytes(data[whole:], "little")) * _MULTIPLIER & _MASK
    result = (result ^ (result >> 47)) * _MULTIPLIER & _MASK
    return result ^ (result >> 47)
