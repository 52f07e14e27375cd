"""Optimizers with a train and an eval mode (schedule-free ones): in each mode the model holds other weights."""

from __future__ import annotations

from typing import Literal

from torch.optim import Optimizer


def set_mode(optimizer: Optimizer, mode: Literal["train", "eval"]) -> None:
    """Put the weights of this mode into the model; does nothing for an optimizer without modes.

    Between two steps the mode is always eval, so that evaluations, saves and callbacks see the weights to use.
    Switching rounds the weights; a resumed run is still bit-equal, because every run switches at every step.
    """
    methods = [getattr(optimizer, name, None) for name in ("train", "eval")]
    if all(callable(method) for method in methods):
        getattr(optimizer, mode)()
