"""Optimizers inside optimizers: each one that has a `state` of its own, and what it keeps there.

A wrapper such as Lookahead or SAM has another optimizer in an attribute. What an inner optimizer keeps is stored under
a prefix, the path of attributes that leads to it: `base_optimizer.exp_avg`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from dcp_runner.checkpoint.errors import UnsupportedStateError

BY_PARAM = "[]"
"""Suffix of what `state` has under a text and there by parameter: `trac[]` for `state["trac"][param]`."""


@dataclass(frozen=True)
class NestedOptimizer:
    """An optimizer with a `state` of its own. The prefix of the outermost one is empty."""

    prefix: str
    optimizer: Optimizer

    def param_state(self) -> Iterator[tuple[torch.Tensor, Any, Any]]:
        """(parameter, prefixed name, value) of all that it keeps for single parameters."""
        for key, value in self.optimizer.state.items():
            if isinstance(key, torch.Tensor):
                if not isinstance(value, Mapping):
                    raise UnsupportedStateError(
                        f"{type(self.optimizer).__name__}: its state of a parameter is a {type(value).__name__}, "
                        "not a dict"
                    )
                yield from ((key, self._prefixed(name), item) for name, item in value.items())
            elif isinstance(value, dict):
                by_param = {param: item for param, item in value.items() if isinstance(param, torch.Tensor)}
                yield from ((param, self._prefixed(f"{key}{BY_PARAM}"), item) for param, item in by_param.items())

    def shared_state(self) -> dict[Any, Any]:
        """All that it keeps for all parameters together, by prefixed name: the rest of its `state`."""
        rest = {key: value for key, value in self.optimizer.state.items() if not isinstance(key, torch.Tensor)}
        return {self._prefixed(key): _without_params(value) for key, value in rest.items()}

    def load(self, param_state: Mapping[torch.Tensor, Mapping[Any, Any]], shared: Mapping[Any, Any]) -> None:
        """Replace its `state`. The names are without the prefix."""
        state: dict[Any, Any] = self.optimizer.state
        state.clear()
        rest = {key: _without_params(value) for key, value in shared.items()}
        for param, items in param_state.items():
            own = dict(items)
            for key in [key for key in own if isinstance(key, str) and key.endswith(BY_PARAM)]:
                rest[key.removesuffix(BY_PARAM)][param] = own.pop(key)
            if own or not items:
                state[param] = own
        state.update(rest)

    def _prefixed(self, key: Any) -> Any:
        if self.prefix and not isinstance(key, str):
            raise UnsupportedStateError(
                f"key {key!r} in the state of {self.prefix.rstrip('.')}: the keys of an optimizer inside another one "
                "must be text"
            )
        return f"{self.prefix}{key}" if self.prefix else key


def nested_optimizers(optimizer: Optimizer) -> list[NestedOptimizer]:
    """The optimizer and those inside it, the outermost first. Those that share one `state` count as the outer one."""
    found: list[NestedOptimizer] = []
    for prefix, each in all_optimizers(optimizer):
        if all(each.state is not nested.optimizer.state for nested in found):
            found.append(NestedOptimizer(prefix, each))
    return found


def all_optimizers(optimizer: Optimizer) -> list[tuple[str, Optimizer]]:
    """(prefix, optimizer) of it and of those in its attributes, in lists and dicts there, and so on."""
    found = [("", optimizer)]
    for prefix, outer in found:  # grows while it is walked
        attributes = [(name, value) for name, value in vars(outer).items() if name not in ("state", "param_groups")]
        for path, inner in (item for name, value in attributes for item in _items(name, value)):
            if isinstance(inner, Optimizer) and all(inner is not other for _, other in found):
                found.append((prefix if inner.state is outer.state else f"{prefix}{path}.", inner))
    return found


def class_names(optimizer: Optimizer) -> dict[str, str]:
    """prefix -> class; of those that share a `state` the class of the innermost, which fills it."""
    return {prefix: type(each).__name__ for prefix, each in all_optimizers(optimizer)}


def split_by_prefix(items: Mapping[Any, Any], prefixes: Sequence[str]) -> dict[str, dict[Any, Any]]:
    """prefix -> its items, by name without the prefix. The longest prefix wins; one of them is empty."""
    found: dict[str, dict[Any, Any]] = {prefix: {} for prefix in prefixes}
    for name, value in items.items():
        prefix = max((prefix for prefix in prefixes if str(name).startswith(prefix)), key=len)
        found[prefix][name.removeprefix(prefix) if prefix else name] = value
    return found


def _items(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """(path, value) of an attribute, and of the items of a list or dict in it."""
    items = enumerate(value) if isinstance(value, (list, tuple)) else value.items() if isinstance(value, dict) else ()
    yield name, value
    yield from ((f"{name}.{key}", item) for key, item in items)


def _without_params(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: item for key, item in value.items() if not isinstance(key, torch.Tensor)}
