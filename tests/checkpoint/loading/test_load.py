"""A load changes all objects or none, and says what it did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from boxes import boxes, failure_of
from solo import Box, alone, bits

from dcp_runner import StateComponent


class Fresh(Box):
    """Notes what it is told when it starts afresh."""

    def reset(self, step: int, rank: int) -> None:
        self.state = {"fresh": (step, rank)}


def test_fresh_on_demand(tmp_path: Path) -> None:
    box = Fresh({"of": "a"})
    coordinator = alone(tmp_path, StateComponent("a", box))
    coordinator.save(3)
    coordinator.load(3, fresh=["a"])
    assert box.state == {"fresh": (3, 0)}


class Stubborn(Box):
    def load_state_dict(self, state: Any) -> None:
        raise RuntimeError("no, thank you")


def test_an_object_that_fails_to_load_is_told_in_its_own_words(tmp_path: Path) -> None:
    box = Stubborn({})
    coordinator = alone(tmp_path, StateComponent("a", box))
    coordinator.save(1)
    error = failure_of(coordinator, 1)
    assert error.phase == "apply" and "RuntimeError: no, thank you" in str(error)


def test_nothing_changes_where_one_of_several_components_does_not_fit(tmp_path: Path) -> None:
    boxes(tmp_path, "replicated", "ab")[1].save(1)
    made = {"a": Box({}), "b": Box({})}
    coordinator = alone(tmp_path, StateComponent("a", made["a"]), StateComponent("b", made["b"], "per_rank"))
    failure_of(coordinator, 1)
    assert bits([box.state for box in made.values()]) == bits([{}, {}])


def test_a_model_on_the_meta_device_takes_nothing(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    alone(tmp_path, StateComponent("model", model)).save(1)
    live = torch.nn.Linear(2, 2, device="meta")
    assert "weight: on the meta device here" in str(failure_of(alone(tmp_path, StateComponent("model", live)), 1))
