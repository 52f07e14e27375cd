"""The learning rate by step: linear warm-up, then a decay."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dcp_runner.common.torch_private import set_last_rates
from dcp_runner.train.config import Decay, ScheduleConfig

GroupOptions = Mapping[str, Any]
"""The options of one parameter group."""


def lr_factor(config: ScheduleConfig, max_steps: int) -> Callable[[int], float]:
    """A function from step (from 0) to the factor on the optimizer's own learning rate."""
    total = config.steps or max_steps

    def at(step: int) -> float:
        if step < config.warmup_steps:
            return (step + 1) / (config.warmup_steps + 1)
        done = min(1.0, (step - config.warmup_steps) / max(1, total - config.warmup_steps))
        if config.decay is Decay.constant:
            return 1.0
        falling = 1 - done if config.decay is Decay.linear else (1 + math.cos(math.pi * done)) / 2
        return config.min_ratio + (1 - config.min_ratio) * falling

    return at


class LrSchedule(LambdaLR):
    """A factor on the learning rate of every parameter group, including groups added later: such a group keeps its own
    rate until the next step, and from then on that is its base rate.
    """

    def get_lr(self) -> list[Any]:
        groups = self.optimizer.param_groups
        new = [group.setdefault("initial_lr", group["lr"]) for group in groups[len(self.base_lrs) :]]
        self.base_lrs = [*self.base_lrs, *new][: len(groups)]
        self.lr_lambdas = self.lr_lambdas[:1] * len(groups)
        return super().get_lr()


def make_scheduler(optimizer: Optimizer, config: ScheduleConfig, max_steps: int) -> LambdaLR:
    """A scheduler, to be stepped once after each optimizer step."""
    return LrSchedule(optimizer, lr_factor(config, max_steps))


def options_as_built(optimizer: Optimizer) -> list[GroupOptions]:
    """A copy of each group's options before a load, for `override_options` after it."""
    groups = optimizer.param_groups
    return [copy.deepcopy({key: value for key, value in group.items() if key != "params"}) for group in groups]


def override_options(
    optimizer: Optimizer, scheduler: LambdaLR, built: Sequence[GroupOptions], keys: Collection[str]
) -> None:
    """Reset these options to the values that the optimizer was built with, group by group; the learning rate follows
    the schedule from the current step on. Groups that were added later keep their options.
    """
    if not keys:
        return
    for number, (group, own) in enumerate(zip(optimizer.param_groups, built, strict=False)):
        group.update({key: own[key] for key in keys if key in own})
        if "lr" in keys:
            scheduler.base_lrs[number] = group["initial_lr"] = own["initial_lr"]
    set_lr(scheduler)


def set_lr(scheduler: LambdaLR) -> None:
    """Give all groups the learning rate of the next step; a loaded rate follows the schedule of the saved run."""
    groups, factor = scheduler.optimizer.param_groups, scheduler.lr_lambdas[0](scheduler.last_epoch)
    for group, base in zip(groups, scheduler.base_lrs, strict=False):
        rate = base * factor
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
    set_last_rates(scheduler, (group["lr"] for group in groups))


def lr_change(old: Mapping[str, Any], new: Mapping[str, Any], step: int, override: Collection[str] = ()) -> str:
    """How the learning rate changes when a run continues after this step with the new configuration; empty if it does
    not change.

    Both are plain data. The optimizer's own rate is the old one, unless `optim.lr` is in `override`.
    """
    (before, old_steps), (after, new_steps) = _curve(old), _curve(new)
    kept, _ = _curve(new, old_steps)
    end = new["trainer"]["max_steps"]
    if before(step) != after(step):
        own_rate = _own_rate(new if "optim.lr" in override else old)
        text = f"the learning rate of step {step + 1} is {own_rate * after(step):.4g}"
        text += f", not {_own_rate(old) * before(step):.4g}"
    elif any(before(at) != after(at) for at in range(step, end, max(1, (end - step) // 100))):
        text = "the learning rate follows a different curve from here on"
    else:
        return ""
    if old_steps != new_steps and kept(step) == before(step):
        text += f" (schedule.steps={old_steps} keeps the old curve)"
    return text


def _own_rate(config: Mapping[str, Any]) -> float:
    """The optimizer's own learning rate; 1 if the configuration has none, so that messages give factors."""
    rate = config["optim"].get("lr")
    return rate if isinstance(rate, (int, float)) else 1.0


def _curve(config: Mapping[str, Any], steps: int | None = None) -> tuple[Callable[[int], float], int]:
    """The factor by step, and the steps that the schedule spans (`steps` None: as configured)."""
    known = {field.name for field in fields(ScheduleConfig)}
    schedule = ScheduleConfig(**{key: value for key, value in config["schedule"].items() if key in known})
    steps = steps or schedule.steps or config["trainer"]["max_steps"]
    return lr_factor(replace(schedule, decay=Decay(schedule.decay), steps=steps), steps), steps
