"""Nested tensors as a short header and one flat buffer, for a collective.

The header is a pickle of everything but the tensors' contents. It stays the same from batch to batch as long as the
shapes do, so that it need not be sent again; and non-tensors, such as text, need no special handling.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch
from torch import Tensor

_ALIGNMENT = 16
"""Bytes. A view with a wider dtype must start at a multiple of its item size, which is at most that of complex128."""

_Slot = tuple[torch.dtype, tuple[int, ...], int]
"""A tensor in the header: dtype, shape, and its first byte in the buffer."""


def pack(value: Any) -> tuple[bytes, Tensor]:
    """(header, buffer) of a value whose tensors are on the CPU; the buffer is a copy, of dtype uint8 and shape (n,)."""
    pickler = _Pickler()
    pickler.dump(value)
    buffer = torch.zeros(pickler.size, dtype=torch.uint8)
    for start, content in pickler.contents:
        buffer[start : start + len(content)] = content
    return pickler.file.getvalue(), buffer


def unpack(header: bytes, buffer: Tensor) -> Any:
    """The packed value. Its tensors are copies; the buffer may be padded."""
    return _Unpickler(header, buffer).load()


class _Pickler(pickle.Pickler):
    def __init__(self) -> None:
        self.file = io.BytesIO()
        self.contents: list[tuple[int, Tensor]] = []
        self.size = 0
        super().__init__(self.file)

    def persistent_id(self, value: Any) -> _Slot | None:
        if not isinstance(value, Tensor):
            return None
        content = value.detach().contiguous().view(-1).view(torch.uint8)
        start = self.size
        self.contents.append((start, content))
        self.size += -(-len(content) // _ALIGNMENT) * _ALIGNMENT
        return value.dtype, tuple(value.shape), start


class _Unpickler(pickle.Unpickler):
    def __init__(self, header: bytes, buffer: Tensor) -> None:
        super().__init__(io.BytesIO(header))
        self._buffer = buffer

    def persistent_load(self, slot: _Slot) -> Tensor:
        dtype, shape, start = slot
        stop = start + torch.Size(shape).numel() * dtype.itemsize
        return self._buffer[start:stop].view(dtype).view(shape).clone()
