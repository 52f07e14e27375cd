"""Splitting a model into pipeline stages, without tracing.

A stage runs the model's own forward: the layers of other stages are removed from their list, and modules that belong
only to the first or last stage are replaced by placeholders. What stays keeps its name.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dcp_runner.common.torch_private import child_modules
from dcp_runner.train.parallel.split_plan import SplitPlan, validate_names


class PassThrough(nn.Module):
    """Returns its first argument."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return x


class ZeroStub(nn.Module):
    """Returns a scalar 0, whatever the arguments."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return torch.zeros((), device=next((arg.device for arg in args if isinstance(arg, Tensor)), None))


PLACEHOLDERS: dict[str, type[nn.Module]] = {"pass": PassThrough, "zero": ZeroStub}


def build_stage(model: nn.Module, split_plan: SplitPlan, number: int, count: int) -> nn.Module:
    """Stage `number` of `count`, with the model's own parameters and buffers, not copies of them."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    stage = copy.deepcopy(model, dict(shared))
    assert split_plan.layers is not None
    layers = child_modules(stage.get_submodule(split_plan.layers))
    names = [*layers]
    for index, name in enumerate(names):
        if _stage_of_layer(index, len(names), count) != number:
            del layers[name]
    if number > 0:
        for name, kind in split_plan.first.items():
            stage.set_submodule(name, PLACEHOLDERS[kind]())
    if number < count - 1:
        for name in split_plan.last:
            stage.set_submodule(name, PassThrough())
    return stage


def validate_split(model: nn.Module, split_plan: SplitPlan, count: int) -> Iterator[str]:
    """The reasons why the model cannot be split into `count` stages."""
    name = type(model).__name__
    if unknown := [*validate_names(model, split_plan)]:
        yield from unknown
        return
    if split_plan.layers is None:
        yield f"parallel.plan.layers: no split points known for {name}; name its list of layers"
        return
    if (layers := len(split_plan.layers_of(model))) < count:
        yield f"parallel.pp: {count} stages, but {name} has only {layers} layers in {split_plan.layers!r}"
    for module, kind in split_plan.first.items():
        if kind not in PLACEHOLDERS:
            yield f"parallel.plan.first.{module}={kind}: must be one of {', '.join(PLACEHOLDERS)}"
    yield from _validate_ownership(model, split_plan, count)


def _stage_of_layer(index: int, layers: int, count: int) -> int:
    """The stage of a layer; the numbers of layers in two stages differ by at most one."""
    return ((index + 1) * count - 1) // layers


def _stages_of(name: str, model: nn.Module, split_plan: SplitPlan, count: int) -> set[int]:
    """The stages that hold the parameter of this name."""

    def below(path: str) -> bool:
        return name.startswith(path + ".")

    assert split_plan.layers is not None
    layers = [*child_modules(model.get_submodule(split_plan.layers))]
    for index, layer in enumerate(layers):
        if below(f"{split_plan.layers}.{layer}"):
            return {_stage_of_layer(index, len(layers), count)}
    if any(below(path) for path in split_plan.first):
        return {0}
    return {count - 1} if any(below(path) for path in split_plan.last) else set(range(count))


def _validate_ownership(model: nn.Module, split_plan: SplitPlan, count: int) -> Iterator[str]:
    """Parameters that two stages would hold and then train independently."""
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    for tied in names.values():
        stages = [_stages_of(name, model, split_plan, count) for name in tied]
        if any(len(holders) > 1 for holders in stages):
            yield f"parallel.plan: {tied[0]} would be in every stage; name its module in layers, first or last"
        elif len(set.union(*stages)) > 1:
            yield (
                f"parallel.pp: {' and '.join(tied)} are one tied parameter in different stages; "
                "untie them (model.tied=false; for transformers models tie_word_embeddings=false)"
            )
