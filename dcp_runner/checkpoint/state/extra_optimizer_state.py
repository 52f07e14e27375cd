"""What of an optimizer only its own `state_dict()` finds, and only its own `load_state_dict()` puts back."""

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
from dcp_runner.checkpoint.state.nested_optimizers import all_optimizers, parts
from dcp_runner.common.torch_private import tree_leaves

_TORCH = {"state", "param_groups"}
"""What torch's own `state_dict()` has."""


def own_state(optimizer: Optimizer) -> dict[str, Any]:
    """Its `state_dict()`. Raises UnsupportedStateError that names the optimizer where that raises."""
    try:
        return optimizer.state_dict()
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {str(error).rstrip('.')}"
        raise UnsupportedStateError(
            f"{_kind(optimizer)} cannot be stored: its state_dict() raises {why}. Take an optimizer that has all its "
            "state on each rank; parallel=fsdp cuts the state over the ranks"
        ) from error


def only_own(optimizer: Optimizer) -> dict[str, Any]:
    """What its `state_dict()` has beside every `state` and the groups: what `put_own` gives back.

    Raises UnsupportedStateError that names the optimizer and what would be lost.
    """
    own, states = own_state(optimizer), [part.optimizer.state for part in parts(optimizer)]
    known = {id(leaf) for state in states for leaf in tree_leaves([*state.values()])}
    found = _beyond(own, known)
    problems = [f"{key!r} in its state_dict() has DTensors" for key, value in found.items() if _has_parts(value)]
    for _, inner in all_optimizers(optimizer)[1:]:
        lost = _beyond(own_state(inner), known).keys() - _keys(own)
        problems += [f"{key!r} of the {_kind(inner)} inside it is not in its state_dict()" for key in sorted(lost)]
    stored = {id(owner) for part in parts(optimizer) for owner, _, _ in part.entries()}
    if len([index for index, of in own.get("state", {}).items() if isinstance(index, int) and of]) > len(stored):
        problems.append("its state_dict() has more parameters than its `state`, so it takes them from elsewhere")
    if problems:
        raise UnsupportedStateError(f"{_kind(optimizer)} cannot be stored: {'; '.join(problems)}")
    return found


def put_own(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Have its own `load_state_dict` take what `only_own` gave. It may leave its other state in another dtype."""
    optimizer.load_state_dict(_united(own_state(optimizer), saved))


def check_own(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Raises MismatchError that names the optimizer where `put_own` had no effect."""
    found = only_own(optimizer)
    wrong = [key for key, value in saved.items() if key not in found or _digest(found[key]) != _digest(value)]
    if wrong:
        raise MismatchError(f"{_kind(optimizer)}: its load_state_dict() has not taken {', '.join(wrong)} as saved")


def _beyond(own: Mapping[str, Any], known: Collection[int]) -> dict[str, Any]:
    """Without states and groups at any depth, and without what consists of known tensors."""
    found: dict[str, Any] = {}
    for key, value in own.items():
        if _like_torch(value):
            found |= {key: inner} if (inner := _beyond(value, known)) else {}
        elif key not in _TORCH and not _consists_of(value, known):
            found[key] = value
    return found


def _like_torch(value: Any) -> bool:
    return isinstance(value, Mapping) and value.keys() >= _TORCH


def _consists_of(value: Any, known: Collection[int]) -> bool:
    tensors = [id(leaf) for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]
    return bool(tensors) and all(one in known for one in tensors)


def _has_parts(value: Any) -> bool:
    return any(is_dtensor(leaf) for leaf in tree_leaves(value))


def _keys(own: Mapping[str, Any]) -> set[str]:
    return {*own, *(key for value in own.values() if _like_torch(value) for key in _keys(value))}


def _united(own: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    inside = {key: _united(own[key], value) for key, value in saved.items() if _like_torch(own.get(key))}
    return {**own, **saved, **inside}


def _digest(value: Any) -> str:
    flat = flatten(value)
    return combined_digest(fingerprints(flat, {name: digest_tensor(tensor) for name, tensor in flat.tensors.items()}))


def _kind(optimizer: Optimizer) -> str:
    return type(optimizer).__name__
