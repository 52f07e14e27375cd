"""An optimizer that would lose something is refused by name, with what is missing and what to do, before any write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_optimizer as more
import torch
from solo import alone
from torch import nn
from torch.optim import SGD, Optimizer

from dcp_runner import CheckpointError, StateComponent


class Raising(SGD):
    def state_dict(self) -> dict[str, Any]:
        raise RuntimeError("it has not been consolidated.")


class Elsewhere(SGD):
    """Gives state for parameters of which its `state` has none."""

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"state": {0: {"sum": torch.ones(2)}}}


class Bare(Optimizer):
    """Looks like one only."""

    def __init__(self, params: Any) -> None:
        self.inner = SGD(params, 0.1)


class Foreign(SGD):
    """Keeps state for a parameter that it does not train."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr)
        self.other = nn.Parameter(torch.ones(1))

    def state_dict(self) -> dict[str, Any]:
        return {"state": {}, "param_groups": []}

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.state[self.other]["sum"] = torch.ones(1)


class Forgetful(SGD):
    """Its load_state_dict() does not take what its state_dict() gives."""

    count = 0

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"count": self.count}


AT_ONCE: dict[str, tuple[Callable[[nn.Module], Optimizer], list[str]]] = {
    "raises": (
        lambda m: Raising(m.parameters(), 0.1),
        ["Raising", "RuntimeError: it has not been consolidated", "fsdp"],
    ),
    "one inside raises": (lambda m: more.SAM(m.parameters(), Raising, lr=0.1), ["Raising", "not been consolidated"]),
    "elsewhere": (lambda m: Elsewhere(m.parameters(), 0.1), ["Elsewhere", "keeps some state elsewhere"]),
    "no groups": (lambda m: Bare(m.parameters()), ["Bare", "no state and no param_groups", "the optimizer inside it"]),
    "lost inside": (
        lambda m: more.SAM(m.parameters(), more.Ranger21, num_iterations=9, lr=0.1),
        ["SAM", "'lookahead_step' of the Ranger21 inside it is not in its state_dict()"],
    ),
}


@pytest.mark.parametrize("name", AT_ONCE)
def test_refused_when_the_coordinator_is_made(name: str, tmp_path: Path) -> None:
    make, texts = AT_ONCE[name]
    model = nn.Linear(2, 2)
    with pytest.raises(CheckpointError) as failure:
        alone(tmp_path / "a", StateComponent("model", model), StateComponent("optimizer", make(model)))
    assert failure.value.phase == "open" and failure.value.types == {"UnsupportedStateError"}
    assert all(text in str(failure.value) for text in texts), failure.value


def test_refused_at_the_save(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    optimizer = Foreign(model.parameters(), 0.1)
    coordinator = alone(tmp_path, StateComponent("model", model), StateComponent("optimizer", optimizer))
    coordinator.save(0)
    optimizer.step()
    with pytest.raises(CheckpointError, match=r"Foreign.*it keeps 'sum' for a parameter that is in none of its groups"):
        coordinator.save(1)
    assert list(coordinator.list()) == [0]


def test_a_load_without_effect_is_an_error(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    optimizer = Forgetful(model.parameters(), 0.1)
    coordinator = alone(tmp_path, StateComponent("model", model), StateComponent("optimizer", optimizer))
    optimizer.count = 3
    coordinator.save(1)
    optimizer.count = 0
    with pytest.raises(CheckpointError, match=r"Forgetful: its load_state_dict\(\) did not restore count as saved"):
        coordinator.load(1)


def test_what_goes_by_places_needs_the_same_groups(tmp_path: Path) -> None:
    def two(*order: int) -> list[StateComponent]:
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        groups = [{"params": model[number].parameters()} for number in order]
        optimizer = more.Magma(torch.optim.AdamW(groups, 0.1))
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        return [StateComponent("model", model), StateComponent("optimizer", optimizer)]

    alone(tmp_path, *two(0, 1)).save(1)
    with pytest.raises(CheckpointError) as failure:
        alone(tmp_path, *two(1, 0)).load(1, strict=False)
    assert failure.value.phase == "compare" and "magma_state, " in str(failure.value)
    assert "of the saved Magma cannot be resharded" in str(failure.value)
    alone(tmp_path, *two(0, 1)).load(1)
