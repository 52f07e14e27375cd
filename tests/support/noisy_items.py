"""A data set whose items show which sample they are and what each global generator gave them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy
import torch
from torch import Tensor

from dcp_runner.data.feed import IndependentFeed
from dcp_runner.data.loader import Batch


class Noisy:
    """Item i is ([i, a draw of random, of numpy, of torch], i); counts how often it is read."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.reads = 0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.reads += 1
        draws = [random.random(), numpy.random.random(), torch.rand((), dtype=torch.float64).item()]
        return torch.tensor([index, *draws], dtype=torch.float64), index


def independent(dataset: Any, **changes: Any) -> IndependentFeed:
    options = dict(batch_size=12, parts=1, part=0, microbatches=1, seed=5, shuffle=True, workers=0)
    return IndependentFeed(dataset=dataset, **(options | changes))


def ids(batches: Sequence[Batch]) -> list[int]:
    return [number for _, targets in batches for number in targets.tolist()]


def rows(batches: Sequence[Batch]) -> Tensor:
    return torch.cat([inputs for inputs, _ in batches])


def generator_states() -> tuple[Any, ...]:
    keys, *rest = numpy.random.get_state(legacy=False)["state"].values()
    return random.getstate(), keys.tolist(), rest, torch.get_rng_state().tolist()
