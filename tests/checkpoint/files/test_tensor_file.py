"""What lies on disk opens with people's tools: safetensors as it is, and the index that Hugging Face's loaders read."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from solo import Box, alone, bits, header_of
from torch import nn

from dcp_runner import StateComponent
from dcp_runner.checkpoint.files.tensor_file import CODES


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
