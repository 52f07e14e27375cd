"""Where the tensors of a user's own state belong while the object that loads it has not made them yet: an average
of the weights begins as a copy of the model, so its tensors are cut as the model's of the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch

from dcp_runner.checkpoint.state.dtensor import is_dtensor
from dcp_runner.checkpoint.state.modules import ModelState

FindReference = Callable[[str, Sequence[int], Any], Any]
"""(path of a saved tensor, its whole shape, live value at its place or None) -> the value that it is to be cut like."""


def like_live(path: str, shape: Sequence[int], live: Any) -> Any:
    """As what stands there now."""
    return live


def like_models(models: Sequence[tuple[ModelState, Collection[str]]], cut: Collection[str]) -> FindReference:
    """As what stands there now; and where no tensor does, as the model's tensor of this shape whose name is the last
    key of the path, or its end (`module.` may precede the name).

    `cut` are the paths that were saved in parts, and beside each model stand its names that were. Only what was cut as
    the model was, is cut as it is: whole copies of weights, saved beside weights in parts, stay whole.
    """
    live_cut = [({n: t for n, t in model.state_dict().items() if is_dtensor(t)}, were) for model, were in models]

    def place(path: str, shape: Sequence[int], live: Any) -> Any:
        if isinstance(live, torch.Tensor):
            return live
        steps = path.rpartition("/")[2].split(".")
        names = [".".join(steps[first:]) for first in range(len(steps))]
        found = ((tensors.get(name), name in were) for name in names for tensors, were in live_cut)
        alike = (tensor for tensor, was in found if tensor is not None and was == (path in cut))
        return next((tensor for tensor in alike if tuple(tensor.shape) == tuple(shape)), live)

    return place
