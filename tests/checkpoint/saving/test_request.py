"""What a save is asked for: steps and metrics."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from solo import boxed

from dcp_runner import CheckpointError


@pytest.mark.parametrize(
    ("step", "metrics", "told"),
    [
        (-1, {}, "a step is a whole number from 0 on; found -1"),
        (1.0, {}, "found 1.0"),
        (1, {"loss": "low"}, "metrics are numbers that fit a float, by name; 'loss' is 'low'"),
        (1, {"loss": [1]}, "'loss' is [1]"),
        (1, {"fine": 1.0, "loss": 10**400, "speed": 10**9999}, "'loss' is a whole number of 1329 bits, 'speed' is a"),
        (1, {"loss": 1j, "x": np.complex64(1)}, "'loss' is 1j, 'x' is "),
        (1, {"loss": torch.zeros(2)}, "'loss' is tensor("),
        (1, {"loss": torch.empty((), device="meta")}, "'loss' is tensor("),
        (1, {1: 0.5}, "1 is 0.5"),
        (1, {"loss": None}, "'loss' is None"),
        ("1", {}, "found '1'"),
        (True, {}, "found True"),
        (torch.tensor(1.0), {}, "found tensor(1.)"),
    ],
)
def test_what_cannot_be_recorded_is_refused_before_anything_is_written(
    step: Any, metrics: Any, told: str, tmp_path: Path
) -> None:
    _, coordinator = boxed(tmp_path, {"x": 1})
    written: list[Path] = []
    with pytest.raises(RuntimeError, match=re.escape(told)):
        coordinator.save(step, metrics, add_files=written.append)
    assert coordinator.list() == {} and not written


@pytest.mark.parametrize("value", [torch.tensor(0.5), np.float32(0.5), np.float64(0.5), np.array(0.5), 0.5])
def test_a_metric_may_be_any_single_number(value: Any, tmp_path: Path) -> None:
    _, coordinator = boxed(tmp_path, {"x": 1})
    coordinator.save(1, {"loss": value, "steps": 2**60})
    assert coordinator.list()[1].metrics == {"loss": 0.5, "steps": float(2**60)}


@pytest.mark.parametrize("step", [np.int64(7), np.uint8(7), torch.tensor(7), 7])
def test_a_step_may_be_any_whole_number(step: Any, tmp_path: Path) -> None:
    _, coordinator = boxed(tmp_path, {"x": 1})
    assert coordinator.save(step, {"loss": 0.5}) == tmp_path / "checkpoint-7"
    assert coordinator.load(7).step == 7 and list(coordinator.list()) == [7]
    with pytest.raises(CheckpointError, match="checkpoint-7 is a committed checkpoint"):
        coordinator.save(step)
