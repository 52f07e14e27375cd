"""What saves and loads leave in the rendezvous store, which lives as long as the run."""

from __future__ import annotations

from pathlib import Path

from gloo_ranks import Rank, caught, run
from gloo_states import Box

from dcp_runner.checkpoint.component import StateComponent
from dcp_runner.checkpoint.coordinator import CheckpointCoordinator
from dcp_runner.checkpoint.topology import Topology

MEETING = 2
"""Keys of each of this test's own meetings."""
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
            sizes.append(rank._store.num_keys() - MEETING * step)
        return sizes

    first, *_ = everyone = run(body, 2)
    assert first == [first[0]] * 3 + [first[0] + CONNECTION * failures for failures in (1, 2, 3)]
    assert everyone == [first] * 2
