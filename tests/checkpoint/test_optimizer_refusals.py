"""An optimizer of which something would be lost is refused by name: what is missing, and what to do; before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_optimizer as more
import torch
from solo import alone, bits
from torch import nn
from torch.optim import SGD, Optimizer

from dcp_runner import CheckpointError, StateComponent
from dcp_runner.checkpoint.state.modules import ModelState
from dcp_runner.checkpoint.state.optimizers import OptimizerState
from dcp_runner.checkpoint.topology import Topology


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
    make, told = AT_ONCE[name]
    model = nn.Linear(2, 2)
    with pytest.raises(CheckpointError) as failure:
        alone(tmp_path / "a", StateComponent("model", model), StateComponent("optimizer", make(model)))
    assert failure.value.phase == "open" and failure.value.types == {"UnsupportedStateError"}
    assert all(text in str(failure.value) for text in told), failure.value


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


def test_an_optimizer_with_others_inside_is_not_one_without(tmp_path: Path) -> None:
    def parts(wrapped: bool) -> list[StateComponent]:
        model = nn.Linear(2, 2)
        inner = torch.optim.AdamW(model.parameters(), 0.1)
        optimizer = more.Lookahead(inner) if wrapped else inner
        return [StateComponent("model", model), StateComponent("optimizer", optimizer)]

    for saved, here, told in (
        (True, False, "optimizer in the checkpoint, none here"),
        (False, True, "none in the checkpoint, optimizer here"),
    ):
        folder = tmp_path / str(saved)
        alone(folder, *parts(saved)).save(1)
        with pytest.raises(CheckpointError) as failure:
            alone(folder, *parts(here)).load(1, strict=False)
        assert failure.value.phase == "compare" and told in str(failure.value)


class Thin(Optimizer):
    """Around another optimizer, as Accelerate's is: all that it has is the other one's."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["optimizer"], name)

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)


KINDS: dict[str, Callable[[Any], Optimizer]] = {
    "AdamW": lambda params: torch.optim.AdamW(params, 0.1),
    "SGD": lambda params: SGD(params, 0.1, momentum=0.9),
    "Lookahead": lambda params: more.Lookahead(torch.optim.AdamW(params, 0.1)),
    "Lookahead of SGD": lambda params: more.Lookahead(SGD(params, 0.1)),
    "thin": lambda params: Thin(torch.optim.AdamW(params, 0.1)),
}


@pytest.mark.parametrize(
    ("saved", "here", "told"),
    [
        ("AdamW", "SGD", "optimizer: the optimizer was saved by AdamW, but is SGD here; keep it as it was built"),
        ("SGD", "AdamW", "the optimizer was saved by SGD, but is AdamW here"),
        ("SGD", "thin", "the optimizer was saved by SGD, but is AdamW here"),
        ("Lookahead", "Lookahead of SGD", "optimizer was saved by AdamW, but is SGD here"),
        ("AdamW", "thin", ""),
        ("thin", "AdamW", ""),
    ],
)
def test_an_optimizer_of_another_class_is_refused(saved: str, here: str, told: str, tmp_path: Path) -> None:
    def parts(kind: str) -> tuple[Optimizer, list[StateComponent]]:
        model = nn.Linear(2, 2)
        optimizer = KINDS[kind](model.parameters())
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        return optimizer, [StateComponent("model", model), StateComponent("optimizer", optimizer)]

    (first, parts_there), (second, parts_here) = parts(saved), parts(here)
    alone(tmp_path, *parts_there).save(1)
    before = bits(second.state_dict())
    if told:
        with pytest.raises(CheckpointError) as failure:
            alone(tmp_path, *parts_here).load(1, strict=False)
        assert failure.value.phase == "compare" and told in str(failure.value)
        alone(tmp_path, *parts_here).load(1, skip=["optimizer"])
    else:
        alone(tmp_path, *parts_here).load(1)
    assert bits(second.state_dict()) == (before if told else bits(first.state_dict()))


def test_a_checkpoint_that_names_no_classes_loads_as_before() -> None:
    """Nor do those say of which model a parameter is that joined later."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = torch.optim.AdamW(model[0].parameters(), 0.1)
    older = OptimizerState(optimizer, [ModelState(model, "model", Topology(1))])
    optimizer.add_param_group({"params": [*model[1].parameters()], "lr": 0.5})
    state = older.state_dict()
    del state["kind"]
    state["options"]["1.bias"]["joined"] = state["options"]["1.weight"]["joined"] = True
    second = torch.optim.AdamW(model[0].parameters(), 0.3)
    live = OptimizerState(second, [ModelState(model, "model", Topology(1))])
    found = live.differences(state)
    assert not (found.mismatched or found.missing or found.unexpected)
    live.load_state_dict(state)
    assert bits(second.state_dict()) == bits(optimizer.state_dict())


def test_an_ordinary_optimizer_is_stored_as_ever() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = OptimizerState(optimizer, [ModelState(model, "model", Topology(1))]).state_dict()
    assert state.pop("kind") == {"": "AdamW"}
    assert set(state) == {"state", "options"} and set(state["state"]["bias"]) == {"step", "exp_avg", "exp_avg_sq"}
    assert "joined" not in state["options"]["bias"]
