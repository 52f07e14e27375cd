"""The values of tensors that differ between ranks, compared in bounded memory: how many elements, which is the first, by how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dcp_runner.checkpoint.comm import Comm
from dcp_runner.checkpoint.digest import BLOCK, host_bytes
from dcp_runner.checkpoint.topology import Copy

COMPARED = 8
"""Tensors of a copy whose values are compared."""


def compare_values(
    copies: Sequence[Copy],
    mine: Copy,
    tensors: Mapping[str, torch.Tensor],
    differing: Mapping[str, tuple[int, ...]],
    comm: Comm,
) -> dict[str, str]:
    """For this rank's tensors at the differing paths, how they differ from the reference: the first holder in the majority.

    `differing` maps path to odd ranks, equal on all holders of a copy. Called by all ranks; the copies take turns. A reference is
    broadcast in blocks of 4 MiB, so no rank holds a second tensor.
    """
    told: dict[str, str] = {}
    for copy in copies:
        held = tensors if copy is mine else {}
        paths = [path for path in differing if path in held][:COMPARED]
        reference = next((r for r in copy.holders if paths and r not in differing[paths[0]]), copy.holders[0])
        offers = comm.exchange("verify", [reference, paths])
        source = offers[copy.holders[0]][0]
        for path in offers[source][1]:
            text = _compare(held.get(path), source, comm)
            if text:
                told[path] = text
    return told


@dataclass
class _Found:
    count: int = 0
    first: int = -1
    largest: float = 0.0


def _compare(tensor: torch.Tensor | None, source: int, comm: Comm) -> str:
    """Compare this rank's tensor (None: it takes part without one) with that of rank `source`."""
    kind: Any = None if tensor is None else [str(tensor.dtype), list(tensor.shape), tensor.numel() * tensor.element_size()]
    theirs = comm.exchange("verify", kind)[source]
    if kind != theirs:
        tensor = None
    data = memoryview(b"") if tensor is None else host_bytes(tensor)
    found = comm.agree("verify", lambda: _blockwise(tensor, data, theirs[2], source, comm))
    if kind is not None and kind != theirs:
        return f" ({kind[0]} {tuple(kind[1])} here, {theirs[0]} {tuple(theirs[1])} on rank {source})"
    if tensor is None or not found.count:
        return ""
    index = tuple(int(place) for place in torch.unravel_index(torch.tensor(found.first), tensor.shape))
    return (
        f" ({found.count} of {tensor.numel()} elements differ from rank {source}'s, the first at {index}, "
        f"by at most {found.largest:g})"
    )


def _blockwise(tensor: torch.Tensor | None, data: memoryview, size: int, source: int, comm: Comm) -> _Found:
    found = _Found()
    for start in range(0, size, BLOCK):
        length = min(BLOCK, size - start)
        own = torch.frombuffer(bytearray(data[start : start + length]), dtype=torch.uint8) if data else None
        block = own.clone() if own is not None else torch.empty(length, dtype=torch.uint8)
        comm.send(block, source)
        if tensor is None or own is None:
            continue
        width = tensor.element_size()
        changed = (own.view(-1, width) != block.view(-1, width)).any(1)
        if changed.any():
            found.count += int(changed.sum())
            found.first = start // width + int(changed.nonzero()[0]) if found.first < 0 else found.first
            found.largest = max(found.largest, _distance(own.view(tensor.dtype), block.view(tensor.dtype)))
    return found


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest absolute difference; infinite where only one is a number, NaN for packed dtypes that torch cannot widen."""
    if "x2" in str(one.dtype):
        return float("nan")
    wide: Any = torch.complex128 if one.is_complex() else torch.float64
    return float((one.to(wide) - other.to(wide)).abs().nan_to_num(float("inf")).max())
