"""The parameters of an optimizer by the names that they have in the models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.optim import Optimizer

from dcp_runner.checkpoint.state.modules import ModelState


class NamedParam(NamedTuple):
    """A parameter of an optimizer with its param group, `param_groups[group_index]`."""

    name: str
    param: torch.Tensor
    group: dict[str, Any]
    group_index: int


class ParamNames:
    """Names the parameters of an optimizer.

    A name that several of its parameters have is prefixed with the model's key. A parameter of no model is named by its
    position, `<group>.<number in the group>`.
    """

    def __init__(self, optimizer: Optimizer, models: Sequence[ModelState]) -> None:
        self.optimizer = optimizer
        self.models = tuple(models)

    def grouped(self, joining: Sequence[tuple[torch.Tensor, int]] = ()) -> list[NamedParam]:
        """The parameters in the groups, and those that are `joining` the group of an index as if they were in it."""
        homes = {param: (model.key, name) for model in self.models for param, name in model.names().items()}
        found = [
            (*homes.get(id(param), ("", f"{index}.{number}")), param, group, index)
            for index, group in enumerate(self.optimizer.param_groups)
            for number, param in enumerate(group["params"])
        ]
        found += [(*homes[id(param)], param, {}, index) for param, index in joining]
        times = Counter(name for _, name, *_ in found)
        return [NamedParam(name if times[name] == 1 else f"{key}.{name}", *rest) for key, name, *rest in found]

    def model_keys(self) -> dict[int, str]:
        """id of a parameter -> the key of its model."""
        return {param: model.key for model in self.models for param in model.names()}

    def available(self) -> dict[str, torch.Tensor]:
        """The parameters of the optimizer and of all models, by the names that they have or would have in it.

        All are named `<model key>.<name>`; and by the bare name where that means only one parameter, or only one of the
        models that have parameters in the optimizer.
        """
        grouped = self.grouped()
        params = {model.key: dict(model.module.named_parameters()) for model in self.models}
        in_groups = {id(named.param) for named in grouped}
        trained = {key for key, of in params.items() if any(id(param) in in_groups for param in of.values())}
        found: dict[str, torch.Tensor] = {}
        for keys in (params.keys() - trained, trained):
            bare: dict[str, dict[int, torch.Tensor]] = {}
            for name, param in (item for key in keys for item in params[key].items()):
                bare.setdefault(name, {})[id(param)] = param
            found = {name: param for name, param in found.items() if name not in bare}
            found |= {name: param for name, same in bare.items() if len(same) == 1 for param in same.values()}
        full = {f"{key}.{name}": param for key, of in params.items() for name, param in of.items()}
        return full | found | {named.name: named.param for named in grouped}
