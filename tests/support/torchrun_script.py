"""A user's script under torchrun: the library alone, with nothing of ours that starts ranks."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from dcp_runner.checkpoint.component import StateComponent
from dcp_runner.checkpoint.coordinator import CheckpointCoordinator
from dcp_runner.checkpoint.topology import Topology


class Numbers:
    """A tensor as a Stateful."""

    def __init__(self, value: float) -> None:
        self.tensor = torch.full((3,), value)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"tensor": self.tensor}

    def load_state_dict(self, state_dict: dict[str, torch.Tensor]) -> None:
        self.tensor = state_dict["tensor"]


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    topology = Topology.from_env(pp=2, dp=-1)
    held = {
        "stage": (Numbers(rank // 2), "per_group:dp"),
        "cache": (Numbers(rank), "per_node"),
        "progress": (Numbers(7), "replicated"),
    }
    components = [StateComponent(key, value, sharing) for key, (value, sharing) in held.items()]
    coordinator = CheckpointCoordinator(components, topology, folder / "run", timeout_s=60)
    saved = coordinator.save(5, metrics={"eval_loss": 2.0})
    for value, _ in held.values():
        value.tensor = torch.zeros(3)
    report = coordinator.load("best")
    told = {key: value.tensor.tolist() for key, (value, _) in held.items()}
    told |= {"nodes": topology.nodes, "axes": topology.mesh, "step": report.step, "saved": saved.name}
    (folder / f"{rank}.json").write_text(json.dumps(told | {"world": int(os.environ["WORLD_SIZE"])}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
