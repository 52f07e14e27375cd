"""DTensors as local tensors with a box, and back. `torch.distributed.tensor` is never imported here, because it costs a
second: where nobody has imported it there is no DTensor.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any

import torch

from dcp_runner.checkpoint.state.box import Box

Ranks = tuple[int, ...]


def is_dtensor(value: Any) -> bool:
    """Whether it is a DTensor, sharded or replicated."""
    module = sys.modules.get("torch.distributed.tensor")
    kind = getattr(module, "DTensor", None)
    return kind is not None and isinstance(value, kind)


def unsupported_reason(value: Any) -> str | None:
    """Why a DTensor cannot be stored, or None."""
    if any(placement.is_partial() for placement in value.placements):
        return "DTensor with a Partial placement, a sum that is not yet made; redistribute it first"
    if len(value.__create_chunk_list__()) > 1:
        return f"DTensor in several chunks on one rank (placements {value.placements})"
    return None


def local_shard(value: Any) -> tuple[torch.Tensor, Box]:
    """The local tensor of a DTensor, and where it lies in the whole."""
    local = value.to_local()
    chunk = value.__create_chunk_list__()[0]
    return local, Box(tuple(value.shape), tuple(chunk.offsets), tuple(chunk.sizes))


def shard_groups(value: Any) -> Iterator[Ranks]:
    """For each mesh dimension along which a DTensor is cut, this rank's ranks along it."""
    for line, placement in zip(_ranks_by_mesh_dim(value.device_mesh), value.placements, strict=True):
        if not placement.is_replicate():
            yield line


def replica_groups(value: Any) -> Iterator[Ranks]:
    """For each mesh dimension along which all ranks hold the same part of a DTensor, this rank's ranks along it."""
    for line, placement in zip(_ranks_by_mesh_dim(value.device_mesh), value.placements, strict=True):
        if placement.is_replicate() and len(line) > 1:
            yield line


@lru_cache
def _ranks_by_mesh_dim(mesh: Any) -> tuple[Ranks, ...]:
    """This rank's ranks along each dimension of a mesh."""
    ranks, place = mesh.mesh, mesh.get_coordinate()
    slices = (tuple(slice(None) if d == line else at for d, at in enumerate(place)) for line in range(ranks.ndim))
    return tuple(tuple(ranks[one].tolist()) for one in slices)


def from_local_like(local: torch.Tensor, value: Any) -> torch.Tensor:
    """The DTensor of this local tensor on the mesh and with the placements of another one."""
    made: torch.Tensor = sys.modules["torch.distributed.tensor"].DTensor.from_local(
        local.to(value.to_local().device),
        value.device_mesh,
        value.placements,
        run_check=False,
        shape=value.shape,
        stride=value.stride(),
    )
    return made


def describe_placements(value: Any) -> str:
    """How a DTensor lies along each dimension of its mesh, as text: `dp=2:-,fsdp=2:0`, where fsdp cuts dimension 0.

    Raises ValueError for a placement that is neither Shard nor Replicate.
    """
    lines = zip(_dimensions(value), _cut_dimensions(value), strict=True)
    return ",".join(f"{line}:{'-' if dimension is None else dimension}" for line, dimension in lines)


def target_placements(shape: Sequence[int], value: Any, text: str) -> Any:
    """Placements of a tensor that belongs to a DTensor: as in `text` (see `describe_placements`) if it was on such a
    mesh; else it is sharded where the DTensor is, in the dimensions that both have. Raises ValueError where the sizes
    do not tell which dimensions these are.
    """
    lines = [line.rpartition(":") for line in text.split(",")]
    if [line for line, _, _ in lines] == _dimensions(value):
        return [_placement(None if dimension == "-" else int(dimension)) for _, _, dimension in lines]
    if tuple(shape) == tuple(value.shape):
        return value.placements
    common = _common(tuple(shape), tuple(value.shape))
    return [_placement(common.get(dimension)) for dimension in _cut_dimensions(value)]


def distribute(whole: torch.Tensor, value: Any, where: Any) -> torch.Tensor:
    """A tensor that all ranks have, as a DTensor on the mesh of another one."""
    mesh, whole = value.device_mesh, whole.to(value.to_local().device)
    made = sys.modules["torch.distributed.tensor"].DTensor.from_local(
        whole, mesh, [_placement(None)] * mesh.ndim, run_check=False
    )
    cut: torch.Tensor = made.redistribute(placements=where)
    return cut


def _common(shape: Sequence[int], other: Sequence[int]) -> dict[int | None, int]:
    """Dimension of the other shape -> the same one of this shape, which has size 1 there, or lacks some."""
    kept = len(shape) == len(other)
    choices = [
        dict(zip(chosen, range(len(shape)), strict=True))
        for chosen in combinations(range(len(other)), len(shape))
        if all(size == other[d] or (kept and size == 1) for size, d in zip(shape, chosen, strict=True))
    ]
    if len(choices) != 1:
        raise ValueError(f"its shape {tuple(shape)} does not tell which dimensions of {tuple(other)} it has")
    return {dimension: place for dimension, place in choices[0].items() if shape[place] == other[dimension]}


def _placement(dimension: int | None) -> Any:
    module = sys.modules["torch.distributed.tensor"]
    return module.Replicate() if dimension is None else module.Shard(dimension)


def _cut_dimensions(value: Any) -> list[int | None]:
    """By dimension of its mesh, the dimension of a DTensor that is cut there."""
    if unusual := [one for one in value.placements if type(one).__name__ not in ("Shard", "Replicate")]:
        raise ValueError(f"a DTensor with placement {unusual[0]}, where only Shard and Replicate are known")
    return [None if one.is_replicate() else one.dim for one in value.placements]


def _dimensions(value: Any) -> list[str]:
    mesh = value.device_mesh
    return [f"{name}={size}" for name, size in zip(mesh.mesh_dim_names or range(mesh.ndim), mesh.shape, strict=True)]
