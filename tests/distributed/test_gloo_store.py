"""What saves and loads leave in the rendezvous store, which lives as long as the run."""

from __future__ import annotations

from pathlib import Path

from gloo_ranks import Rank, caught, run
from gloo_states import Box

from dcp_runner.checkpoint.component import StateComponent
from dcp_runner.checkpoint.coordinator import CheckpointCoordinator
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
