"""Who writes which part of a copy: the same on every rank, from the topology alone."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcp_runner.checkpoint.saving.write_plan import MIN_PART, SMALL, large, split, stem
from dcp_runner.checkpoint.topology import Copy

tables = st.dictionaries(
    st.text(max_size=3), st.integers(0, 2 * SMALL) | st.integers(MIN_PART // 2, 4 * MIN_PART), max_size=12
)


copies = st.integers(1, 6).flatmap(
    lambda n: st.sampled_from(
        [Copy("all", tuple(range(n)), tuple(range(n)), True), Copy("pp-0", tuple(range(n)), (0,), False)]
    )
)


@given(tables, copies, st.integers(0, 9))
def test_parts_cover_the_large_tensors_once_and_their_writers_hold_them(
    sizes: dict[str, int], copy: Copy, turn: int
) -> None:
    parts = split("model", copy, sizes, turn)
    assert sorted(name for part in parts for name in part.names) == sorted(large(sizes))
    assert all(part.writer in copy.writers for part in parts)
    assert len({part.writer for part in parts}) == len(parts) == parts[0].count
    assert [part.number for part in parts] == list(range(1, len(parts) + 1))
    assert len({part.path for part in parts}) == len(parts)
    assert all(part.names for part in parts) or len(parts) == 1, "no file is empty"


@given(tables, copies, st.integers(0, 9), st.randoms())
def test_every_rank_makes_the_same_plan_whatever_the_order_of_its_keys(
    sizes: dict[str, int], copy: Copy, turn: int, draw: random.Random
) -> None:
    shuffled = list(sizes.items())
    draw.shuffle(shuffled)
    assert split("model", copy, sizes, turn) == split("model", copy, dict(shuffled), turn)


@given(tables, copies)
def test_the_bytes_are_balanced(sizes: dict[str, int], copy: Copy) -> None:
    """No part exceeds another by more than the largest tensor; and none is made for less than 1 MiB on average."""
    loads = [sum(sizes[name] for name in part.names) for part in split("model", copy, sizes)]
    assert max(loads) - min(loads) <= max([0, *large(sizes).values()])
    assert len(loads) == 1 or sum(loads) >= len(loads) * MIN_PART


def test_equal_tensors_are_shared_out_evenly() -> None:
    copy = Copy("all", (0, 1, 2, 3), (0, 1, 2, 3), True)
    parts = split("model", copy, {str(number): MIN_PART for number in range(8)})
    assert [len(part.names) for part in parts] == [2, 2, 2, 2]


ALL = Copy("all", (0, 1), (0, 1), True)


@pytest.mark.parametrize(
    ("copy", "sizes", "paths"),
    [
        (ALL, {}, ["model.safetensors"]),
        (ALL, {"w": 8 * MIN_PART}, ["model.safetensors"]),
        (ALL, {"a": SMALL - 1, "b": 2 * MIN_PART}, ["model.safetensors"]),
        (ALL, {"a": MIN_PART, "b": MIN_PART - 1}, ["model.safetensors"]),
        (ALL, {"a": MIN_PART, "b": MIN_PART}, ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]),
        (
            Copy("pp-1", (2, 3), (2, 3), True),
            {"a": MIN_PART, "b": MIN_PART},
            ["model/pp-1-00001-of-00002.safetensors", "model/pp-1-00002-of-00002.safetensors"],
        ),
        (Copy("rank-00003", (3,), (3,), True), {"a": 8 * MIN_PART, "b": MIN_PART}, ["model/rank-00003.safetensors"]),
    ],
)
def test_names_of_files(copy: Copy, sizes: dict[str, int], paths: list[str]) -> None:
    parts = split("model", copy, sizes)
    assert [part.path for part in parts] == paths
    assert all(part.path.startswith(stem("model", copy.name)) for part in parts)


def test_the_small_components_take_turns_in_who_writes_them() -> None:
    assert [split("x", ALL, {}, turn)[0].writer for turn in range(4)] == [0, 1, 0, 1]


# -- which copy is loaded ----------------------------------------------------------------------------------------------
