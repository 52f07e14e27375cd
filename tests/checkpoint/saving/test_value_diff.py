"""How the values of tensors differ between the holders of a copy, in words."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from few_ranks import among

from dcp_runner.checkpoint.digest import BLOCK
from dcp_runner.checkpoint.saving.value_diff import COMPARED, compare_values
from dcp_runner.checkpoint.sync.comm import Comm
from dcp_runner.checkpoint.topology import Copy

ALL = Copy("all", (0, 1, 2), (0,), True)


def compared(tensors: list[Any], outliers: tuple[int, ...]) -> list[Any]:
    def work(comm: Comm) -> Any:
        own = tensors[comm.rank]
        table = {} if own is None else {"w": own}
        return compare_values([ALL], table, {"w": outliers}, comm).get("w")

    return among(3, work)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (torch.tensor([[1.0, 2.0], [3.0, 6.5]]), "1 of 4 elements differ from rank 0's, the first at (1, 1), by at most 2.5"),
        (torch.tensor([[0.0, 2.0], [3.0, 5.0]]), "2 of 4 elements differ from rank 0's, the first at (0, 0), by at most 1"),
        (torch.tensor([[1.0, float("nan")], [3.0, 4.0]]), "the first at (0, 1), by at most inf"),
        (torch.tensor([[1, 2], [3, 4]]), "(torch.int64 (2, 2) here, torch.float32 (2, 2) on rank 0)"),
        (torch.ones(2), "(torch.float32 (2,) here, torch.float32 (2, 2) on rank 0)"),
    ],
)  # fmt: skip
def test_the_outlier_says_how_it_differs(other: torch.Tensor, words: str) -> None:
    same = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    first, second, third = compared([same, same.clone(), other], (2,))
    assert words in third and not first and not second


def test_the_reference_is_the_first_rank_of_the_majority_that_has_one() -> None:
    outlier, _, absent = compared([torch.zeros(2), torch.ones(2), None], (0,))
    assert "2 of 2 elements differ from rank 1's" in outlier and not absent


def test_the_first_difference_is_found_in_any_block() -> None:
    many = BLOCK // 4 + 3
    other = torch.zeros(many)
    other[-2:] = 3
    *_, third = compared([torch.zeros(many), torch.zeros(many), other], (2,))
    assert f"2 of {many} elements differ from rank 0's, the first at ({many - 2},), by at most 3" in third


def test_only_the_first_tensors_of_a_copy_are_compared() -> None:
    names = [f"w{number:02}" for number in range(COMPARED + 3)]

    def work(comm: Comm) -> list[str]:
        tensors = {name: torch.full((1,), float(comm.rank)) for name in names}
        return list(compare_values([Copy("all", (0, 1), (0,), True)], tensors, dict.fromkeys(names, (1,)), comm))

    assert among(2, work) == [names[:COMPARED]] * 2
