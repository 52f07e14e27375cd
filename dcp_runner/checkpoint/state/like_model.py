"""Shards tensors that do not exist in the live object yet the same way as the model's.

An average of the weights starts as a copy of the model: its tensors are sharded like the model's of the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch

from dcp_runner.checkpoint.state.dtensor import is_dtensor
from dcp_runner.checkpoint.state.modules import ModelState

FindReference = Callable[[str, Sequence[int], Any], Any]
"""(path of a saved tensor, its global shape, live value at the path or None) -> the value to shard it like."""


def like_live(path: str, shape: Sequence[int], live: Any) -> Any:
    """The live value at the path."""
    return live


def like_models(models: Sequence[tuple[ModelState, Collection[str]]], sharded: Collection[str]) -> FindReference:
    """The live value at the path; if that is not a tensor, a DTensor of a model with this shape, whose name is the last
    key of the path or the end of that key (after `module.`, for instance).

    `sharded` are the paths that were saved as shards, and with each model come its names that were. A tensor is sharded
    like the model's only if both were saved as shards or neither was: full copies of sharded weights stay full.
    """
    dtensors = [({n: t for n, t in model.state_dict().items() if is_dtensor(t)}, were) for model, were in models]

    def find(path: str, shape: Sequence[int], live: Any) -> Any:
        if isinstance(live, torch.Tensor):
            return live
        steps = path.rpartition("/")[2].split(".")
        names = [".".join(steps[start:]) for start in range(len(steps))]
        found = ((tensors.get(name), name in were_sharded) for name in names for tensors, were_sharded in dtensors)
        candidates = (tensor for tensor, was in found if tensor is not None and was == (path in sharded))
        return next((tensor for tensor in candidates if tuple(tensor.shape) == tuple(shape)), live)

    return find
