"""A checkpoint of any topology loads under any other, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_ranks import Rank, run
from gloo_topologies import TOPOLOGIES, Live, build, meshes, topology_of, trained, whole

from dcp_runner.checkpoint.component import StateComponent
from dcp_runner.checkpoint.coordinator import CheckpointCoordinator

pytestmark = pytest.mark.timeout(180)
NAMES = list(TOPOLOGIES)


def coordinator_of(live: Live, folder: Path, comm: Any) -> CheckpointCoordinator:
    components = [StateComponent("model", live.model), StateComponent("optimizer", live.optimizer)]
    return CheckpointCoordinator(components, live.topology, folder, comm=comm)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and one == other


def made_again(root: Path, rank: Rank, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Save under the first topology of each pair, load under the second; what differs from what was saved."""
    mesh_of = meshes()
    reference = trained()
    expected = whole(reference)
    if rank.number == 0:
        coordinator_of(reference, root / "source", rank.comm("source", 1)).save(1)
    rank.meet_again("source")
    for saved in dict.fromkeys(saved for saved, _ in pairs):
        live, comm = here(saved, mesh_of, rank, f"save {saved}")
        if live:
            coordinator = coordinator_of(live, root / saved, comm)
            coordinator.load(root / "source" / "checkpoint-1")
            coordinator.save(2)
    rank.meet_again("saved")
    told: dict[tuple[str, str], str] = {}
    for saved, loaded in pairs:
        live, comm = here(loaded, mesh_of, rank, f"{saved} to {loaded}")
        if live:
            coordinator_of(live, root / loaded, comm).load(root / saved / "checkpoint-2")
            found = whole(live)
            names = set(expected) if "pp" in TOPOLOGIES[loaded] else set(found)
            wrong = [name for name in found if not same(found[name], expected[name])]
            told[saved, loaded] = ", ".join([*wrong, *(set(expected) - names)])
    return told


def here(name: str, mesh_of: Any, rank: Rank, talk: str) -> tuple[Live | None, Any]:
    """Fresh objects under the topology, with weights of no checkpoint, and a Comm; nothing on ranks that it lacks."""
    size = topology_of(name).world_size
    if rank.number >= size:
        return None, None
    return build(name, mesh_of.get(name), rank.number, seed=len(talk)), rank.comm(talk, size)


def on_eight(root: Path, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """The union of what all ranks have told of each pair; a pair of which nobody has told is missing."""

    def body(rank: Rank) -> dict[tuple[str, str], str]:
        with rank.process_group():
            return made_again(root, rank, pairs)

    everyone = run(body, 8, limit_s=280)
    return {pair: "".join(told.get(pair, "") for told in everyone) for pair in everyone[0]}


FEW = [
    ("fsdp 4", "dp_pp_tp 2x2x2"),
    ("dp_pp_tp 2x2x2", "fsdp_tp 2x2"),
    ("hsdp 2x2", "pipeline 4"),
    ("pipeline 2", "tp 2"),
    ("dp_tp 2x2", "ddp 2"),
    ("fsdp_tp 2x2", "single"),
]


def test_a_checkpoint_of_one_topology_loads_under_another(tmp_path: Path) -> None:
    """What they save they have from a checkpoint of single."""
    assert on_eight(tmp_path, FEW) == dict.fromkeys(FEW, "")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_checkpoint_of_any_topology_loads_under_any_other(tmp_path: Path) -> None:
    pairs = [(saved, loaded) for saved in NAMES for loaded in NAMES]
    assert on_eight(tmp_path, pairs) == dict.fromkeys(pairs, "")
