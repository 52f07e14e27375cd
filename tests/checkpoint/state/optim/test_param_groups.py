"""Parameters and groups that are added to an optimizer later, in a training loop of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from solo import alone, bits
from torch import nn

from dcp_runner import CheckpointError, StateComponent


def beginning(seed: int = 0, first: bool = False) -> tuple[Any, Any, Any]:
    """A model whose second layer is frozen, its optimizer, and their coordinator's components; `first`: it joins before they are made."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].requires_grad_(False)
    optimizer = torch.optim.AdamW(model[0].parameters(), 0.1)
    if first:
        join(model, optimizer)
    return model, optimizer, [StateComponent("model", model), StateComponent("optimizer", optimizer)]


def join(model: Any, optimizer: Any) -> None:
    optimizer.add_param_group({"params": [*model[1].requires_grad_().parameters()], "lr": 0.02})


def train(model: Any, optimizer: Any, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("first", [False, True])
def test_they_join_again_on_a_load_or_before_it(first: bool, tmp_path: Path) -> None:
    model, optimizer, parts = beginning()
    coordinator = alone(tmp_path, *parts)
    train(model, optimizer, 2)
    join(model, optimizer)
    train(model, optimizer, 2)
    coordinator.save(4)
    other, second, more = beginning(1, first)
    again = alone(tmp_path, *more)
    again.load(4)
    assert [group["lr"] for group in second.param_groups] == [0.1, 0.02] and other[1].weight.requires_grad
    for one, its in ((model, optimizer), (other, second)):
        train(one, its, 3)
    assert bits(other.state_dict()) == bits(model.state_dict())
    again.save(7)
    third, its, last = beginning(2)
    alone(tmp_path, *last).load(7)
    assert len(its.param_groups) == 2 and bits(third.state_dict()) == bits(model.state_dict())


def test_what_was_there_from_the_beginning_does_not_come_back_by_itself(tmp_path: Path) -> None:
    """A layer that is frozen for the new run stays frozen."""
    model, optimizer, parts = beginning(first=True)
    train(model, optimizer, 1)
    alone(tmp_path, *parts).save(1)
    other, second, more = beginning()
    with pytest.raises(
        CheckpointError, match=r"unexpected in the checkpoint: 1\.weight, which is in no group here; add it"
    ):
        alone(tmp_path, *more).load(1)
    alone(tmp_path, *more).load(1, strict=False)
    assert len(second.param_groups) == 1 and not other[1].weight.requires_grad


# -- several models ----------------------------------------------------------------------------------------------------


def two(held: str, seed: int = 0) -> tuple[dict[str, Any], Any, list[StateComponent]]:
    """Two models of the same names, and an optimizer of the first layer of those whose keys are in `held`."""
    torch.manual_seed(seed)
    models: dict[str, Any] = {key: nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)) for key in "GD"}
    optimizer = torch.optim.AdamW([p for key in held for p in models[key][0].parameters()], 0.1)
    parts = [*(StateComponent(key, model) for key, model in models.items()), StateComponent("optimizer", optimizer)]
    return models, optimizer, parts


def owners(models: dict[str, Any], optimizer: Any) -> list[list[str]]:
    names = {id(p): f"{key}.{name}" for key, model in models.items() for name, p in model.named_parameters()}
    return [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]


@pytest.mark.parametrize(
    ("held", "joins"), [("G", ["G1"]), ("D", ["D1"]), ("G", ["D0"]), ("G", ["G1", "D0", "D1"]), ("GD", ["D1", "G1"])]
)
def test_a_parameter_joins_again_from_its_own_model(held: str, joins: list[str], tmp_path: Path) -> None:
    models, optimizer, parts = two(held)
    coordinator = alone(tmp_path, *parts)
    for key, layer in joins:
        optimizer.add_param_group({"params": [*models[key][int(layer)].parameters()], "lr": 0.02})
    sum(model(torch.ones(2, 3)).square().sum() for model in models.values()).backward()
    optimizer.step()
    coordinator.save(1)
    others, second, more = two(held, 1)
    alone(tmp_path, *more).load(1)
    assert owners(others, second) == owners(models, optimizer)
    assert bits(second.state_dict()) == bits(optimizer.state_dict())


def test_a_name_that_means_another_parameter_here_is_refused(tmp_path: Path) -> None:
    """The second layer of D joined; by its bare name it is that of G, of which the optimizer holds the first."""
    models, optimizer, parts = two("G")
    coordinator = alone(tmp_path, *parts)
    optimizer.add_param_group({"params": [*models["D"][1].parameters()]})
    coordinator.save(1)
    others, second, more = two("G", 1)
    with pytest.raises(CheckpointError, match=r"1\.weight, which is in no group here; add it before the load"):
        alone(tmp_path, *more).load(1)
    second.add_param_group({"params": [*others["D"][1].parameters()]})
    alone(tmp_path, *more).load(1)
    assert owners(others, second) == owners(models, optimizer)


# -- groups without parameters -----------------------------------------------------------------------------------------


def grouped(*groups: tuple[str, float], seed: int = 0) -> tuple[Any, Any, list[StateComponent]]:
    """A model of three layers, and an optimizer whose groups have the layers of these digits, and this rate."""
    torch.manual_seed(seed)
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3)))
    optimizer = torch.optim.SGD(of(model, *groups), momentum=0.9)
    return model, optimizer, [StateComponent("model", model), StateComponent("optimizer", optimizer)]


def of(model: Any, *groups: tuple[str, float]) -> list[dict[str, Any]]:
    return [
        {"params": [p for layer in layers for p in model[int(layer)].parameters()], "lr": lr} for layers, lr in groups
    ]


def shape(optimizer: Any) -> list[tuple[int, float]]:
    return [(len(group["params"]) // 2, group["lr"]) for group in optimizer.param_groups]


@pytest.mark.parametrize(
    ("first", "later", "here"),
    [
        ([("0", 0.5), ("", 0.3)], [], [("0", 7.0), ("", 7.0)]),
        ([("", 0.3), ("01", 0.5)], [], [("", 7.0), ("10", 7.0)]),
        ([("0", 0.5)], [("", 0.3)], [("0", 7.0)]),
        ([("0", 0.5)], [("", 0.3), ("1", 0.2)], [("0", 7.0)]),
        ([("0", 0.5)], [("", 0.3), ("1", 0.2)], [("0", 7.0), ("", 7.0)]),
        ([("0", 0.5)], [("", 0.3), ("1", 0.2)], [("0", 7.0), ("", 7.0), ("1", 7.0)]),
        ([("0", 0.5)], [("1", 0.2), ("", 0.3), ("", 0.4), ("2", 0.1)], [("0", 7.0)]),
        ([("0", 0.5), ("", 0.3)], [("1", 0.2)], [("0", 7.0)]),
        ([("0", 0.5), ("", 0.3)], [("1", 0.2)], [("0", 7.0), ("", 7.0)]),
    ],
)
def test_groups_without_parameters_come_back_in_their_places(
    first: list[Any], later: list[Any], here: list[Any], tmp_path: Path
) -> None:
    model, optimizer, parts = grouped(*first)
    coordinator = alone(tmp_path, *parts)
    for group in of(model, *later):
        optimizer.add_param_group(group)
    coordinator.save(1)
    _, second, more = grouped(*here, seed=1)
    again = alone(tmp_path, *more)
    again.load(1)
    assert shape(second) == shape(optimizer)
    again.save(2)
    _, third, last = grouped(*first, seed=2)
    alone(tmp_path, *last).load(2)
    assert shape(third) == shape(optimizer), "what came back joins again"


@pytest.mark.parametrize(
    ("here", "told"),
    [
        ([("0", 0.5)], "group 1, which is empty in the checkpoint and does not exist here; add it before the load"),
        ([("", 0.5), ("0", 0.5)], "group 1, which is empty in the checkpoint and has parameters here"),
    ],
)
def test_options_that_have_no_place_are_refused(here: list[Any], told: str, tmp_path: Path) -> None:
    _, _, parts = grouped(("0", 0.5), ("", 0.3))
    alone(tmp_path, *parts).save(1)
    _, _, more = grouped(*here)
    with pytest.raises(CheckpointError, match=told):
        alone(tmp_path, *more).load(1)
    alone(tmp_path, *more).load(1, strict=False)
