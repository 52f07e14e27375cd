"""What lies on disk opens with people's tools: safetensors as it is, and the index that Hugging Face's loaders read."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from solo import Box, alone, bits, header_of, stored_names, strict_json
from torch import nn
from torch.distributed import HashStore

from dcp_runner import CheckpointCoordinator, StateComponent, Topology
from dcp_runner.checkpoint.files.tensor_file import CODES
from dcp_runner.checkpoint.sync.comm import Comm


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2).bfloat16())


def test_a_model_lies_there_under_its_plain_names(tmp_path: Path) -> None:
    model = network()
    path = alone(tmp_path, StateComponent("model", model)).save(1)
    assert sorted(file.name for file in path.iterdir()) == ["checkpoint_manifest.json", "model.safetensors"]
    loaded = load_file(path / "model.safetensors")
    assert {name: bits(tensor) for name, tensor in loaded.items()} == {
        n: bits(t) for n, t in model.state_dict().items()
    }
    network().load_state_dict(loaded)
    with safe_open(path / "model.safetensors", "pt") as file:
        assert sorted(file.keys()) == sorted(model.state_dict()) and file.metadata()["format"] == "pt"
        assert bits(file.get_slice("0.weight")[1:3]) == bits(model.state_dict()["0.weight"][1:3])


def test_every_dtype_that_safetensors_knows_opens_there(tmp_path: Path) -> None:
    state = {name: torch.arange(2, dtype=torch.uint8).repeat(16).view(getattr(torch, name)) for name in CODES}
    path = alone(
        tmp_path, StateComponent("box", Box({**state, "empty": torch.empty(0, 2), "0-d": torch.tensor(2)}))
    ).save(1)
    loaded = load_file(path / "box.safetensors")
    assert all(bits(loaded[name]) == bits(tensor) for name, tensor in state.items())
    assert loaded["empty"].shape == (0, 2) and loaded["0-d"] == 2


def test_data_is_aligned_and_nothing_but_the_tensors_follows_the_header(tmp_path: Path) -> None:
    state = {
        "a": torch.ones(3, dtype=torch.uint8),
        "b": torch.ones(1, dtype=torch.float64),
        "c": torch.ones(3, dtype=torch.float16),
    }
    path = alone(tmp_path, StateComponent("box", Box(state))).save(1) / "box.safetensors"
    header = json.loads(header_of(path))
    begin = 8 + len(header_of(path))
    assert begin % 8 == 0 and path.stat().st_size == begin + 3 + 8 + 6
    assert all((begin + header[name]["data_offsets"][0]) % tensor.element_size() == 0 for name, tensor in state.items())


def among(size: int, work: Callable[[Comm], Any]) -> list[Any]:
    """Do the work as so many ranks, each a thread of this process."""
    store, results = HashStore(), [None] * size

    def run(rank: int) -> None:
        results[rank] = work(Comm(store, rank, size, timeout_s=20))

    threads = [threading.Thread(target=run, args=[rank]) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


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
