"""How the state of a parameter lies on the mesh and in memory, where that cannot be seen from the parameter. It is
recorded beside the state, because a fresh optimizer has none to tell it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dcp_runner.checkpoint.state.dtensor import describe_placements, distribute, is_dtensor, target_placements
from dcp_runner.common.torch_private import tree_leaves, tree_structure, tree_unflatten

WHOLE = "whole"
"""A plain tensor with dimensions, kept for a parameter that is a DTensor."""
STRIDES = "strides="
"""A dense tensor in another order than row by row: what multiplies it sums in another order too."""


def placing(value: Any, parameter: torch.Tensor) -> list[str]:
    """For each leaf of the value a text of words; nothing if all are empty, as is usual: a DTensor of the parameter's
    shape lies as the parameter, a number on every rank, and all row by row.

    Raises ValueError for what could not be made again.
    """
    texts = [_text(leaf, parameter, inside=leaf is not value) for leaf in tree_leaves(value)]
    return texts if any(texts) else []


def unplaced(value: Any, parameter: torch.Tensor, texts: Sequence[str]) -> list[str]:
    """Why leaves of a saved value, whose tensors need have no data, cannot be placed for the parameter."""
    found = []
    for leaf, words in _pairs(value, texts):
        try:
            _where(leaf, parameter, words)
        except ValueError as error:
            found.append(str(error))
    return found


def place(value: Any, parameter: torch.Tensor, texts: Sequence[str], moved: bool) -> Any:
    """A saved value as it is kept for the parameter: on the mesh what belongs there, the rest on the parameter's device
    if it is to be moved.
    """
    made = [_placed(leaf, parameter, words, moved) for leaf, words in _pairs(value, texts)]
    return tree_unflatten(made, tree_structure(value))


def _pairs(value: Any, texts: Sequence[str]) -> list[tuple[Any, list[str]]]:
    leaves = tree_leaves(value)
    return list(zip(leaves, [text.split() for text in texts or [""] * len(leaves)], strict=True))


def _text(leaf: Any, parameter: torch.Tensor, inside: bool) -> str:
    if not isinstance(leaf, torch.Tensor):
        return ""
    alike = leaf.shape == parameter.shape
    if is_dtensor(leaf) and not is_dtensor(parameter):
        raise ValueError("a DTensor, kept for a parameter that is none")
    if is_dtensor(leaf):
        return "" if alike and not inside else describe_placements(leaf)
    words = []
    if is_dtensor(parameter) and leaf.ndim:
        if alike:
            raise ValueError("a plain tensor, kept for a parameter of the same shape that is a DTensor")
        words = [WHOLE]
    if not leaf.is_contiguous() and torch.empty_like(leaf).stride() == leaf.stride():
        words.append(STRIDES + ",".join(map(str, leaf.stride())))
    return " ".join(words)


def _where(leaf: Any, parameter: torch.Tensor, words: Sequence[str]) -> Any:
    """The placements of a leaf that belongs on the parameter's mesh and is not there yet; else None."""
    plain = not isinstance(leaf, torch.Tensor) or is_dtensor(leaf)
    if plain or not is_dtensor(parameter) or WHOLE in words:
        return None
    text = " ".join(word for word in words if not word.startswith(STRIDES))
    return target_placements(leaf.shape, parameter, text) if text or leaf.ndim else None


def _placed(leaf: Any, parameter: torch.Tensor, words: Sequence[str], moved: bool) -> Any:
    if (where := _where(leaf, parameter, words)) is not None:
        return distribute(leaf, parameter, where)
    if not isinstance(leaf, torch.Tensor) or is_dtensor(leaf):
        return leaf
    for strides in (word.removeprefix(STRIDES) for word in words if word.startswith(STRIDES)):
        leaf = torch.empty_strided(leaf.shape, [*map(int, strides.split(","))], dtype=leaf.dtype).copy_(leaf)
    return leaf.to(parameter.device) if moved else leaf
