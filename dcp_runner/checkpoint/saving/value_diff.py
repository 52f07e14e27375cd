"""The values of tensors that differ between ranks, compared in bounded memory: how many elements, which is the
first, by how much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dcp_runner.checkpoint.digest import BLOCK, host_bytes
from dcp_runner.checkpoint.sync.comm import Comm
from dcp_runner.checkpoint.topology import Copy

COMPARED = 8
"""Tensors of a copy whose values are compared."""

Kind = Any
"""[dtype, shape, bytes] of a rank's tensor; None where it has none at that path."""


def compare_values(
    copies: Sequence[Copy],
    tensors: Mapping[str, torch.Tensor],
    differing: Mapping[str, tuple[int, ...]],
    comm: Comm,
) -> dict[str, str]:
    """For this rank's tensors at the differing paths, how they differ from the reference: the first holder in the
    majority.

    `differing` maps a path to the outlier ranks, equal on all holders of a copy. Called by all ranks, for one copy
    after the other. A reference is broadcast in blocks of 4 MiB, so no rank holds a second tensor.
    """
    everyone = comm.exchange("verify", {path: [out, _kind(tensors.get(path))] for path, out in differing.items()})
    found: dict[str, str] = {}
    for copy in copies:
        compared = 0
        for path, (outliers, _) in everyone[copy.holders[0]].items():
            kinds = {rank: everyone[rank][path][1] for rank in copy.holders if everyone[rank][path][1]}
            if len(kinds) > 1 and compared < COMPARED:
                compared += 1
                source = min(kinds, key=lambda rank: (rank in outliers, rank))
                found[path] = _compare(tensors[path] if comm.rank in kinds else None, kinds, source, comm)
    return found


def _kind(tensor: torch.Tensor | None) -> Kind:
    return tensor if tensor is None else [str(tensor.dtype), list(tensor.shape), tensor.numel() * tensor.element_size()]


@dataclass
class _Found:
    count: int = 0
    first: int = -1
    largest: float = 0.0


def _compare(tensor: torch.Tensor | None, kinds: Mapping[int, Kind], source: int, comm: Comm) -> str:
    """Compare this rank's tensor with that of rank `source`. A rank that has none (None) only takes part."""
    own, theirs = kinds.get(comm.rank), kinds[source]
    held = tensor if own == theirs else None
    found = comm.agree("verify", lambda: _blockwise(held, theirs[2], source, comm))
    if own and own != theirs:
        return f" ({own[0]} {tuple(own[1])} here, {theirs[0]} {tuple(theirs[1])} on rank {source})"
    if held is None or not found.count:
        return ""
    index = tuple(int(number) for number in np.unravel_index(found.first, held.shape))
    return (
        f" ({found.count} of {held.numel()} elements differ from rank {source}'s, the first at {index}, "
        f"by at most {found.largest:g})"
    )


def _blockwise(tensor: torch.Tensor | None, size: int, source: int, comm: Comm) -> _Found:
    found = _Found()
    data = None if tensor is None else host_bytes(tensor)
    for start in range(0, size, BLOCK):
        length = min(BLOCK, size - start)
        if tensor is None or data is None:
            comm.send(torch.empty(length, dtype=torch.uint8), source)
            continue
        own = torch.frombuffer(bytearray(data[start : start + length]), dtype=torch.uint8)
        block = own.clone()
        comm.send(block, source)
        width = tensor.element_size()
        changed = (own.view(-1, width) != block.view(-1, width)).any(1)
        if changed.any():
            found.count += int(changed.sum())
            found.first = start // width + int(changed.nonzero()[0]) if found.first < 0 else found.first
            ours, theirs = (side.view(-1, width)[changed].reshape(-1).view(tensor.dtype) for side in (own, block))
            found.largest = max(found.largest, _distance(ours, theirs))
    return found


def _distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest absolute difference; infinite where a value is not finite, NaN for packed dtypes that torch cannot
    widen.
    """
    if "x2" in str(ours.dtype):
        return float("nan")
    wide: Any = torch.complex128 if ours.is_complex() else torch.float64
    return float((ours.to(wide) - theirs.to(wide)).abs().nan_to_num(float("inf"), float("inf")).max())
