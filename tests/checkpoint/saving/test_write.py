"""The index of a copy in several files."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from few_ranks import among
from safetensors.torch import load_file
from solo import alone, bits, stored_names, strict_json
from torch import nn

from dcp_runner import CheckpointCoordinator, StateComponent, Topology
from dcp_runner.checkpoint.sync.comm import Comm


def test_a_model_of_several_parts_has_the_index_of_hugging_face(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = nn.ModuleDict({name: nn.Linear(512, 512) for name in "abcd"})

    def save(comm: Comm) -> Path:
        return CheckpointCoordinator(
            [StateComponent("model", model, "replicated")], Topology(2), tmp_path, comm=comm
        ).save(1)

    path = among(2, save)[0]
    index = json.loads((path / "model.safetensors.index.json").read_text())
    parts = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert sorted(file.name for file in path.glob("model*")) == [*parts, "model.safetensors.index.json"]
    assert index["weight_map"] == {name: part for part in parts for name in stored_names(path / part)}
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in model.state_dict().values())
    loaded = {
        name: tensor
        for part in sorted(set(index["weight_map"].values()))
        for name, tensor in load_file(path / part).items()
    }
    assert {n: bits(t) for n, t in loaded.items()} == {n: bits(t) for n, t in model.state_dict().items()}
    assert len(list(strict_json(path))) == 2 + 2 * len(parts)
    sizes = [sum(t.nbytes for t in load_file(path / part).values()) for part in parts]
    assert max(sizes) - min(sizes) <= 512 * 4 * 4, "the ranks share the bytes out"

    other = nn.ModuleDict({name: nn.Linear(512, 512) for name in "abcd"})
    alone(tmp_path, StateComponent("model", other)).load(1)
    assert bits(other.state_dict()) == bits(model.state_dict())
