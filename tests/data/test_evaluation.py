"""An evaluation sees the same samples at every time, and every part its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from noisy_items import Noisy, generator_states, ids, rows

from dcp_runner.data.evaluation import evaluation_batches


def batches(**options: Any) -> list[Any]:
    return [batch for batch, count in evaluation_batches(Noisy(23), seed=1, **options) if count]


@pytest.mark.parametrize(
    "samples, chosen",
    [(None, range(23)), (10, [0, 2, 4, 6, 9, 11, 13, 16, 18, 20]), (1, [0]), (99, range(23))],
)
@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_the_parts_share_out_samples_from_everywhere(samples: int | None, chosen: Iterable[int], parts: int) -> None:
    slices = [ids(batches(samples=samples, batch=4, part=part, parts=parts)) for part in range(parts)]
    assert [index for own in slices for index in own] == list(chosen)
    assert max(map(len, slices)) - min(map(len, slices)) <= 1


def test_the_last_batch_may_be_shorter() -> None:
    made = [*evaluation_batches(Noisy(23), samples=11, batch=4, part=0, parts=1, seed=1)]
    assert [(len(targets), count) for (_, targets), count in made] == [(4, 4), (4, 4), (3, 3)]


@pytest.mark.parametrize(
    ("samples", "parts", "counts"),
    [(10, 4, [[2, 0], [2, 1], [2, 0], [2, 1]]), (2, 3, [[0], [1], [1]]), (0, 2, [[], []])],
)
def test_every_part_has_as_many_batches(samples: int, parts: int, counts: list[list[int]]) -> None:
    made = [
        [*evaluation_batches(Noisy(23), samples=samples, batch=2, part=part, parts=parts, seed=1)]
        for part in range(parts)
    ]
    assert [[count for _, count in own] for own in made] == counts
    assert all(len(targets) == count or (count, len(targets)) == (0, 1) for own in made for (_, targets), count in own)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_evaluation_leaves_the_generators_alone_and_repeats_itself(workers: int) -> None:
    def values() -> torch.Tensor:
        return rows(batches(samples=None, batch=4, part=0, parts=1, workers=workers))

    before, first = generator_states(), values()
    torch.rand(3)
    torch.set_rng_state(torch.tensor(before[3], dtype=torch.uint8))
    assert generator_states() == before
    assert torch.equal(values(), first)
    halves = [rows(batches(samples=None, batch=5, part=part, parts=2)) for part in (0, 1)]
    assert torch.equal(torch.cat(halves), first), "the draws do not depend on parts, batches or workers"
