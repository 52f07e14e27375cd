"""The learning rate over the steps: linear warm-up, then a decay."""

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

Options = Mapping[str, Any]
"""Of one parameter group."""


def factor(config: ScheduleConfig, max_steps: int) -> Callable[[int], float]:
    """Step (from 0) -> factor on the optimizer's own learning rate."""
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
    """A factor on the learning rate of every group, also of those that the optimizer gets later: such a group keeps the
    rate that it was added with until the next step, and from then on that is its base rate.
    """

    def get_lr(self) -> list[Any]:
        groups = self.optimizer.param_groups
        new = [group.setdefault("initial_lr", group["lr"]) for group in groups[len(self.base_lrs) :]]
        self.base_lrs = [*self.base_lrs, *new][: len(groups)]
        self.lr_lambdas = self.lr_lambdas[:1] * len(groups)
        return super().get_lr()


def make_scheduler(optimizer: Optimizer, config: ScheduleConfig, max_steps: int) -> LambdaLR:
    """A scheduler that is stepped once after each optimizer step."""
    return LrSchedule(optimizer, factor(config, max_steps))


def built_options(optimizer: Optimizer) -> list[Options]:
    """The options of each group, for `override` after a load."""
    groups = optimizer.param_groups
    return [copy.deepcopy({key: value for key, value in group.items() if key != "params"}) for group in groups]


def override(optimizer: Optimizer, scheduler: LambdaLR, built: Sequence[Options], keys: Collection[str]) -> None:
    """Give these options the values that the optimizer was built with, group by group; the learning rate at its place
    in the schedule. Groups that were added later keep theirs.
    """
    if not keys:
        return
    for number, (group, own) in enumerate(zip(optimizer.param_groups, built, strict=False)):
        group.update({key: own[key] for key in keys if key in own})
        if "lr" in keys:
            scheduler.base_lrs[number] = group["initial_lr"] = own["initial_lr"]
    set_rate(scheduler)


def set_rate(scheduler: LambdaLR) -> None:
    """Give all groups the learning rate of the next step: the one that was loaded is that of the saved run's curve."""
    groups, at = scheduler.optimizer.param_groups, scheduler.lr_lambdas[0](scheduler.last_epoch)
    for group, base in zip(groups, scheduler.base_lrs, strict=False):
        rate = base * at
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
    set_last_rates(scheduler, (group["lr"] for group in groups))


def rate_change(old: Mapping[str, Any], new: Mapping[str, Any], step: int, override: Collection[str] = ()) -> str:
    """What it does to the learning rate to go on after this step with the new configuration; nothing if it stays.

    Both are plain data. The optimizer's own rate is the old one, unless `optim.lr` is in `override`.
    """
    (before, was), (after, now), (kept, _) = _planned(old), _planned(new), _planned(new, _planned(old)[1])
    end = new["trainer"]["max_steps"]
    if before(step) != after(step):
        one, other = _rate(old) * before(step), _rate(new if "optim.lr" in override else old) * after(step)
        text = f"the learning rate of step {step + 1} is {other:.4g}, not {one:.4g}"
    elif any(before(at) != after(at) for at in range(step, end, max(1, (end - step) // 100))):
        text = "the learning rate takes another course from here on"
    else:
        return ""
    return text + (f" (schedule.steps={was} keeps it)" if was != now and kept(step) == before(step) else "")


def _rate(config: Mapping[str, Any]) -> float:
    """The optimizer's own learning rate; 1 where the configuration does not tell it, so that factors are told."""
    rate = config["optim"].get("lr")
    return rate if isinstance(rate, (int, float)) else 1.0


def _planned(config: Mapping[str, Any], steps: int | None = None) -> tuple[Callable[[int], float], int]:
    """The factor by step, and the steps that it runs over (None: as configured)."""
    known = {field.name for field in fields(ScheduleConfig)}
    schedule = ScheduleConfig(**{key: value for key, value in config["schedule"].items() if key in known})
    steps = steps or schedule.steps or config["trainer"]["max_steps"]
    return factor(replace(schedule, decay=Decay(schedule.decay), steps=steps), steps), steps
