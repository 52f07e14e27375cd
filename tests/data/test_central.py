"""One rank reads for all, and every rank gets what it would have read itself; on real process groups."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from data_ranks import run_ranks
from noisy_items import Noisy, generator_states, ids, independent, rows

from dcp_runner.data.central import CentralFeed

Pair = namedtuple("Pair", "left right")


def central(dataset: Any, group: Any, rank: int, part_of_rank: Sequence[int], **changes: Any) -> CentralFeed:
    options = dict(batch_size=12, microbatches=2, seed=5, shuffle=True, workers=0)
    return CentralFeed(
        dataset=dataset,
        group=group,
        parts=max(part_of_rank) + 1,
        part=part_of_rank[rank],
        part_of_rank=part_of_rank,
        **(options | changes),
    )


@pytest.mark.parametrize(
    "part_of_rank, workers", [([0, 1], 0), ([0, 1], 2), ([0, 0, 1, 1], 0), ([1, 0, 1, 0], 1), ([2, 1, 0, 2], 0)]
)
def test_central_equals_independent_bit_for_bit(part_of_rank: list[int], workers: int, tmp_path: Path) -> None:
    def body(group: Any, rank: int) -> Any:
        dataset, before = Noisy(50), generator_states()
        feed = central(dataset, group, rank, part_of_rank, workers=workers)
        batches = [feed.next() for _ in range(3)]
        feed.load_state_dict(feed.state_dict() | {"consumed": 12})
        batches += [feed.next() for _ in range(3)]
        feed.close()
        assert generator_states() == before
        return batches, dataset.reads, feed.state_dict()

    results = run_ranks(body, len(part_of_rank), tmp_path)
    for rank, (batches, reads, state) in enumerate(results):
        alone = independent(Noisy(50), parts=max(part_of_rank) + 1, part=part_of_rank[rank], microbatches=2)
        whole = [alone.next() for _ in range(4)]
        expected = whole[:3] + whole[1:]
        assert [ids(step) for step in batches] == [ids(step) for step in expected]
        assert all(torch.equal(rows(a), rows(b)) for a, b in zip(batches, expected, strict=True))
        assert [len(step) for step in batches] == [2] * 6
        assert state == alone.state_dict()
        assert reads == (72 if rank == 0 and workers == 0 else 0), "only rank 0 reads, or its workers"


class Ragged:
    """Item i has i // 6 + 1 numbers and a name, so that shapes change from step to step and from part to part."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> Any:
        size = index // 6 + 1
        inputs = {"numbers": torch.full((size,), index, dtype=torch.int16), "name": str(index)}
        return OrderedDict(inputs), (torch.tensor(index % 2 == 0), torch.zeros(0))


def test_shapes_and_texts_may_change_from_step_to_step(tmp_path: Path) -> None:
    options: dict[str, Any] = dict(microbatches=1, shuffle=False)

    def body(group: Any, rank: int) -> Any:
        feed = central(Ragged(), group, rank, [0, 1], **options)
        return [feed.next() for _ in range(4)]

    for rank, steps in enumerate(run_ranks(body, 2, tmp_path)):
        alone = independent(Ragged(), parts=2, part=rank, **options)
        for [(inputs, targets)] in steps:
            [(expected_inputs, expected_targets)] = alone.next()
            assert type(inputs) is OrderedDict and inputs["name"] == expected_inputs["name"]
            torch.testing.assert_close(inputs["numbers"], expected_inputs["numbers"], rtol=0, atol=0)
            torch.testing.assert_close(targets, expected_targets, rtol=0, atol=0)


def test_a_failure_to_read_reaches_every_rank_at_once_and_the_step_can_be_repeated(tmp_path: Path) -> None:
    def body(group: Any, rank: int) -> Any:
        dataset = [(torch.tensor(index), torch.tensor(index)) for index in range(24)]
        feed = central(dataset, group, rank, [0, 1, 1], shuffle=False)
        good, error = ids(feed.next()), ""
        dataset[17] = "not a pair"  # type: ignore[call-overload]
        try:
            feed.next()
        except (ValueError, RuntimeError) as caught:
            error = f"{type(caught).__name__}: {caught}"
        dataset[17] = (torch.tensor(17), torch.tensor(17))
        return good + ids(feed.next()), error, feed.consumed

    results = run_ranks(body, 3, tmp_path)
    assert [numbers for numbers, _, _ in results] == [
        [0, 1, 2, 3, 4, 5, 12, 13, 14, 15, 16, 17],
        [6, 7, 8, 9, 10, 11, 18, 19, 20, 21, 22, 23],
        [6, 7, 8, 9, 10, 11, 18, 19, 20, 21, 22, 23],
    ]
    assert "found an object of type str" in results[0][1]
    assert all("RuntimeError: rank 0 failed" in error for _, error, _ in results[1:])
    assert [consumed for *_, consumed in results] == [24] * 3


def test_one_process_needs_no_group() -> None:
    feed, alone = central(Noisy(50), None, 0, [0]), independent(Noisy(50), microbatches=2)
    for _ in range(6):
        assert torch.equal(rows(feed.next()), rows(alone.next()))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"part_of_rank": [0, 1], "parts": 2}, "an entry for each of 1 ranks, found"),
        ({"part_of_rank": [1], "parts": 2}, "must be part=0, found 1"),
    ],
)
def test_a_table_of_parts_that_does_not_fit_is_refused(changes: dict[str, Any], words: str) -> None:
    options: dict[str, Any] = dict(batch_size=12, microbatches=2, seed=5, shuffle=True, workers=0, part=0)
    with pytest.raises(ValueError, match=words):
        CentralFeed(dataset=Noisy(50), group=None, **(options | changes))
