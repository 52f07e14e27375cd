"""Modules and optimizers as components: strict, keyed by names, and training goes on as if nothing had happened."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from solo import Box, alone, bits
from torch import nn
from torch.optim import Optimizer

from dcp_runner import CheckpointError, StateComponent
from dcp_runner.checkpoint.state.modules import ModelState
from dcp_runner.checkpoint.topology import Topology
from dcp_runner.common.suggest import HINTED


class Bag(nn.Module):
    """Parameters of these names; a tensor of integers becomes a buffer."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                self.register_parameter(name, nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor)


def load_model(folder: Path, saved: nn.Module, live: nn.Module, **options: Any) -> Any:
    alone(folder, StateComponent("model", saved)).save(1)
    return alone(folder, StateComponent("model", live)).load(1, **options)


COMMON = {"same": torch.ones(2)}
SAVED = {"encoder_inn": torch.ones(1), "encoder_midd": torch.ones(1), "encoder_outt": torch.ones(1)}
LIVE = {"encoder_in": torch.zeros(1), "encoder_mid": torch.zeros(1), "encoder_out": torch.zeros(1)}
SHAPES = {"s0": ((2, 3), (3, 2)), "s1": ((4,), (4, 1)), "s2": ((), (1,))}
DTYPES = {"d0": (torch.float32, torch.float64), "d1": (torch.int32, torch.int64), "d2": (torch.bfloat16, torch.float16)}


def bags(wrong: bool = True) -> tuple[Bag, Bag]:
    saved, live = {**COMMON, **SAVED}, {**{name: -tensor for name, tensor in COMMON.items()}, **LIVE}
    if wrong:
        saved |= {name: torch.ones(there) for name, (there, _) in SHAPES.items()}
        live |= {name: torch.zeros(here) for name, (_, here) in SHAPES.items()}
        saved |= {name: torch.ones(2, dtype=there) for name, (there, _) in DTYPES.items()}
        live |= {name: torch.zeros(2, dtype=here) for name, (_, here) in DTYPES.items()}
    return Bag(saved), Bag(live)


def test_all_that_does_not_fit_is_told_at_once_with_near_names(tmp_path: Path) -> None:
    saved, live = bags()
    before = bits(live.state_dict())
    with pytest.raises(CheckpointError) as failure:
        load_model(tmp_path, saved, live)
    assert failure.value.types == {"MismatchError"} and failure.value.phase == "compare"
    lines = [line.strip() for line in str(failure.value).splitlines()]
    expected = {f"model: missing in the checkpoint: {name} (near: {name}{name[-1]})" for name in LIVE}
    expected |= {f"model: unexpected in the checkpoint: {name} (near: {name[:-1]})" for name in SAVED}
    expected |= {f"model: {name}: shape {there} saved, {here} here" for name, (there, here) in SHAPES.items()}
    expected |= {f"model: {name}: dtype {there} saved, {here} here" for name, (there, here) in DTYPES.items()}
    assert expected <= set(lines) and len(expected) == 12 and len(lines) == 2 + 12
    assert bits(live.state_dict()) == before


def test_not_strict_tolerates_and_reports_what_is_missing_or_unexpected(tmp_path: Path) -> None:
    saved, live = bags(wrong=False)
    report = load_model(tmp_path, saved, live, strict=False)
    assert len(report.accepted) == 6 and all(any(name in note for note in report.accepted) for name in (*SAVED, *LIVE))
    assert bits(live.same) == bits(saved.same) and not live.encoder_in.any(), "what is missing stays as it is"


def test_not_strict_tolerates_no_wrong_shape_or_dtype(tmp_path: Path) -> None:
    saved, live = bags()
    before = bits(live.state_dict())
    with pytest.raises(CheckpointError) as failure:
        load_model(tmp_path, saved, live, strict=False)
    assert all(f"{name}: " in str(failure.value) for name in (*SHAPES, *DTYPES))
    assert bits(live.state_dict()) == before


def test_near_names_are_looked_for_only_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search among thousands of names takes long, and a wrong prefix makes all of them differ."""
    searched: list[str] = []
    monkeypatch.setattr("dcp_runner.common.suggest.get_close_matches", lambda name, *_: searched.append(name) or [])
    module = Bag({f"a{number}": torch.ones(1) for number in range(100)})
    found = ModelState(module, "model", Topology(1)).differences({f"b{number}": torch.ones(1) for number in range(100)})
    assert len(found.missing) == len(found.unexpected) == 100 and len(searched) == 2 * HINTED


class Lookalike(Box):
    """Saves what a module would not."""


def test_a_number_where_a_tensor_belongs_is_found_before_anything_changes(tmp_path: Path) -> None:
    alone(tmp_path, StateComponent("model", Lookalike({"a": torch.ones(2), "b": 3.5}))).save(1)
    live = Bag({"a": torch.zeros(2), "b": torch.zeros(())})
    with pytest.raises(CheckpointError, match="model: b: float saved, a tensor here") as failure:
        alone(tmp_path, StateComponent("model", live)).load(1, strict=False)
    assert failure.value.types == {"MismatchError"} and not live.a.any()


class Extra(nn.Linear):
    """A module with state that is no tensor."""

    note: Any = "fresh"

    def get_extra_state(self) -> Any:
        return self.note

    def set_extra_state(self, state: Any) -> None:
        self.note = state


def test_buffers_and_extra_state_come_back(tmp_path: Path) -> None:
    saved = nn.Sequential(Extra(2, 2), nn.BatchNorm1d(2))
    saved[0].note = {"calls": (1, 2)}
    saved(torch.rand(5, 2))
    live = nn.Sequential(Extra(2, 2), nn.BatchNorm1d(2))
    load_model(tmp_path, saved, live)
    assert live[0].note == {"calls": (1, 2)} and bits(live.state_dict()) == bits(saved.state_dict())


EXTRAS: dict[str, tuple[Any, Any]] = {
    "another size": (torch.arange(3.0), torch.zeros(0)),
    "another dtype": (torch.arange(3), torch.zeros(1)),
    "a tensor, where there is none": (torch.ones(2), None),
    "none, where there is a tensor": (None, torch.ones(2)),
    "a stream, where there is a tensor": (BytesIO(b"ab"), torch.ones(2)),
    "a stream": (BytesIO(b"abcd"), BytesIO()),
    "bytes": (bytearray(b"ab"), b""),
    "tensors inside": ({"amax": [torch.ones(3), {1, 2}], "dtype": torch.float16}, {"amax": []}),
}


@pytest.mark.parametrize("name", EXTRAS)
@pytest.mark.parametrize("depth", [0, 1])
def test_extra_state_may_change_in_any_way(name: str, depth: int, tmp_path: Path) -> None:
    saved, live = (Extra(2, 2), Extra(2, 2)) if depth == 0 else (nn.Sequential(Extra(2, 2)), nn.Sequential(Extra(2, 2)))
    (saved if depth == 0 else saved[0]).note, (live if depth == 0 else live[0]).note = EXTRAS[name]
    load_model(tmp_path, saved, live)
    assert bits(live.state_dict()) == bits(saved.state_dict())


def test_only_extra_state_may_change(tmp_path: Path) -> None:
    saved, live = Bag({"my_extra_state": torch.ones(2)}), Bag({"my_extra_state": torch.ones(3)})
    with pytest.raises(CheckpointError, match=r"my_extra_state: shape \(2,\) saved, \(3,\) here"):
        load_model(tmp_path, saved, live)


# -- optimizers --------------------------------------------------------------------------------------------------------


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
    assert "2.weight and 0.weight are in one group here, and were saved with different ['lr', 'weight_decay']" in str(
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
    saved, live = (
        Bag({"a_weight": torch.ones(2), "b": torch.ones(2)}),
        Bag({"a_weigth": torch.ones(2), "b": torch.ones(2)}),
    )
    first, second = (torch.optim.SGD(bag.parameters(), 0.1, momentum=0.9) for bag in (saved, live))
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
        assert list(second.state) == [live.b]
    for component in ("model", "optimizer"):
        assert f"{component}: missing in the checkpoint: a_weigth (near: a_weight)" in told
        assert f"{component}: unexpected in the checkpoint: a_weight (near: a_weigth)" in told


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


def test_what_is_no_optimizers_state_says_so(tmp_path: Path) -> None:
    optimizer = torch.optim.SGD(network().parameters(), 0.1)
    alone(tmp_path, StateComponent("optimizer", Box(copy.deepcopy(optimizer.state_dict())))).save(1)
    with pytest.raises(CheckpointError, match="optimizer: what was saved is no optimizer's state by parameter names"):
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_compiled_module_has_the_names_of_the_module_inside() -> None:
    module = nn.Linear(2, 2)
    state = ModelState(torch.compile(module), "model", Topology(1))
    assert list(state.state_dict()) == ["weight", "bias"]
    state.load_state_dict({"weight": torch.ones(2, 2), "bias": torch.ones(2)})
    assert module.weight.sum() == 4
