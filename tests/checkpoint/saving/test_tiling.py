"""The sum over all ranks is 0 exactly where distinct parts tile the whole."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcp_runner.checkpoint.saving.tiling import MODULUS, tiling_sum, untiled
from dcp_runner.checkpoint.state.box import Box
from dcp_runner.checkpoint.state.flatten import FlatState

Grid = list[Box]


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    """A tensor of 0 to 3 dimensions, each cut at some places; empty parts among them."""
    edges = []
    for _ in range(draw(st.integers(0, 3))):
        length = draw(st.integers(0, 6))
        cuts = sorted(draw(st.lists(st.integers(0, length), max_size=2)))
        edges.append(list(itertools.pairwise([0, *cuts, length])))
    shape = tuple(edge[-1][1] for edge in edges)
    return [
        Box(shape, tuple(low for low, _ in part), tuple(high - low for low, high in part))
        for part in itertools.product(*edges)
    ]


def total(boxes: Grid) -> int:
    """As if each were on a rank of its own."""
    ranks = tuple(range(len(boxes)))
    flats = [FlatState(boxes={"w": box}, shard_groups={"w": (ranks,)}) for box in boxes]
    return sum(tiling_sum(flat, rank) for rank, flat in enumerate(flats)) % MODULUS


def exact(boxes: Grid) -> list[str]:
    return untiled({"w": {box: [rank] for rank, box in enumerate(boxes)}})


@given(grids())
def test_a_grid_is_a_tiling(grid: Grid) -> None:
    assert total(grid) == 0 and exact(grid) == []


@given(grids(), st.data())
def test_a_part_that_is_missing_or_in_two_places_is_seen(grid: Grid, data: st.DataObject) -> None:
    full = [number for number, box in enumerate(grid) if box.elements]
    if len(full) < 2:
        return
    gone, kept = data.draw(st.permutations(full))[:2]
    without = [box for number, box in enumerate(grid) if number != gone]
    instead = [grid[kept] if number == gone else box for number, box in enumerate(grid)]
    for wrong in (without, instead):
        assert total(wrong) != 0 and "is not held in full" in exact(wrong)[0]


@given(grids(), st.data())
def test_a_part_that_reaches_into_another_is_seen(grid: Grid, data: st.DataObject) -> None:
    grown = [
        (number, Box(box.shape, box.offsets, (*box.sizes[:axis], box.sizes[axis] + 1, *box.sizes[axis + 1 :])))
        for number, box in enumerate(grid)
        for axis in range(len(box.shape))
        if box.elements and box.offsets[axis] + box.sizes[axis] < box.shape[axis]
    ]
    if grown:
        number, box = data.draw(st.sampled_from(grown))
        wrong = [*grid[:number], box, *grid[number + 1 :]]
        assert total(wrong) != 0 and "overlap" in exact(wrong)[0]


@pytest.mark.parametrize("copies", [2, 3])
def test_equal_parts_on_several_ranks_are_one_part(copies: int) -> None:
    half = [Box((4,), (0,), (2,)), Box((4,), (2,), (2,))]
    assert untiled({"w": {box: list(range(copies)) for box in half}}) == []


def test_many_wrong_tensors_are_counted() -> None:
    found = untiled({f"w{number}": {Box((4,), (0,), (2,)): [0]} for number in range(9)})
    assert len(found) == 5 and found[-1] == "5 more tensors"
