"""Optimizers as components: strict, by parameter name, and training continues as if it had never stopped."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from solo import Box, alone, bits
from torch import nn
from torch.optim import Optimizer

from dcp_runner import CheckpointError, StateComponent
from dcp_runner.checkpoint.state.modules import ModelState
from dcp_runner.checkpoint.state.optim.optimizers import OptimizerState
from dcp_runner.checkpoint.topology import Topology


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3, bias=False), nn.Linear(3, 2))


Maker = Callable[[nn.Sequential], Optimizer]
OPTIMIZERS: dict[str, Maker] = {
    "SGD": lambda m: torch.optim.SGD(m.parameters(), 0.1),
    "momentum": lambda m: torch.optim.SGD(m.parameters(), 0.1, momentum=0.9, nesterov=True),
    "Adam": lambda m: torch.optim.Adam(m.parameters(), 0.01, amsgrad=True),
    "AdamW": lambda m: torch.optim.AdamW(m.named_parameters(), 0.01),
    "fused": lambda m: torch.optim.AdamW(m.parameters(), 0.01, fused=True),
    "lr as a tensor": lambda m: torch.optim.AdamW(m.parameters(), torch.tensor(0.01)),
    "Adagrad": lambda m: torch.optim.Adagrad(m.parameters(), 0.1),
    "RMSprop": lambda m: torch.optim.RMSprop(m.parameters(), 0.01, centered=True, momentum=0.5),
    "NAdam": lambda m: torch.optim.NAdam(m.parameters(), 0.01),
    "RAdam": lambda m: torch.optim.RAdam(m.parameters(), 0.01),
    "ASGD": lambda m: torch.optim.ASGD(m.parameters(), 0.1),
    "Adafactor": lambda m: torch.optim.Adafactor(m.parameters(), 0.1),
    "Rprop": lambda m: torch.optim.Rprop(m.parameters(), 0.01),
    "LBFGS": lambda m: torch.optim.LBFGS(m.parameters(), 0.5, max_iter=3),
    "groups": lambda m: torch.optim.AdamW(
        [{"params": m[0].parameters(), "lr": 0.1}, {"params": m[2:].parameters(), "betas": (0.5, 0.6), "own": ["x"]}],
        0.01,
    ),
}


def train(model: nn.Module, optimizer: Optimizer, steps: int) -> None:
    inputs, targets = torch.linspace(-1, 1, 24).view(6, 4), torch.linspace(0, 1, 12).view(6, 2)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    for _ in range(steps):
        optimizer.step(closure)


def components(model: nn.Module, optimizer: Optimizer) -> list[StateComponent]:
    return [StateComponent("model", model), StateComponent("optimizer", optimizer)]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    model = network()
    optimizer = OPTIMIZERS[name](model)
    train(model, optimizer, 3)
    alone(tmp_path, *components(model, optimizer)).save(3)
    other = network(seed=1)
    second = OPTIMIZERS[name](other)
    train(other, second, 1)
    alone(tmp_path, *components(other, second)).load(3)
    groups = [
        [{key: value for key, value in group.items() if key != "params"} for group in one.param_groups]
        for one in (optimizer, second)
    ]
    assert bits(groups[0]) == bits(groups[1])
    train(model, optimizer, 3)
    train(other, second, 3)
    assert bits(other.state_dict()) == bits(model.state_dict())


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_another_grouping_with_equal_options_works_and_another_order_too(cut: int, tmp_path: Path) -> None:
    model, other = network(), network(seed=1)
    optimizer = torch.optim.AdamW(model.parameters(), 0.05)
    train(model, optimizer, 3)
    alone(tmp_path, *components(model, optimizer)).save(3)
    parameters = list(reversed(list(other.parameters())))
    groups = [part for part in (parameters[:cut], parameters[cut:]) if part]
    second = torch.optim.AdamW([{"params": part, "lr": 7.0} for part in groups], 0.01)
    alone(tmp_path, *components(other, second)).load(3)
    assert [len(group["params"]) for group in second.param_groups] == [len(part) for part in groups], (
        "the live grouping stays"
    )
    assert {group["lr"] for group in second.param_groups} == {0.05}
    train(model, optimizer, 3)
    train(other, second, 3)
    assert bits(other.state_dict()) == bits(model.state_dict())


def test_different_options_within_one_live_group_are_an_error(tmp_path: Path) -> None:
    model, other = network(), network(seed=1)
    groups = [
        {"params": model[0].parameters(), "weight_decay": 0.1},
        {"params": model[2:].parameters(), "weight_decay": 0.0, "lr": 0.5},
    ]
    alone(tmp_path, *components(model, torch.optim.AdamW(groups, 0.1))).save(1)
    second = torch.optim.AdamW(other.parameters(), 0.1)
    before = bits([other.state_dict(), second.state_dict()])
    with pytest.raises(CheckpointError) as failure:
        alone(tmp_path, *components(other, second)).load(1, strict=False)
    assert failure.value.types == {"MismatchError"} and before == bits([other.state_dict(), second.state_dict()])
    assert "2.weight and 0.weight are in one group here, but were saved with different ['lr', 'weight_decay']" in str(
        failure.value
    )


def test_before_the_first_step_there_is_no_state_and_saving_makes_none(tmp_path: Path) -> None:
    model, other = network(), network(seed=1)
    optimizer, second = (torch.optim.AdamW(one.parameters(), 0.1) for one in (model, other))
    before = bits(model.state_dict())
    alone(tmp_path, *components(model, optimizer)).save(0)
    assert bits(model.state_dict()) == before and not optimizer.state
    train(other, second, 2)
    alone(tmp_path, *components(other, second)).load(0)
    assert not second.state, "what the checkpoint has not is gone"
    train(model, optimizer, 2)
    train(other, second, 2)
    assert bits(other.state_dict()) == bits(model.state_dict())


def test_parameters_without_gradient_have_no_state_and_do_not_disturb(tmp_path: Path) -> None:
    def frozen(seed: int) -> tuple[nn.Sequential, Optimizer]:
        model = network(seed)
        model[0].weight.requires_grad_(False)
        model.unused = nn.Parameter(torch.full((2,), float(seed)))  # type: ignore[assignment]
        return model, torch.optim.AdamW(model.parameters(), 0.05)

    (model, optimizer), (other, second) = frozen(0), frozen(1)
    train(model, optimizer, 2)
    path = alone(tmp_path, *components(model, optimizer)).save(2)
    alone(tmp_path, *components(other, second)).load(path)
    assert len(second.state) == len(optimizer.state) == 4
    train(model, optimizer, 2)
    train(other, second, 2)
    assert bits(other.state_dict()) == bits(model.state_dict())


@pytest.mark.parametrize("strict", [True, False])
def test_other_parameters_are_named_with_near_ones(strict: bool, tmp_path: Path) -> None:
    saved, live = (nn.ParameterDict({name: torch.ones(2), "b": torch.ones(2)}) for name in ("a_weight", "a_weigth"))
    first, second = (torch.optim.SGD(model.parameters(), 0.1, momentum=0.9) for model in (saved, live))
    for parameter in saved.parameters():
        parameter.grad = torch.ones(2)
    first.step()
    alone(tmp_path, *components(saved, first)).save(1)
    coordinator = alone(tmp_path, *components(live, second))
    if strict:
        with pytest.raises(CheckpointError) as failure:
            coordinator.load(1)
        told = str(failure.value)
    else:
        told = "\n".join(coordinator.load(1, strict=False).accepted)
        assert list(second.state) == [live["b"]]
    for component in ("model", "optimizer"):
        assert f"{component}: missing in the checkpoint: a_weigth (near: a_weight)" in told
        assert f"{component}: unexpected in the checkpoint: a_weight (near: a_weigth)" in told


def test_what_is_no_optimizers_state_says_so(tmp_path: Path) -> None:
    optimizer = torch.optim.SGD(network().parameters(), 0.1)
    alone(tmp_path, StateComponent("optimizer", Box(copy.deepcopy(optimizer.state_dict())))).save(1)
    with pytest.raises(
        CheckpointError, match="optimizer: what was saved is not the state of an optimizer by parameter names"
    ):
        alone(tmp_path, StateComponent("optimizer", optimizer)).load(1, strict=False)


def test_a_scheduler_and_its_optimizer_go_on_together(tmp_path: Path) -> None:
    def make() -> tuple[Optimizer, Any, list[StateComponent]]:
        optimizer = torch.optim.SGD(network().parameters(), 0.1)
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4, 4], 0.5)
        return optimizer, scheduler, [StateComponent("optimizer", optimizer), StateComponent("scheduler", scheduler)]

    def rates(optimizer: Optimizer, scheduler: Any) -> list[float]:
        found = []
        for _ in range(4):
            optimizer.step()
            scheduler.step()
            found.append(optimizer.param_groups[0]["lr"])
        return found

    optimizer, scheduler, parts = make()
    rates(optimizer, scheduler)
    alone(tmp_path, *parts).save(1)
    second, again, more = make()
    alone(tmp_path, *more).load(1)
    assert rates(second, again) == rates(optimizer, scheduler)


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
