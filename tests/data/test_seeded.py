"""What is drawn inside an item depends on (seed, epoch, index), and drawing it leaves no trace."""

from __future__ import annotations

import random

import numpy
import pytest
import torch
from noisy_items import Noisy, generator_states

from dcp_runner.data.seeded import Seeded


def test_an_item_is_the_same_whenever_it_is_read() -> None:
    first = Seeded(Noisy(10), seed=1)[2, 3][0]
    random.seed(9)
    numpy.random.seed(9)
    torch.manual_seed(9)
    assert torch.equal(Seeded(Noisy(10), seed=1)[2, 3][0], first)


def test_seed_epoch_and_index_each_change_every_generator() -> None:
    items = [Seeded(Noisy(10), seed)[key][0] for seed, key in [(1, (2, 3)), (2, (2, 3)), (1, (3, 3)), (1, (2, 4))]]
    draws = torch.stack(items)[:, 1:].flatten().tolist()
    assert len(set(draws)) == len(draws)


def test_the_generators_are_put_back() -> None:
    numpy.random.standard_normal()  # leaves a second normal number waiting in the generator
    before, waiting = generator_states(), numpy.random.get_state()[3:]
    Seeded(Noisy(10), seed=1)[2, 3]
    assert generator_states() == before
    assert numpy.random.get_state()[3:] == waiting


def test_the_generators_are_put_back_after_an_error() -> None:
    class Broken(Noisy):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            super().__getitem__(index)
            raise OSError("unreadable")

    before = generator_states()
    with pytest.raises(OSError, match="unreadable"):
        Seeded(Broken(10), seed=1)[2, 3]
    assert generator_states() == before


def test_a_batch_has_the_items_that_are_read_one_by_one() -> None:
    seeded, keys = Seeded(Noisy(10), seed=1), [(0, 4), (1, 4), (0, 2)]
    together, alone = seeded.__getitems__(keys), [seeded[key] for key in keys]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(together, alone, strict=True))
