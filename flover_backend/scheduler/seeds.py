"""Random seeds of the n samples of one request.

The mixing function is the finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
Generators, OOPSLA 2014).
"""

from __future__ import annotations

MASK64 = (1 << 64) - 1
GOLDEN_GAMMA = 0x9E3779B97F4A7C15


def splitmix64(value: int) -> int:
    """A bijection of 0 .. 2^64-1 whose output bits all depend on all input bits."""
    value = (value + GOLDEN_GAMMA) & MASK64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK64
    return value ^ (value >> 31)


def sequence_seed(seed: int, index: int) -> int:
    """Seed of sample `index` of a request with `seed` (0 .. 2^64-1). Sample 0 keeps the request's own."""
    if index == 0:
        return seed
    return splitmix64(splitmix64(seed) ^ index)
