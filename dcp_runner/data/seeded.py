"""Randomness inside an item that depends on nothing but the sample.

A data set may crop, mask or add noise with any of the usual global generators. Drawn from the rank's own stream, such
an item would change with the number of loader processes, with the rank that reads it and with every resume, and
reading it would advance the stream that dropout draws from.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy
import torch
from torch.utils.data import Dataset

from dcp_runner.data.hash import mix


class MapDataset(Protocol):
    """A map-style data set: anything with a length and items."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Seeded(Dataset[Any]):
    """The items of a data set, each made under generators that are seeded from (seed, epoch, index).

    Python's `random`, numpy's global generator and torch's CPU generator are seeded; afterwards their states are
    restored, even if the data set raises. Keys are pairs (epoch, index), as `Order.at` returns them.
    """

    def __init__(self, dataset: MapDataset, seed: int) -> None:
        self._dataset = dataset
        self._seed = seed

    def __getitem__(self, key: tuple[int, int]) -> Any:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> list[Any]:
        """The items of a batch; torch's loader prefers this method if a data set has it.

        Saving and restoring the generators' states costs far more than seeding, so it is done once per batch.
        """
        items = []
        with _preserved_generators():
            for epoch, index in keys:
                _seed_generators(mix(self._seed, epoch, index))
                items.append(self._dataset[index])
        return items


@contextmanager
def _preserved_generators() -> Iterator[None]:
    python, array, tensor = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        numpy.random.set_state(array)
        torch.set_rng_state(tensor)


def _seed_generators(number: int) -> None:
    """Seed with a number of 64 bits; numpy's global generator takes 32 of them."""
    random.seed(number)
    numpy.random.seed(number >> 32)
    # Not torch.manual_seed: it would seed the accelerators too, which are not restored here.
    torch.default_generator.manual_seed(number)
