"""Digests of bytes and tensors: for the comparison of holders, and for the integrity of files.

xxh3 with 128 bits, in blocks, so that a part of a tensor can be checked and one pass serves both purposes. It finds
accidents; it is no defence against somebody who wants to deceive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

import torch
import xxhash

BLOCK = 4 * 2**20
"""Bytes that one digest of a file's index covers."""


def hash_bytes(data: bytes | memoryview) -> str:
    """32 hex digits."""
    return xxhash.xxh3_128_hexdigest(data)


def hash_file(file: BinaryIO) -> str:
    """The same of what is left to read of a file, in bounded memory."""
    hasher = xxhash.xxh3_128()
    while block := file.read(BLOCK):
        hasher.update(block)
    return hasher.hexdigest()


def host_bytes(tensor: torch.Tensor) -> memoryview:
    """The tensor's values as bytes in row-major order: a view where it is contiguous and on the CPU, else a copy."""
    dense = tensor.detach().cpu().contiguous()
    if not dense.numel():
        return memoryview(b"")
    flat = dense.as_strided((dense.numel(),), (1,))  # of a size of 1, "contiguous" leaves any stride
    return memoryview(flat.view(torch.uint8).numpy().data)


def dtype_name(tensor: torch.Tensor) -> str:
    """`float32` for torch.float32."""
    return str(tensor.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class TensorDigest:
    """Digests of a tensor's blocks of 4 MiB, its dtype and shape, and their digest."""

    blocks: tuple[str, ...]
    whole: str


def digest_tensor(tensor: torch.Tensor) -> TensorDigest:
    """One pass over the tensor's bytes."""
    data = host_bytes(tensor)
    blocks = tuple(hash_bytes(data[start : start + BLOCK]) for start in range(0, len(data), BLOCK))
    whole = hash_bytes(f"{dtype_name(tensor)} {tuple(tensor.shape)} {' '.join(blocks)}".encode())
    return TensorDigest(blocks, whole)
