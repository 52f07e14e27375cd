"""Digests of bytes and tensors, for comparing the holders of a copy and for the integrity of files.

xxh3 with 128 bits, block by block, so that one pass over a tensor serves both purposes and a part of a tensor can be
checked. It detects accidents, not tampering.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

import torch
import xxhash

BLOCK = 4 * 2**20
"""Number of bytes that one digest covers."""


def hash_bytes(data: bytes | memoryview) -> str:
    """The digest of the data as 32 hex digits."""
    return xxhash.xxh3_128_hexdigest(data)


def hash_file(file: BinaryIO) -> str:
    """The digest of the rest of an open file, in bounded memory."""
    hasher = xxhash.xxh3_128()
    while block := file.read(BLOCK):
        hasher.update(block)
    return hasher.hexdigest()


def host_bytes(tensor: torch.Tensor) -> memoryview:
    """The tensor's values as bytes in row-major order: a view if it is contiguous and on the CPU, else a copy."""
    dense = tensor.detach().cpu().contiguous()
    if not dense.numel():
        return memoryview(b"")
    flat = dense.as_strided((dense.numel(),), (1,))  # of a size of 1, `contiguous` leaves any stride as it is
    return memoryview(flat.view(torch.uint8).numpy().data)


def dtype_name(tensor: torch.Tensor) -> str:
    """`float32` for torch.float32."""
    return str(tensor.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class TensorDigest:
    """The digests of a tensor's blocks, and one digest of these together with dtype and shape."""

    blocks: tuple[str, ...]
    whole: str


def digest_tensor(tensor: torch.Tensor) -> TensorDigest:
    """Digest a tensor in one pass over its bytes."""
    data = host_bytes(tensor)
    blocks = tuple(hash_bytes(data[start : start + BLOCK]) for start in range(0, len(data), BLOCK))
    whole = hash_bytes(f"{dtype_name(tensor)} {tuple(tensor.shape)} {' '.join(blocks)}".encode())
    return TensorDigest(blocks, whole)
