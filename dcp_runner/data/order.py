"""The order of all samples of a run, as a function of the sample's number.

A permutation in memory costs time and memory in proportion to the data set, on every rank and at every resume. Here the
permutation of an epoch is a small cipher over the indices, and each of its values is computed independently. So
resuming costs the same at sample 10 and at sample 10 million, and an epoch neither repeats nor drops an index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt

from dcp_runner.data.hash import mix

_ROUNDS = 8


@dataclass(frozen=True)
class Order:
    """The item of the data set that each sample of the run is.

    Samples are numbered 0, 1, 2, ... over the whole run; an epoch has `length` samples, and the numbers continue across
    epochs.
    """

    length: int
    """Items in the data set."""
    seed: int
    """Each seed gives a different order; without `shuffle` it has no effect."""
    shuffle: bool
    """A new permutation for every epoch; false: the items in their own order."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"the data set must have at least 1 item, found {self.length}")

    def at(self, sample: int) -> tuple[int, int]:
        """(epoch, index) of the sample with this number, in constant time and memory."""
        epoch, position = divmod(sample, self.length)
        if not self.shuffle:
            return epoch, position
        return epoch, _permute(position, self.length, _round_keys(self.seed, epoch))


@lru_cache(maxsize=4)
def _round_keys(seed: int, epoch: int) -> tuple[int, ...]:
    return tuple(mix(seed, epoch, number) for number in range(_ROUNDS))


def _permute(position: int, length: int, keys: Sequence[int]) -> int:
    """The value at `position` of the permutation of range(length) that `keys` define.

    A generalized Feistel network with cycle walking (Black and Rogaway: Ciphers with Arbitrary Finite Domains,
    CT-RSA 2002). The network permutes the side x side pairs of the smallest square that holds `length`; a result
    beyond the length goes through it again until it falls below. All positions together visit each pair at most once,
    so the mean is at most side * side / length walks: 2 for a length of 2, and close to 1 for a large data set. Eight
    rounds, because with four rounds neighbours in a small data set are visibly correlated.
    """
    side = isqrt(length - 1) + 1
    while True:
        high, low = divmod(position, side)
        for key in keys:
            high, low = low, (high + mix(key ^ low)) % side
        position = high * side + low
        if position < length:
            return position
