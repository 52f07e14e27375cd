"""A rehearsal fails as the save would, and leaves no trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from solo import Box, alone, bits
from torch import nn

from dcp_runner import CheckpointError, StateComponent
from dcp_runner.checkpoint import digest
from dcp_runner.checkpoint.state.rng import RngState


def parts(**more: Any) -> list[StateComponent]:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(3, 2)).sum().backward()
    optimizer.step()
    made = {"model": model, "optimizer": optimizer, "own": Box({"a": torch.ones(2), "n": 3}), "rng": RngState(), **more}
    return [StateComponent(key, stateful) for key, stateful in made.items()]


def test_it_writes_nothing_draws_nothing_and_reads_no_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    components = parts()
    coordinator = alone(tmp_path / "folder", *components)
    read: list[int] = []
    host_bytes = digest.host_bytes
    monkeypatch.setattr(digest, "host_bytes", lambda tensor: read.append(tensor.ndim) or host_bytes(tensor))
    before = [bits(one.stateful.state_dict()) for one in components]
    coordinator.rehearse()
    assert [bits(one.stateful.state_dict()) for one in components] == before
    assert set(read) == {0} and not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("bad", [{"x": [len]}, {"x": torch.empty(1, device="meta")}, {"x": {nn.ReLU: 1}}])
def test_its_error_is_that_of_the_save(bad: Any, tmp_path: Path) -> None:
    coordinator = alone(tmp_path / "folder", *parts(bad=Box(bad)))
    texts = []
    for what in (coordinator.rehearse, lambda: coordinator.save(1)):
        with pytest.raises(CheckpointError) as failure:
            what()
        texts.append((failure.value.phase, failure.value.types, str(failure.value)))
    assert (
        texts[0] == texts[1]
        and texts[0][:2] == ("plan", {"UnsupportedStateError"})
        and "component 'bad'" in texts[0][2]
    )
