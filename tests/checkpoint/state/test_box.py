"""Boxes are sets of elements: their intersection and their slices."""

from __future__ import annotations

from itertools import product

import torch
from hypothesis import given
from hypothesis import strategies as st

from dcp_runner.checkpoint.state.box import Box

Element = tuple[int, ...]


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Box, Box]:
    """Two boxes of one shape; some are empty."""
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))

    def box() -> Box:
        bounds = [sorted(draw(st.tuples(st.integers(0, size), st.integers(0, size)))) for size in shape]
        return Box(shape, tuple(start for start, _ in bounds), tuple(stop - start for start, stop in bounds))

    return box(), box()


def elements(box: Box) -> set[Element]:
    return set(product(*(range(start, start + size) for start, size in zip(box.offsets, box.sizes, strict=True))))


@given(pairs())
def test_the_intersection_has_the_elements_of_both(boxes: tuple[Box, Box]) -> None:
    a, b = boxes
    common = a.intersection(b)
    assert (elements(common) if common else set()) == elements(a) & elements(b)
    assert common == b.intersection(a) and a.elements == len(elements(a))


@given(pairs())
def test_its_slices_select_it_from_a_tensor_of_an_outer_box(boxes: tuple[Box, Box]) -> None:
    outer, other = boxes
    if inner := outer.intersection(other):
        full = torch.arange(Box.full(outer.shape).elements).reshape(outer.shape)
        of_full = full[inner.slices_within(Box.full(outer.shape))]
        local = full[outer.slices_within(Box.full(outer.shape))]
        assert torch.equal(local[inner.slices_within(outer)], of_full) and of_full.numel() == inner.elements
