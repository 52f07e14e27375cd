"""Tensors that can be stored, numpy arrays and streams of bytes as tensors, and back."""

from __future__ import annotations

from collections.abc import Hashable
from io import BytesIO
from typing import Any

import numpy as np
import torch

from dcp_runner.checkpoint.errors import UnsupportedStateError
from dcp_runner.checkpoint.state.scalars import type_name
from dcp_runner.common.torch_private import memory_id

_SUB_BYTE = {f"torch.{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8)}

WHOLE = torch.empty(0)
"""Stands where an array or a stream is wanted, which is cut nowhere."""


def check_tensor(tensor: torch.Tensor) -> None:
    """Raises UnsupportedStateError that says why the tensor cannot be stored."""
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer):
        raise UnsupportedStateError(f"type {type_name(tensor)}")
    if tensor.is_nested:
        raise UnsupportedStateError("nested tensor; store its parts")
    if tensor.layout is not torch.strided:
        raise UnsupportedStateError(f"tensor of layout {tensor.layout}; make it dense first")
    dtype = str(tensor.dtype)
    if tensor.is_quantized or dtype in _SUB_BYTE or "bits" in dtype or dtype == "torch.bit":
        raise UnsupportedStateError(f"tensor of dtype {dtype}")
    if tensor.is_meta:
        raise UnsupportedStateError("tensor on the meta device, which has no data")


def memory_of(tensor: torch.Tensor) -> tuple[Hashable, ...]:
    """Equal for two tensors that are the same memory, seen alike."""
    place = tensor.data_ptr() if tensor.numel() else memory_id(tensor)
    return tensor.device, place, tensor.dtype, tuple(tensor.shape), tensor.stride()


def of_array(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """The array's values; dates and durations as integers.

    Raises UnsupportedStateError for what torch has no dtype for.
    """
    if array.dtype.kind not in "biufcmM" or array.dtype.char in "gG":
        raise UnsupportedStateError(f"numpy array of dtype {array.dtype}")
    native = np.ascontiguousarray(array).reshape(array.shape)
    native = native.view(np.int64) if native.dtype.kind in "mM" else native.astype(native.dtype.newbyteorder("="))
    return torch.from_numpy(native.copy() if not native.flags.writeable else native)


def to_array(tensor: torch.Tensor, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """The inverse; of a tensor without data an array of its shape."""
    if tensor.is_meta:
        return np.empty(tuple(tensor.shape), dtype)
    array = tensor.numpy()
    return array.view(dtype) if dtype.kind in "mM" else array.astype(dtype)


def of_stream(stream: BytesIO) -> torch.Tensor:
    """All bytes of a stream, wherever it stands. Raises UnsupportedStateError for a closed one."""
    if stream.closed:
        raise UnsupportedStateError("closed io.BytesIO")
    return torch.from_numpy(np.frombuffer(stream.getvalue(), np.uint8).copy())


def to_stream(tensor: torch.Tensor) -> BytesIO:
    """A stream of these bytes, at its beginning; of a tensor without data an empty one."""
    return BytesIO() if tensor.is_meta else BytesIO(tensor.numpy().tobytes())
