"""The learning rate over the steps: linear warm-up, then a decay."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dcp_runner.train.config import Decay, ScheduleConfig


def factor(config: ScheduleConfig, max_steps: int) -> Callable[[int], float]:
    """Step (from 0) -> factor on the optimizer's own learning rate."""

    def at(step: int) -> float:
        if step < config.warmup_steps:
            return (step + 1) / (config.warmup_steps + 1)
        done = min(1.0, (step - config.warmup_steps) / max(1, max_steps - config.warmup_steps))
        if config.decay is Decay.constant:
            return 1.0
        falling = 1 - done if config.decay is Decay.linear else (1 + math.cos(math.pi * done)) / 2
        return config.min_ratio + (1 - config.min_ratio) * falling

    return at


def make_scheduler(optimizer: Optimizer, config: ScheduleConfig, max_steps: int) -> LambdaLR:
    """A scheduler that is stepped once after each optimizer step."""
    return LambdaLR(optimizer, factor(config, max_steps))


def set_option(optimizer: Optimizer, scheduler: LambdaLR, key: str, value: Any) -> None:
    """Give an optimizer's option a new value in all groups, the learning rate at its place in the schedule."""
    for number, group in enumerate(optimizer.param_groups):
        if key == "lr":
            scheduler.base_lrs[number] = group["initial_lr"] = value
            group["lr"] = value * scheduler.lr_lambdas[number](scheduler.last_epoch)
        else:
            group[key] = value
