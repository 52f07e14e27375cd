"""Where an optimizer keeps its state: in its own `state`, and in that of optimizers inside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from dcp_runner.checkpoint.errors import UnsupportedStateError

BY_PARAMETER = "[]"
"""Ends the name of what `state` has under a text and there under a parameter: `trac[]`."""


@dataclass(frozen=True)
class Part:
    """An optimizer with a `state` of its own. `prefix` begins the names of what it keeps: nothing for the outermost,
    `base_optimizer.` for what the outermost has as that attribute.
    """

    prefix: str
    optimizer: Optimizer

    def entries(self) -> Iterator[tuple[torch.Tensor, Any, Any]]:
        """(parameter, name, value) of everything that it keeps for one parameter."""
        for owner, value in self.optimizer.state.items():
            if isinstance(owner, torch.Tensor) and not isinstance(value, Mapping):
                raise UnsupportedStateError(f"{type(self.optimizer).__name__}: its state of a parameter is no dict")
            if isinstance(owner, torch.Tensor):
                yield from ((owner, self._name(key), item) for key, item in value.items())
            elif isinstance(value, dict):
                of = {key: item for key, item in value.items() if isinstance(key, torch.Tensor)}
                yield from ((key, self._name(f"{owner}{BY_PARAMETER}"), item) for key, item in of.items())

    def shared(self) -> dict[Any, Any]:
        """By name, what it keeps for all parameters together: the rest of its `state`."""
        rest = {key: value for key, value in self.optimizer.state.items() if not isinstance(key, torch.Tensor)}
        return {self._name(key): _without_parameters(value) for key, value in rest.items()}

    def put(self, of: Mapping[torch.Tensor, Mapping[Any, Any]], shared: Mapping[Any, Any]) -> None:
        """Replace its `state`: by parameter, and what is shared; both by name without the prefix."""
        state: dict[Any, Any] = self.optimizer.state
        state.clear()
        rest = {key: _without_parameters(value) for key, value in shared.items()}
        for parameter, items in of.items():
            own = dict(items)
            for key in [key for key in own if isinstance(key, str) and key.endswith(BY_PARAMETER)]:
                rest[key.removesuffix(BY_PARAMETER)][parameter] = own.pop(key)
            if own or not items:
                state[parameter] = own
        state.update(rest)

    def _name(self, key: Any) -> Any:
        if self.prefix and not isinstance(key, str):
            raise UnsupportedStateError(
                f"{self.prefix}state: key {key!r}; inside another optimizer only text can be stored"
            )
        return f"{self.prefix}{key}" if self.prefix else key


def parts(optimizer: Optimizer) -> list[Part]:
    """The optimizer and those inside it, each `state` once. One that shares the `state` of the one around it is the
    same part.
    """
    found: list[Part] = []
    for prefix, one in all_optimizers(optimizer):
        if all(one.state is not part.optimizer.state for part in found):
            found.append(Part(prefix, one))
    return found


def all_optimizers(optimizer: Optimizer) -> list[tuple[str, Optimizer]]:
    """(prefix, optimizer) of it and of those in its attributes, or in lists and dicts there, and so on."""
    found = [("", optimizer)]
    for prefix, one in found:
        attributes = [(name, value) for name, value in vars(one).items() if name not in ("state", "param_groups")]
        for place, inner in (item for name, value in attributes for item in _items(name, value)):
            if isinstance(inner, Optimizer) and all(inner is not other for _, other in found):
                found.append((prefix if inner.state is one.state else f"{prefix}{place}.", inner))
    return found


def kinds(optimizer: Optimizer) -> dict[str, str]:
    """prefix -> class of it and of those inside it; of those that share a `state` the innermost, which makes it."""
    return {prefix: type(one).__name__ for prefix, one in all_optimizers(optimizer)}


def _items(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    items = enumerate(value) if isinstance(value, (list, tuple)) else value.items() if isinstance(value, dict) else ()
    yield name, value
    yield from ((f"{name}.{place}", item) for place, item in items)


def split(items: Mapping[Any, Any], prefixes: Sequence[str]) -> dict[str, dict[Any, Any]]:
    """Named items by the longest of the prefixes (one is empty), and without it."""
    found: dict[str, dict[Any, Any]] = {prefix: {} for prefix in prefixes}
    for name, value in items.items():
        prefix = max((prefix for prefix in prefixes if str(name).startswith(prefix)), key=len)
        found[prefix][name.removeprefix(prefix) if prefix else name] = value
    return found


def _without_parameters(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: item for key, item in value.items() if not isinstance(key, torch.Tensor)}
