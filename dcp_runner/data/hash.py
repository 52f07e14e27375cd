"""Combines several integers into one, for shuffling and seeding.

The order of the samples and the randomness inside a sample are derived from (seed, epoch, ...) and from nothing else.
So every rank, every loader process and every resumed run gets the same numbers without communication.
"""

from __future__ import annotations

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def mix(*words: int) -> int:
    """A hash in [0, 2**64) of all words and their order.

    Each word goes through the finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
    Generators, OOPSLA 2014; variant 13 of Stafford's mixers). Words are taken modulo 2**64. Integer arithmetic only,
    so the result is the same on every machine and in every Python version. Not for cryptography.
    """
    state = 0
    for word in words:
        state = ((state ^ word) + _GOLDEN) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state
