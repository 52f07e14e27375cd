"""Ranks as people write them, and tasks as SLURM counts them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcp_runner.common.ranks import rank_text, ranks_of, tasks_per_node


@given(st.sets(st.integers(0, 40)))
def test_ranks_as_people_write_them(ranks: set[int]) -> None:
    assert ranks_of(rank_text(ranks)) == tuple(sorted(ranks))


def test_runs_of_ranks_are_short() -> None:
    assert rank_text([6, 0, 1, 2, 3, 9, 8]) == "0-3,6,8-9"


@pytest.mark.parametrize(
    ("text", "expected"), [("2(x3),1", (2, 2, 2, 1)), ("4", (4,)), ("1,2", (1, 2)), ("12(x2)", (12, 12)), ("", ())]
)
def test_tasks_per_node(text: str, expected: tuple[int, ...]) -> None:
    assert tasks_per_node(text) == expected
