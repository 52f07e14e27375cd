"""What saves and loads leave in the rendezvous store, which lives as long as the run."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from gloo_ranks import Rank, caught, run
from gloo_states import Box
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from dcp_runner.checkpoint.component import StateComponent
from dcp_runner.checkpoint.coordinator import CheckpointCoordinator
from dcp_runner.checkpoint.files.storage import Storage
from dcp_runner.checkpoint.state.flatten import flatten
from dcp_runner.checkpoint.topology import Topology

MEETINGS = 4
"""Keys of this test's own two meetings in each round."""
CONNECTION = 2
"""Keys by which gloo connects two ranks, anew after each failure."""


def test_the_store_does_not_grow_with_saves_loads_and_failures(tmp_path: Path) -> None:
    def body(rank: Rank) -> list[int]:
        box = Box({"a": 1})
        coordinator = CheckpointCoordinator(
            [StateComponent("thing", box)], Topology(2), tmp_path, comm=rank.comm("store")
        )
        sizes = []
        for step in range(1, 7):
            coordinator.save(step)
            coordinator.load("latest")
            if step > 3:
                box.state = {"a": rank.number}
                assert "'a'" in caught(lambda step=step: coordinator.save(100 + step)).text
                box.state = {"a": 1}
            coordinator.list()
            rank.meet_again(f"after {step}")
            sizes.append(rank._store.num_keys() - MEETINGS * (step - 1))
            rank.meet_again(f"counted {step}")
        return sizes

    for sizes in run(body, 2):  # to one key more or less, because the other rank may be at the next meeting already
        assert abs(sizes[2] - sizes[0]) <= 1 and sizes[5] - sizes[2] <= 3 * CONNECTION + 1, sizes


def test_after_a_claim_that_failed_the_ranks_are_in_step(tmp_path: Path) -> None:
    """Nothing of the claim is in force on any rank."""

    def body(rank: Rank) -> tuple[str, str]:
        coordinator = CheckpointCoordinator(
            [StateComponent("thing", Box({"a": 1}))], Topology(2), tmp_path, comm=rank.comm("claim")
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Storage, "_remove_leftovers", busy)
            failed = caught(lambda: coordinator.save(1)).text
        return failed, caught(lambda: coordinator.save(1)).text

    (failed, then), other = run(body, 2)
    assert "Device or resource busy" in failed and then == "" and other == (failed, then)


def busy(storage: Storage, owner: object) -> None:
    raise OSError(errno.EBUSY, "Device or resource busy")


def test_two_parts_on_one_memory_are_two_tensors(tmp_path: Path) -> None:
    def body(rank: Rank) -> list[str]:
        with rank.process_group():
            mesh, local = DeviceMesh("cpu", torch.arange(2), mesh_dim_names=("dp",)), torch.ones(2, 2)
            tensors = {"rows": [Shard(0)], "columns": [Shard(1)], "again": [Shard(0)]}
            state = {name: DTensor.from_local(local, mesh, how, run_check=False) for name, how in tensors.items()}
            return [*flatten(state).tensors]

    assert run(body, 2) == [["rows", "columns"]] * 2
