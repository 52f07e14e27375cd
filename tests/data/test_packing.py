"""Nested tensors as a header and a buffer."""

from __future__ import annotations

from collections import namedtuple

import pytest
import torch

from dcp_runner.data.packing import pack, unpack

Pair = namedtuple("Pair", "left right")
DTYPES = [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.complex128]


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_of_every_dtype_and_layout_are_packed(dtype: torch.dtype) -> None:
    grid = torch.arange(12).reshape(3, 4).to(dtype)
    value = [grid, grid.T, grid[1:, ::2], grid[0, 0], grid[:0], Pair("text", {"deep": (grid, None, 3.5)})]
    header, buffer = pack(value)
    *tensors, pair = unpack(header, buffer)
    for got, expected in zip(tensors, value[:-1], strict=True):
        assert got.dtype == dtype and got.shape == expected.shape
        assert got.tolist() == expected.tolist()
    assert type(pair) is Pair and pair.left == "text" and pair.right["deep"][1:] == (None, 3.5)


def test_the_header_depends_on_shapes_and_not_on_values() -> None:
    first, same, other = pack((torch.ones(3), "a")), pack((torch.zeros(3), "a")), pack((torch.zeros(4), "a"))
    assert first[0] == same[0] != other[0]
