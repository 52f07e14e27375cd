"""DTensors as local tensors with a box, and back.

`torch.distributed.tensor` is never imported here, because that takes a second: unless it was imported, there is no
DTensor.
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
    """Whether the value is a DTensor, sharded or replicated."""
    module = sys.modules.get("torch.distributed.tensor")
    kind = getattr(module, "DTensor", None)
    return kind is not None and isinstance(value, kind)


def unsupported_reason(value: Any) -> str | None:
    """Why a DTensor cannot be stored, or None."""
    if any(placement.is_partial() for placement in value.placements):
        return "DTensor with a Partial placement, a pending reduction; redistribute it first"
    if len(value.__create_chunk_list__()) > 1:
        return f"DTensor in several chunks on one rank (placements {value.placements})"
    return None


def local_shard(value: Any) -> tuple[torch.Tensor, Box]:
    """The local tensor of a DTensor, and where it is in the global tensor."""
    local = value.to_local()
    chunk = value.__create_chunk_list__()[0]
    return local, Box(tuple(value.shape), tuple(chunk.offsets), tuple(chunk.sizes))


def shard_groups(value: Any) -> Iterator[Ranks]:
    """For each mesh dimension along which a DTensor is sharded, the ranks of this rank's group along it."""
    for ranks, placement in zip(_ranks_by_mesh_dim(value.device_mesh), value.placements, strict=True):
        if not placement.is_replicate():
            yield ranks


def replica_groups(value: Any) -> Iterator[Ranks]:
    """For each mesh dimension along which a DTensor is replicated, the ranks of this rank's group along it."""
    for ranks, placement in zip(_ranks_by_mesh_dim(value.device_mesh), value.placements, strict=True):
        if placement.is_replicate() and len(ranks) > 1:
            yield ranks


@lru_cache
def _ranks_by_mesh_dim(mesh: Any) -> tuple[Ranks, ...]:
    """For each dimension of a mesh, the ranks that have this rank's coordinates on all other dimensions."""
    ranks, coordinates = mesh.mesh, mesh.get_coordinate()
    return tuple(
        tuple(ranks[(*coordinates[:dim], slice(None), *coordinates[dim + 1 :])].tolist()) for dim in range(ranks.ndim)
    )


def from_local_like(local: torch.Tensor, value: Any) -> torch.Tensor:
    """The DTensor with this local tensor, and with the mesh, placements and shape of another DTensor."""
    result: torch.Tensor = sys.modules["torch.distributed.tensor"].DTensor.from_local(
        local.to(value.to_local().device),
        value.device_mesh,
        value.placements,
        run_check=False,
        shape=value.shape,
        stride=value.stride(),
    )
    return result


def describe_placements(value: Any) -> str:
    """The mesh and placements of a DTensor as text: `dp=2:-,fsdp=2:0` is replicated over dp and sharded over fsdp in
    tensor dimension 0.

    Raises ValueError for a placement that is neither Shard nor Replicate.
    """
    dims = zip(_mesh_dims(value), _sharded_dims(value), strict=True)
    return ",".join(f"{mesh_dim}:{'-' if dim is None else dim}" for mesh_dim, dim in dims)


def target_placements(shape: Sequence[int], value: Any, text: str) -> Any:
    """The placements for a tensor of this shape that belongs to a DTensor parameter, on the parameter's mesh.

    Those of `text` (see `describe_placements`) if the mesh is the same; else it is sharded like the parameter, in the
    dimensions that both have. Raises ValueError if the sizes do not show which dimensions these are.
    """
    saved = [part.rpartition(":") for part in text.split(",")]
    if [mesh_dim for mesh_dim, _, _ in saved] == _mesh_dims(value):
        return [_placement(None if dim == "-" else int(dim)) for _, _, dim in saved]
    if tuple(shape) == tuple(value.shape):
        return value.placements
    common = _common_dims(tuple(shape), tuple(value.shape))
    return [_placement(common.get(dim)) for dim in _sharded_dims(value)]


def distribute(full: torch.Tensor, value: Any, placements: Any) -> torch.Tensor:
    """A tensor that all ranks have in full, as a DTensor on the mesh of another one."""
    mesh, full = value.device_mesh, full.to(value.to_local().device)
    replicated = sys.modules["torch.distributed.tensor"].DTensor.from_local(
        full, mesh, [_placement(None)] * mesh.ndim, run_check=False
    )
    sharded: torch.Tensor = replicated.redistribute(placements=placements)
    return sharded


def _common_dims(shape: Sequence[int], param_shape: Sequence[int]) -> dict[int | None, int]:
    """Dimension of the parameter -> the same one of a tensor that lacks some of its dimensions, or has size 1 there."""
    same_rank = len(shape) == len(param_shape)
    choices = [
        dict(zip(chosen, range(len(shape)), strict=True))
        for chosen in combinations(range(len(param_shape)), len(shape))
        if all(size == param_shape[d] or (same_rank and size == 1) for size, d in zip(shape, chosen, strict=True))
    ]
    if len(choices) != 1:
        raise ValueError(f"its shape {tuple(shape)} does not show which dimensions of {tuple(param_shape)} it has")
    return {param_dim: dim for param_dim, dim in choices[0].items() if shape[dim] == param_shape[param_dim]}


def _placement(dim: int | None) -> Any:
    module = sys.modules["torch.distributed.tensor"]
    return module.Replicate() if dim is None else module.Shard(dim)


def _sharded_dims(value: Any) -> list[int | None]:
    """For each mesh dimension, the tensor dimension that is sharded along it."""
    if unknown := [p for p in value.placements if type(p).__name__ not in ("Shard", "Replicate")]:
        raise ValueError(f"a DTensor with placement {unknown[0]}; only Shard and Replicate are supported")
    return [None if placement.is_replicate() else placement.dim for placement in value.placements]


def _mesh_dims(value: Any) -> list[str]:
    """`fsdp=2` for each mesh dimension."""
    mesh = value.device_mesh
    return [f"{name}={size}" for name, size in zip(mesh.mesh_dim_names or range(mesh.ndim), mesh.shape, strict=True)]
