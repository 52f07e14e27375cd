"""Stages of a pipeline: what is left of a model where only some of its layers stay.

No tracing. A stage runs the model's own forward: layers that are elsewhere are taken out of their list, and modules
that belong to the first or the last stage are replaced by stand-ins. Those that stay keep their names.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dcp_runner.common.torch_private import child_modules
from dcp_runner.train.parallel.split_plan import SplitPlan, name_problems


class PassThrough(nn.Module):
    """Gives its first argument on."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return x


class ZeroStub(nn.Module):
    """Gives one 0, whatever it is asked."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return torch.zeros((), device=next((one.device for one in args if isinstance(one, Tensor)), None))


STAND_INS: dict[str, type[nn.Module]] = {"pass": PassThrough, "zero": ZeroStub}


def stage_of(model: nn.Module, plan: SplitPlan, number: int, count: int) -> nn.Module:
    """Stage `number` of `count`, with the model's own parameters and buffers, not copies of them."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    stage = copy.deepcopy(model, dict(shared))
    assert plan.layers is not None
    layers = child_modules(stage.get_submodule(plan.layers))
    for place, name in enumerate([*layers]):
        if _home(place, len(child_modules(model.get_submodule(plan.layers))), count) != number:
            del layers[name]
    if number > 0:
        for name, kind in plan.first.items():
            stage.set_submodule(name, STAND_INS[kind]())
    if number < count - 1:
        for name in plan.last:
            stage.set_submodule(name, PassThrough())
    return stage


def split_problems(model: nn.Module, plan: SplitPlan, count: int) -> Iterator[str]:
    """Why the model cannot be cut into so many stages."""
    name = type(model).__name__
    if missing := [*name_problems(model, plan)]:
        yield from missing
        return
    if plan.layers is None:
        yield f"parallel.plan.layers: nothing says where {name} can be cut; name its list of layers"
        return
    if (layers := len(plan.layers_of(model))) < count:
        yield f"parallel.pp: {count} stages, but {name} has only {layers} layers in {plan.layers!r}"
    for module, kind in plan.first.items():
        if kind not in STAND_INS:
            yield f"parallel.plan.first.{module}={kind}: one of {', '.join(STAND_INS)}"
    yield from _held_twice(model, plan, count)


def _home(place: int, layers: int, count: int) -> int:
    """The stage of a layer; the numbers of layers in two stages differ by at most one."""
    return ((place + 1) * count - 1) // layers


def _stages_of(name: str, model: nn.Module, plan: SplitPlan, count: int) -> set[int]:
    """The stages that hold the parameter of this name."""

    def below(path: str) -> bool:
        return name.startswith(path + ".")

    assert plan.layers is not None
    layers = [*child_modules(model.get_submodule(plan.layers))]
    for place, layer in enumerate(layers):
        if below(f"{plan.layers}.{layer}"):
            return {_home(place, len(layers), count)}
    if any(below(path) for path in plan.first):
        return {0}
    return {count - 1} if any(below(path) for path in plan.last) else set(range(count))


def _held_twice(model: nn.Module, plan: SplitPlan, count: int) -> Iterator[str]:
    """Parameters that two stages would hold, and then train apart."""
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    for tied in names.values():
        homes = [_stages_of(name, model, plan, count) for name in tied]
        if any(len(home) > 1 for home in homes):
            yield f"parallel.plan: {tied[0]} would be in every stage; name its module in layers, first or last"
        elif len(set.union(*homes)) > 1:
            yield (
                f"parallel.pp: {' and '.join(tied)} are one parameter, but in different stages; "
                "untie them (model.tied=false; in transformers' models tie_word_embeddings=false)"
            )
