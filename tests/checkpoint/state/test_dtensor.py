"""DTensors as boxes and groups of ranks, and the placements of tensors that belong to one; on one rank of a fake mesh."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fake_ranks import rank_of_mesh

from dcp_runner.checkpoint.state import dtensor
from dcp_runner.checkpoint.state.box import Box
from dcp_runner.checkpoint.state.flatten import flatten


@pytest.fixture(scope="module")
def mesh() -> Iterator[Any]:
    """dp=2 x fsdp=3, seen from rank 4: the second replica, the middle shard."""
    dtensor._ranks_by_mesh_dim.cache_clear()
    with rank_of_mesh(4, (2, 3), ("dp", "fsdp")) as mesh:
        yield mesh
    dtensor._ranks_by_mesh_dim.cache_clear()


def sharded(mesh: Any, dim: int = 0, shape: tuple[int, ...] = (7, 6)) -> Any:
    """Replicated over dp, sharded over fsdp in this dimension."""
    from torch.distributed.tensor import DTensor, Replicate, Shard

    size, rest = divmod(shape[dim], 3)
    local = [*shape]
    local[dim] = size + (1 if rest > 1 else 0)
    return DTensor.from_local(
        torch.zeros(local),
        mesh,
        [Replicate(), Shard(dim)],
        run_check=False,
        shape=torch.Size(shape),
        stride=torch.empty(shape, device="meta").stride(),
    )


def test_a_plain_tensor_is_none() -> None:
    assert not dtensor.is_dtensor(torch.ones(1)) and not dtensor.is_dtensor(3)


def test_a_dtensor_is_a_box_with_its_groups_of_ranks(mesh: Any) -> None:
    value = sharded(mesh, shape=(6, 4))
    local, box = dtensor.local_shard(value)
    assert dtensor.is_dtensor(value) and dtensor.unsupported_reason(value) is None
    assert (tuple(local.shape), box) == ((2, 4), Box((6, 4), (2, 0), (2, 4)))
    assert [*dtensor.shard_groups(value)] == [(3, 4, 5)] and [*dtensor.replica_groups(value)] == [(1, 4)]
    flat = flatten({"w": value, "tied": value, "other": sharded(mesh, shape=(6, 4))})
    assert flat.tied == {"tied": "w"} and flat.boxes["w"] == box and flat.shard_groups["other"] == ((3, 4, 5),)


def test_the_same_mesh_has_the_recorded_placements(mesh: Any) -> None:
    from torch.distributed.tensor import Replicate, Shard

    text = dtensor.describe_placements(sharded(mesh, 1))
    assert text == "dp=2:-,fsdp=3:1"
    assert dtensor.target_placements((6, 7), sharded(mesh, 0), text) == [Replicate(), Shard(1)]


@pytest.mark.parametrize(
    ("dim", "shape", "expected"),
    [(0, (7, 6), 0), (0, (7,), 0), (1, (7,), None), (1, (6,), 0), (0, (7, 1), 0), (1, (7, 1), None), (0, (), None)],
)
def test_another_mesh_shards_a_tensor_like_its_parameter(
    dim: int, shape: tuple[int, ...], expected: int | None, mesh: Any
) -> None:
    from torch.distributed.tensor import Replicate, Shard

    fsdp = Replicate() if expected is None else Shard(expected)
    for text in ("dp=6:0", ""):
        assert [*dtensor.target_placements(shape, sharded(mesh, dim), text)] == [Replicate(), fsdp]


@pytest.mark.parametrize("shape", [(5,), (7, 6, 1), (3, 3)])
def test_a_shape_that_shows_no_dimension_is_an_error(shape: tuple[int, ...], mesh: Any) -> None:
    with pytest.raises(ValueError, match=r"does not show which dimensions of \(7, 6\) it has"):
        dtensor.target_placements(shape, sharded(mesh), "")
    with pytest.raises(ValueError, match=r"shape \(4,\) does not show"):
        dtensor.target_placements((4,), sharded(mesh, shape=(4, 4)), "")


def test_a_local_tensor_takes_the_placements_of_another(mesh: Any) -> None:
    value = sharded(mesh)
    again = dtensor.from_local_like(torch.ones(value.to_local().shape), value)
    assert (again.shape, again.placements, again.device_mesh) == (value.shape, value.placements, value.device_mesh)


def test_what_cannot_be_stored_has_a_reason(mesh: Any) -> None:
    from torch.distributed.tensor import DTensor, Partial, Replicate

    partial = DTensor.from_local(torch.ones(2), mesh, [Partial(), Replicate()], run_check=False)
    assert "a pending reduction; redistribute it first" in str(dtensor.unsupported_reason(partial))
    with pytest.raises(ValueError, match="only Shard and Replicate are supported"):
        dtensor.describe_placements(partial)
