"""Optimizers with two sets of weights, as schedule-free ones: those that steps are taken from, and those to use."""

from __future__ import annotations

from typing import Literal

from torch.optim import Optimizer


def switch(optimizer: Optimizer, mode: Literal["train", "eval"]) -> None:
    """Put the weights of this mode into the model; nothing for an optimizer without modes.

    Between two steps the mode is eval, whatever happens there: evaluations, saves and callbacks find the weights to
    use, and a resumed run has switched as often as one that never stopped, for the way there and back rounds.
    """
    switches = {name: getattr(optimizer, name, None) for name in ("train", "eval")}
    if all(callable(one) for one in switches.values()):
        getattr(optimizer, mode)()
