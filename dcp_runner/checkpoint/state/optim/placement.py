"""How the state of a parameter is laid out on the mesh and in memory, where that does not follow from the parameter.

It is recorded beside the state, under "placed", because a fresh optimizer has no state that would show it: a text for
each leaf of a value, made of words that are separated by spaces.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dcp_runner.checkpoint.state.dtensor import describe_placements, distribute, is_dtensor, target_placements
from dcp_runner.common.torch_private import tree_leaves, tree_structure, tree_unflatten

PLAIN = "whole"
"""A plain tensor with dimensions that belongs to a DTensor parameter."""
STRIDES = "strides="
"""The strides of a dense tensor that is not row-major: matrix products with it would sum in another order otherwise."""


def record_layout(value: Any, param: torch.Tensor) -> list[str]:
    """A text for each leaf of a value. No texts if all would be empty, the usual case: DTensors of the parameter's
    shape and placements, the same scalar on every rank, and everything row-major.

    Raises ValueError for what could not be restored.
    """
    texts = [_leaf_layout(leaf, param, inside=leaf is not value) for leaf in tree_leaves(value)]
    return texts if any(texts) else []


def layout_problems(value: Any, param: torch.Tensor, texts: Sequence[str]) -> list[str]:
    """Why leaves of a saved value cannot be sharded as the parameter needs it; their tensors may be on meta."""
    found = []
    for leaf, words in _leaves(value, texts):
        try:
            _placements(leaf, param, words)
        except ValueError as error:
            found.append(str(error))
    return found


def restore_layout(value: Any, param: torch.Tensor, texts: Sequence[str], to_device: bool) -> Any:
    """A saved value as an optimizer keeps it for the parameter: DTensors on the parameter's mesh, and if `to_device`
    plain tensors on its device.
    """
    leaves = [_restore_leaf(leaf, param, words, to_device) for leaf, words in _leaves(value, texts)]
    return tree_unflatten(leaves, tree_structure(value))


def _leaves(value: Any, texts: Sequence[str]) -> list[tuple[Any, list[str]]]:
    """(leaf, words)."""
    leaves = tree_leaves(value)
    return list(zip(leaves, [text.split() for text in texts or [""] * len(leaves)], strict=True))


def _leaf_layout(leaf: Any, param: torch.Tensor, inside: bool) -> str:
    if not isinstance(leaf, torch.Tensor):
        return ""
    same_shape = leaf.shape == param.shape
    if is_dtensor(leaf) and not is_dtensor(param):
        raise ValueError("a DTensor, but the parameter is a plain tensor")
    if is_dtensor(leaf):
        return "" if same_shape and not inside else describe_placements(leaf)
    words = []
    if is_dtensor(param) and leaf.ndim:
        if same_shape:
            raise ValueError("a plain tensor, but the parameter of the same shape is a DTensor")
        words = [PLAIN]
    if not leaf.is_contiguous() and torch.empty_like(leaf).stride() == leaf.stride():
        words.append(STRIDES + ",".join(map(str, leaf.stride())))
    return " ".join(words)


def _placements(leaf: Any, param: torch.Tensor, words: Sequence[str]) -> Any:
    """The placements of a leaf that is still to be distributed over the parameter's mesh; else None."""
    if not isinstance(leaf, torch.Tensor) or is_dtensor(leaf) or not is_dtensor(param) or PLAIN in words:
        return None
    text = " ".join(word for word in words if not word.startswith(STRIDES))
    return target_placements(leaf.shape, param, text) if text or leaf.ndim else None


def _restore_leaf(leaf: Any, param: torch.Tensor, words: Sequence[str], to_device: bool) -> Any:
    if (placements := _placements(leaf, param, words)) is not None:
        return distribute(leaf, param, placements)
    if not isinstance(leaf, torch.Tensor) or is_dtensor(leaf):
        return leaf
    for strides in (word.removeprefix(STRIDES) for word in words if word.startswith(STRIDES)):
        leaf = torch.empty_strided(leaf.shape, [*map(int, strides.split(","))], dtype=leaf.dtype).copy_(leaf)
    return leaf.to(param.device) if to_device else leaf
