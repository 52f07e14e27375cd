"""Every dtype is stored to the last bit or refused by name; arrays and streams come back."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from solo import bits, round_trip

from dcp_runner import CheckpointError
from dcp_runner.checkpoint.files.tensor_file import BYTES_ONLY, CODES


def read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


def is_like(one: Any, other: Any) -> bool:
    return bool(bits(one) == bits(other))


@pytest.mark.parametrize("name", [*CODES, *BYTES_ONLY])
def test_every_dtype_comes_back_with_every_bit(name: str, tmp_path: Path) -> None:
    dtype = getattr(torch, name)
    raw = (torch.arange(512) % (2 if dtype is torch.bool else 256)).to(torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # complex32 is experimental
        values = raw.view(dtype)
        state = {"1-d": values, "2-d": values.reshape(2, -1), "0-d": values[5], "one": values[5:6], "empty": values[:0]}
        if dtype is not torch.float4_e2m1fn_x2:
            state["transposed"] = values.reshape(2, -1).t()
        assert is_like(round_trip(tmp_path, state), state)


TENSOR_DTYPES = sorted(
    {one for one in vars(torch).values() if isinstance(one, torch.dtype) and "torch.q" not in str(one)}, key=str
)


@pytest.mark.parametrize("dtype", TENSOR_DTYPES, ids=str)
def test_a_dtype_of_torch_is_either_stored_or_refused_by_name(dtype: torch.dtype, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # complex32 is experimental
        tensor = torch.empty(2, dtype=dtype)
    if str(dtype).removeprefix("torch.") in {*CODES, *BYTES_ONLY}:
        assert is_like(round_trip(tmp_path, {"x": tensor}), {"x": tensor})
    else:
        with pytest.raises(CheckpointError, match=f"x: tensor of dtype {dtype}"):
            round_trip(tmp_path, {"x": tensor})


def test_arrays_come_back_writable_and_own_their_data(tmp_path: Path) -> None:
    found = round_trip(tmp_path, {"a": read_only(np.arange(3)), "t": read_only(np.array(["2020"], "M8[Y]"))})
    found["a"][0], found["t"][0] = 5, np.datetime64("2021")
    assert found["a"][0] == 5 and str(found["t"][0]) == "2021"


def test_a_stream_comes_back_at_its_beginning(tmp_path: Path) -> None:
    stream = BytesIO(b"abc")
    stream.read()
    found = round_trip(tmp_path, {"s": stream})["s"]
    assert found.read() == b"abc" and stream.tell() == 3
