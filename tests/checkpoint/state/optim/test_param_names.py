"""The parameters of an optimizer have the names of their models, or their positions."""

from __future__ import annotations

from pathlib import Path

import torch
from solo import alone, bits
from torch import nn
from torch.optim import Optimizer

from dcp_runner import StateComponent, Topology
from dcp_runner.checkpoint.state.modules import ModelState
from dcp_runner.checkpoint.state.optim.param_names import ParamNames


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3, bias=False), nn.Linear(3, 2))


def train(model: nn.Module, optimizer: Optimizer, steps: int) -> None:
    inputs, targets = torch.linspace(-1, 1, 24).view(6, 4), torch.linspace(0, 1, 12).view(6, 2)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    for _ in range(steps):
        optimizer.step(closure)


def test_one_optimizer_of_two_models_keeps_their_states_apart(tmp_path: Path) -> None:
    def two(seed: int) -> tuple[list[nn.Linear], Optimizer, list[StateComponent]]:
        torch.manual_seed(seed)
        models = [nn.Linear(2, 2), nn.Linear(2, 2)]
        optimizer = torch.optim.AdamW([p for model in models for p in model.parameters()], 0.1)
        parts = [
            StateComponent(key, one)
            for key, one in (("first", models[0]), ("second", models[1]), ("optimizer", optimizer))
        ]
        return models, optimizer, parts

    def step(models: list[nn.Linear], optimizer: Optimizer) -> None:
        optimizer.zero_grad()
        models[1](models[0](torch.eye(2))).square().sum().backward()
        optimizer.step()

    (models, optimizer, parts), (others, second, more) = two(0), two(1)
    step(models, optimizer)
    alone(tmp_path, *parts).save(1)
    alone(tmp_path, *more).load(1)
    for _ in range(2):
        step(models, optimizer)
        step(others, second)
    assert bits([one.state_dict() for one in models]) == bits([one.state_dict() for one in others])


def test_an_optimizer_without_a_model_component_goes_by_places(tmp_path: Path) -> None:
    model, other = network(), network(seed=1)
    optimizer, second = (torch.optim.AdamW(one.parameters(), 0.05) for one in (model, other))
    train(model, optimizer, 2)
    alone(tmp_path, StateComponent("optimizer", optimizer)).save(1)
    alone(tmp_path, StateComponent("optimizer", second)).load(1)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert bits(optimizer.state[one]) == bits(second.state[two])


def test_names_prefixes_and_positions() -> None:
    first, second, outside = nn.Linear(2, 2), nn.Linear(2, 2), nn.Parameter(torch.ones(1))
    models = [ModelState(model, key, Topology(1)) for key, model in (("first", first), ("second", second))]
    groups = [{"params": [first.weight]}, {"params": [second.weight, second.bias, outside]}]
    names = ParamNames(torch.optim.SGD(groups, 0.1), models)
    grouped = [(named.name, named.group_index) for named in names.grouped()]
    assert grouped == [("first.weight", 0), ("second.weight", 1), ("bias", 1), ("1.2", 1)]
    joining = [(named.name, named.group_index) for named in names.grouped([(first.bias, 2)])]
    assert joining == [("first.weight", 0), ("second.weight", 1), ("second.bias", 1), ("1.2", 1), ("first.bias", 2)]
    assert names.model_keys()[id(second.bias)] == "second" and id(outside) not in names.model_keys()


def test_a_bare_name_means_a_model_with_parameters_in_the_optimizer() -> None:
    trained, frozen = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2))
    frozen.weight, frozen.other = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    models = [ModelState(model, key, Topology(1)) for key, model in (("trained", trained), ("frozen", frozen))]
    available = ParamNames(torch.optim.SGD([trained.bias], 0.1), models).available()
    assert available["weight"] is trained.weight and available["frozen.weight"] is frozen.weight
    assert available["bias"] is trained.bias and available["other"] is frozen.other and "0.weight" in available
