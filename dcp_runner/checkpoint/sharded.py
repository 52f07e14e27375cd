"""DTensors as local tensors with a box, and back. `torch.distributed.tensor` is never imported here, because it costs a
second: where nobody has imported it there is no DTensor.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch

from dcp_runner.checkpoint.box import Box

Ranks = tuple[int, ...]


def is_sharded(value: Any) -> bool:
    """Whether it is a DTensor, sharded or replicated."""
    module = sys.modules.get("torch.distributed.tensor")
    kind = getattr(module, "DTensor", None)
    return kind is not None and isinstance(value, kind)


def why_not(value: Any) -> str | None:
    """Why a DTensor cannot be stored, or None."""
    if any(placement.is_partial() for placement in value.placements):
        return "DTensor with a Partial placement, a sum that is not yet made; redistribute it first"
    if len(value.__create_chunk_list__()) > 1:
        return f"DTensor in several chunks on one rank (placements {value.placements})"
    return None


def local_part(value: Any) -> tuple[torch.Tensor, Box]:
    """The local tensor of a DTensor, and where it lies in the whole."""
    local = value.to_local()
    chunk = value.__create_chunk_list__()[0]
    return local, Box(tuple(value.shape), tuple(chunk.offsets), tuple(chunk.sizes))


def cuts(value: Any) -> Iterator[Ranks]:
    """For each mesh dimension along which a DTensor is cut, this rank's ranks along it."""
    for line, placement in zip(_lines(value.device_mesh), value.placements, strict=True):
        if not placement.is_replicate():
            yield line


@lru_cache
def _lines(mesh: Any) -> tuple[Ranks, ...]:
    """This rank's ranks along each dimension of a mesh."""
    ranks, place = mesh.mesh, mesh.get_coordinate()
    slices = (tuple(slice(None) if d == line else at for d, at in enumerate(place)) for line in range(ranks.ndim))
    return tuple(tuple(ranks[one].tolist()) for one in slices)


def like(local: torch.Tensor, value: Any) -> torch.Tensor:
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
