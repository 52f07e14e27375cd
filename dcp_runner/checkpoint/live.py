"""Torch's own objects as components: modules and optimizers under clean names, and what they show of how they are
shared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dcp_runner.checkpoint.component import Differences, SelfDescribing, StateComponent
from dcp_runner.checkpoint.sharing import SharingPattern, Traits

HINTED = 8
"""Names of one kind that are told with the nearest known one."""
PLAIN = Traits("a plain object: taken as equal on all ranks, and checked")


class ModelState:
    """A module as a component, under the names of the module inside a DistributedDataParallel wrapper."""

    def __init__(self, module: nn.Module, key: str) -> None:
        self.key = key
        self.wrapper = module
        self.module: nn.Module = module.module if isinstance(module, DistributedDataParallel) else module

    def names(self) -> dict[int, str]:
        """id of a parameter -> its name; tied parameters have one."""
        return {id(parameter): name for name, parameter in self.module.named_parameters()}

    def state_dict(self) -> dict[str, Any]:
        return self.module.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.module.load_state_dict(state_dict, strict=False)

    def differences(self, state: dict[str, Any]) -> Differences:
        live = self.module.state_dict()
        found = Differences(hints([name for name in live if name not in state], state))
        found.unexpected = hints([name for name in state if name not in live], live)
        for name, value in live.items():
            saved = state.get(name, value)
            if isinstance(value, torch.Tensor) and not isinstance(saved, torch.Tensor):
                found.wrong.append(f"{name}: {type(saved).__name__} saved, a tensor here")
            elif isinstance(value, torch.Tensor):
                if saved.shape != value.shape:
                    found.wrong.append(f"{name}: shape {tuple(saved.shape)} saved, {tuple(value.shape)} here")
                if saved.dtype != value.dtype:
                    found.wrong.append(f"{name}: dtype {saved.dtype} saved, {value.dtype} here")
        return found

    def sharing_traits(self) -> Traits:
        if isinstance(self.wrapper, DistributedDataParallel):
            return Traits("DistributedDataParallel holds all weights on every rank")
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return Traits("one rank holds it", pattern=SharingPattern.GLOBAL)
        return PLAIN


class OptimizerState:
    """A torch optimizer as a component, keyed by parameter names: {"state": {name: ...}, "options": {name: ...}}.

    A name that two of its models have is preceded by the model's key; a parameter of no model is named by its
    place. Options are those of the parameter's group, and the group's number. Torch's own get_optimizer_state_dict
    is not used: it takes a step where there is none, and loses options where groups change.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, models: Sequence[ModelState]) -> None:
        self.optimizer = optimizer
        self.models = list(models)

    def _named(self) -> list[tuple[str, torch.Tensor, dict[str, Any], int]]:
        """(name, parameter, group, number of the group)."""
        known = {one: (model.key, name) for model in self.models for one, name in model.names().items()}
        found = [
            (*known.get(id(parameter), ("", f"{number}.{place}")), parameter, group, number)
            for number, group in enumerate(self.optimizer.param_groups)
            for place, parameter in enumerate(group["params"])
        ]
        times = Counter(name for _, name, *_ in found)
        return [(name if times[name] == 1 else f"{key}.{name}", *rest) for key, name, *rest in found]

    def state_dict(self) -> dict[str, Any]:
        named = self._named()
        state = {name: dict(self.optimizer.state[p]) for name, p, _, _ in named if p in self.optimizer.state}
        return {"state": state, "options": {name: _options(group) | {"group": n} for name, _, group, n in named}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        saved, options = state_dict["state"], state_dict["options"]
        self.optimizer.state.clear()
        for name, parameter, group, _ in self._named():
            if name in options:
                group.update({key: value for key, value in options[name].items() if key != "group"})
            if name in saved:
                placed = {key: _place(key, value, parameter, group) for key, value in saved[name].items()}
                self.optimizer.state[parameter] = placed

    def differences(self, state: dict[str, Any]) -> Differences:
        if not {"state", "options"} <= set(state):
            return Differences(wrong=["what was saved is no optimizer's state by parameter names"])
        options = state["options"]
        named = self._named()
        live = {name for name, *_ in named}
        found = Differences(hints(sorted(live - set(options)), options))
        found.unexpected = hints([name for name in options if name not in live], live)
        first: dict[int, str] = {}
        for name, _, _, number in named:
            one = first.setdefault(number, name)
            if name in options and one in options:
                mine, other = ({k: v for k, v in options[n].items() if k != "group"} for n in (name, one))
                changed = sorted(key for key in mine.keys() | other.keys() if not _equal(mine.get(key), other.get(key)))
                if changed:
                    found.wrong.append(
                        f"{name} and {one} are in one group here, and were saved with different {changed}"
                    )
        return found

    def sharing_traits(self) -> Traits:
        models = [model.sharing_traits() for model in self.models]
        return models[0] if models else PLAIN


def adapt(components: Sequence[StateComponent]) -> list[Any]:
    """The Stateful of each component: modules and optimizers wrapped, all others as they are."""
    models = [ModelState(c.stateful, c.key) for c in components if isinstance(c.stateful, nn.Module)]
    by_module = {id(model.wrapper): model for model in models}
    return [_adapt(component.stateful, models, by_module) for component in components]


def _adapt(stateful: Any, models: Sequence[ModelState], by_module: dict[int, ModelState]) -> Any:
    if isinstance(stateful, nn.Module):
        return by_module[id(stateful)]
    if isinstance(stateful, torch.optim.Optimizer):
        return OptimizerState(stateful, models)
    return stateful


def traits_of(stateful: Any) -> Traits:
    """What an adapted Stateful shows of how it is shared."""
    return stateful.sharing_traits() if isinstance(stateful, SelfDescribing) else PLAIN


def hint(name: str, known: Any) -> str:
    """The name, with the nearest known one where there is one."""
    near = get_close_matches(name, [str(other) for other in known], 1)
    return f"{name} (near: {near[0]})" if near else name


def hints(names: Sequence[str], known: Any) -> list[str]:
    """The names, the first ones with their nearest known one; not all, because each search takes milliseconds."""
    return [hint(name, known) for name in names[:HINTED]] + list(names[HINTED:])


def _options(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in ("params", "param_names")}


def _place(key: str, value: Any, parameter: torch.Tensor, group: dict[str, Any]) -> Any:
    """On the parameter's device, in its saved dtype; the step counter stays on the CPU unless the group wants it on
    the device.
    """
    if not isinstance(value, torch.Tensor):
        return value
    if key == "step" and not (group.get("capturable") or group.get("fused")):
        return value
    return value.to(parameter.device)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.shape == other.shape and one.dtype == other.dtype
    return type(one) is type(other) and bool(one == other)
