"""Optimizers as components, keyed by the names of the parameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from dcp_runner.checkpoint.component import Differences
from dcp_runner.checkpoint.hints import hints
from dcp_runner.checkpoint.merge import Keys
from dcp_runner.checkpoint.modules import PLAIN, ModelState
from dcp_runner.checkpoint.sharded import is_sharded
from dcp_runner.checkpoint.sharing import Traits


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

    def layout(self) -> Any:
        """What a saved state is placed like: each tensor of a parameter's state like the parameter."""
        named = self._named()
        return {"state": {name: _Everything(p) for name, p, *_ in named}} | {"options": self.state_dict()["options"]}

    def wanted(self) -> Callable[[Keys], bool]:
        """Whether this rank takes the item of a saved state that has these keys."""
        live = {name for name, *_ in self._named()}
        return lambda keys: len(keys) != 2 or keys[1] in live

    def differences(self, state: dict[str, Any]) -> Differences:
        if not {"state", "options"} <= set(state):
            return Differences(wrong=["what was saved is no optimizer's state by parameter names"])
        options = state["options"]
        named = self._named()
        live = {name for name, *_ in named}
        elsewhere = {name for model in self.models for name in model.names_elsewhere}
        found = Differences(hints(sorted(live - set(options)), options))
        found.unexpected = hints([name for name in options if name not in live and name not in elsewhere], live)
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


class _Everything(Mapping[str, Any]):
    """A mapping that has the same value under every key."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __getitem__(self, key: str) -> Any:
        return self._value

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def _options(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in ("params", "param_names")}


def _place(key: str, value: Any, parameter: torch.Tensor, group: dict[str, Any]) -> Any:
    """On the parameter's device, in its saved dtype; the step counter stays on the CPU unless the group wants it on
    the device.
    """
    if not isinstance(value, torch.Tensor) or is_sharded(value):
        return value
    if key == "step" and not (group.get("capturable") or group.get("fused")):
        return value
    return value.to(parameter.device)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.shape == other.shape and one.dtype == other.dtype
    return type(one) is type(other) and bool(one == other)
