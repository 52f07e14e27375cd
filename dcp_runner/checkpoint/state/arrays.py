"""Which tensors can be stored; numpy arrays and byte streams as tensors, and back."""

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

UNSHARDED = torch.empty(0)
"""The live value that asks for an unsharded tensor, as arrays and streams are."""


def check_tensor(tensor: torch.Tensor) -> None:
    """Raises UnsupportedStateError, with the reason, if the tensor cannot be stored."""
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


def memory_key(tensor: torch.Tensor) -> tuple[Hashable, ...]:
    """Equal for two tensors that are the same view of the same memory."""
    address = tensor.data_ptr() if tensor.numel() else memory_id(tensor)
    return tensor.device, address, tensor.dtype, tuple(tensor.shape), tensor.stride()


def from_array(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """The values of an array as a tensor; dates and durations as integers.

    Raises UnsupportedStateError for a dtype that torch lacks.
    """
    if array.dtype.kind not in "biufcmM" or array.dtype.char in "gG":
        raise UnsupportedStateError(f"numpy array of dtype {array.dtype}")
    native = np.ascontiguousarray(array).reshape(array.shape)
    native = native.view(np.int64) if native.dtype.kind in "mM" else native.astype(native.dtype.newbyteorder("="))
    return torch.from_numpy(native.copy() if not native.flags.writeable else native)


def to_array(tensor: torch.Tensor, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """The inverse. A tensor on the meta device gives an uninitialized array of its shape."""
    if tensor.is_meta:
        return np.empty(tuple(tensor.shape), dtype)
    array = tensor.numpy()
    return array.view(dtype) if dtype.kind in "mM" else array.astype(dtype)


def from_stream(stream: BytesIO) -> torch.Tensor:
    """All bytes of a stream, whatever its position. Raises UnsupportedStateError for a closed one."""
    if stream.closed:
        raise UnsupportedStateError("closed io.BytesIO")
    return torch.from_numpy(np.frombuffer(stream.getvalue(), np.uint8).copy())


def to_stream(tensor: torch.Tensor) -> BytesIO:
    """A stream of these bytes, at position 0. A tensor on the meta device gives an empty one."""
    return BytesIO() if tensor.is_meta else BytesIO(tensor.numpy().tobytes())
