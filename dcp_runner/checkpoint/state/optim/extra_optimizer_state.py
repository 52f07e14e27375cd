"""Extra state of an optimizer: what only its own `state_dict()` has, and only its own `load_state_dict()` restores.

`state` and `param_groups` are read and written directly (see optimizers.py). An optimizer that keeps anything elsewhere
must have it in its `state_dict()`, under keys of its own; that is what this module saves and loads.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from dcp_runner.checkpoint.digest import digest_tensor
from dcp_runner.checkpoint.errors import MismatchError, UnsupportedStateError
from dcp_runner.checkpoint.state.dtensor import is_dtensor
from dcp_runner.checkpoint.state.fingerprints import combined_digest, fingerprints
from dcp_runner.checkpoint.state.flatten import flatten
from dcp_runner.checkpoint.state.optim.nested_optimizers import all_optimizers, nested_optimizers
from dcp_runner.common.torch_private import tree_leaves

_STANDARD_KEYS = {"state", "param_groups"}
"""The keys of torch's own `state_dict()`."""


def extra_state(optimizer: Optimizer) -> dict[str, Any]:
    """What its `state_dict()` has besides the states and groups, at any depth: what `load_extra_state` restores.

    Raises UnsupportedStateError that names the optimizer and what would be lost.
    """
    full, nested = _state_dict(optimizer), nested_optimizers(optimizer)
    states = [each.optimizer.state for each in nested]
    known = {id(leaf) for state in states for leaf in tree_leaves([*state.values()])}
    found = _extra_items(full, known)
    problems = [f"{key!r} in its state_dict() has DTensors" for key, value in found.items() if _has_dtensors(value)]
    for _, inner in all_optimizers(optimizer)[1:]:
        lost = _extra_items(_state_dict(inner), known).keys() - _all_keys(full)
        problems += [
            f"{key!r} of the {_class_name(inner)} inside it is not in its state_dict()" for key in sorted(lost)
        ]
    stored = {id(param) for each in nested for param, _, _ in each.param_state()}
    if len([index for index, of in full.get("state", {}).items() if isinstance(index, int) and of]) > len(stored):
        problems.append("its state_dict() has more parameters than its `state`, so it keeps some state elsewhere")
    if problems:
        raise UnsupportedStateError(f"{_class_name(optimizer)} cannot be stored: {'; '.join(problems)}")
    return found


def load_extra_state(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Have its own `load_state_dict` restore what `extra_state` returned. It may cast its other state meanwhile."""
    optimizer.load_state_dict(_merge(_state_dict(optimizer), saved))


def check_extra_state(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Raises MismatchError that names the optimizer if `load_extra_state` had no effect."""
    found = extra_state(optimizer)
    wrong = [key for key, value in saved.items() if key not in found or _digest(found[key]) != _digest(value)]
    if wrong:
        raise MismatchError(
            f"{_class_name(optimizer)}: its load_state_dict() did not restore {', '.join(wrong)} as saved"
        )


def _state_dict(optimizer: Optimizer) -> dict[str, Any]:
    """Its `state_dict()`. Raises UnsupportedStateError that names the optimizer if that raises."""
    try:
        return optimizer.state_dict()
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        cause = f"{type(error).__name__}: {str(error).rstrip('.')}"
        raise UnsupportedStateError(
            f"{_class_name(optimizer)} cannot be stored: its state_dict() raises {cause}. Use an optimizer that has "
            "all its state on each rank; parallel=fsdp shards the state over the ranks"
        ) from error


def _extra_items(state_dict: Mapping[str, Any], known: Collection[int]) -> dict[str, Any]:
    """Without states and groups at any depth, and without what consists only of known tensors."""
    found: dict[str, Any] = {}
    for key, value in state_dict.items():
        if _is_state_dict(value):
            found |= {key: inner} if (inner := _extra_items(value, known)) else {}
        elif key not in _STANDARD_KEYS and not _consists_of(value, known):
            found[key] = value
    return found


def _is_state_dict(value: Any) -> bool:
    """Whether it looks like the `state_dict()` of an optimizer."""
    return isinstance(value, Mapping) and value.keys() >= _STANDARD_KEYS


def _consists_of(value: Any, known: Collection[int]) -> bool:
    tensors = [id(leaf) for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]
    return bool(tensors) and all(tensor in known for tensor in tensors)


def _has_dtensors(value: Any) -> bool:
    return any(is_dtensor(leaf) for leaf in tree_leaves(value))


def _all_keys(state_dict: Mapping[str, Any]) -> set[str]:
    return {*state_dict, *(key for value in state_dict.values() if _is_state_dict(value) for key in _all_keys(value))}


def _merge(state_dict: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict with the saved extra items in their places."""
    inner = {k: _merge(state_dict[k], value) for k, value in saved.items() if _is_state_dict(state_dict.get(k))}
    return {**state_dict, **saved, **inner}


def _digest(value: Any) -> str:
    flat = flatten(value)
    return combined_digest(fingerprints(flat, {name: digest_tensor(tensor) for name, tensor in flat.tensors.items()}))


def _class_name(optimizer: Optimizer) -> str:
    return type(optimizer).__name__
