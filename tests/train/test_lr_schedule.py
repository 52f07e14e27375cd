"""The learning rate by step, after a load, and how a changed configuration changes it."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dcp_runner.config.diff import changes
from dcp_runner.train.config import Decay, ScheduleConfig
from dcp_runner.train.lr_schedule import (
    lr_change,
    lr_factor,
    make_scheduler,
    options_as_built,
    override_options,
    set_lr,
)


@pytest.mark.parametrize(
    ("decay", "warmup", "ratio", "expected"),
    [
        (Decay.constant, 0, 0.1, {0: 1, 50: 1, 100: 1, 500: 1}),
        (Decay.constant, 4, 0.1, {0: 0.2, 1: 0.4, 3: 0.8, 4: 1, 100: 1}),
        (Decay.linear, 0, 0.0, {0: 1, 25: 0.75, 50: 0.5, 100: 0, 500: 0}),
        (Decay.linear, 20, 0.5, {19: 20 / 21, 20: 1, 60: 0.75, 100: 0.5, 101: 0.5}),
        (Decay.cosine, 0, 0.1, {0: 1, 50: 0.55, 100: 0.1, 200: 0.1, 25: 0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2}),
        (Decay.cosine, 100, 0.1, {0: 1 / 101, 99: 100 / 101, 100: 1}),
        (Decay.cosine, 200, 0.1, {100: 101 / 201, 200: 1}),
    ],
)
def test_the_factor_on_the_learning_rate(decay: Decay, warmup: int, ratio: float, expected: dict[int, float]) -> None:
    at = lr_factor(ScheduleConfig(decay=decay, warmup_steps=warmup, min_ratio=ratio), 100)
    assert {step: at(step) for step in expected} == pytest.approx(expected)


@given(st.sampled_from(Decay), st.integers(0, 50), st.floats(0, 1), st.integers(1, 100))
def test_the_factor_rises_while_warming_up_and_never_rises_again(
    decay: Decay, warmup: int, ratio: float, steps: int
) -> None:
    values = [
        lr_factor(ScheduleConfig(decay=decay, warmup_steps=warmup, min_ratio=ratio), steps)(step)
        for step in range(warmup + steps + 5)
    ]
    rising, falling = values[: warmup + 1], values[warmup:]
    assert rising == sorted(rising) and rising[0] > 0 and values[warmup] == 1
    assert all(one >= other - 1e-12 for one, other in pairwise(falling)) and min(falling) >= min(ratio, 1) - 1e-12


def two_groups(*rates: float, decay: float = 0.01) -> tuple[Any, Any]:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
    optimizer = torch.optim.AdamW([groups[0] | {"weight_decay": 0.5}, *groups[1:]], weight_decay=decay)
    return optimizer, make_scheduler(optimizer, ScheduleConfig(decay=Decay.linear, min_ratio=0), 10)


def stepped(optimizer: Any, scheduler: Any, times: int) -> list[float]:
    for _ in range(times):
        optimizer.step()
        scheduler.step()
    return [group["lr"] for group in optimizer.param_groups]


def test_an_overridden_option_is_that_of_the_new_optimizer_group_by_group() -> None:
    optimizer, scheduler = two_groups(8.0, 2.0, decay=0.3)
    built = options_as_built(optimizer)
    old, its = two_groups(1.0, 4.0, 6.0)
    stepped(old, its, 5)
    optimizer.load_state_dict(two_groups(1.0, 4.0)[0].state_dict())
    scheduler.load_state_dict(its.state_dict())
    optimizer.add_param_group(old.param_groups[2])
    override_options(optimizer, scheduler, built, ["lr", "weight_decay"])
    told = [(group["lr"], group["initial_lr"], group["weight_decay"]) for group in optimizer.param_groups]
    assert told == [(4.0, 8.0, 0.5), (1.0, 2.0, 0.3), (3.0, 6.0, 0.01)], "the third one was added later"
    assert scheduler.get_last_lr() == [4.0, 1.0, 3.0]
    assert stepped(optimizer, scheduler, 1) == pytest.approx([3.2, 0.8, 2.4])


def test_a_group_that_is_added_takes_part_in_the_schedule_also_after_a_load() -> None:
    optimizer, scheduler = two_groups(1.0)
    stepped(optimizer, scheduler, 2)
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 4.0})
    assert stepped(optimizer, scheduler, 3) == pytest.approx([0.5, 2.0])
    again, fresh = two_groups(1.0)
    again.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 7.0})
    again.load_state_dict(optimizer.state_dict())
    fresh.load_state_dict(scheduler.state_dict())
    assert stepped(again, fresh, 2) == stepped(optimizer, scheduler, 2) == pytest.approx([0.3, 1.2])


def test_a_schedule_of_its_own_length_holds_the_rate_when_the_run_goes_on() -> None:
    short, held = lr_factor(ScheduleConfig(), 8), lr_factor(ScheduleConfig(steps=8), 16)
    assert [short(step) for step in range(20)] == [held(step) for step in range(20)]


PLAIN: Any = {"optim": {"lr": 0.001}, "schedule": {"decay": "cosine", "warmup_steps": 0, "min_ratio": 0.1}}
RATES: dict[str, tuple[Any, list[str], str]] = {
    "as before": ({}, [], ""),
    "longer": ({"max_steps": 16}, [], "the learning rate of step 9 is 0.00055, not 0.0001 (schedule.steps=8 keeps the old curve)"),
    "held": ({"max_steps": 16, "steps": 8}, [], ""),
    "constant": ({"max_steps": 16, "decay": "constant"}, [], "the learning rate of step 9 is 0.001, not 0.0001"),
    "another end": ({"max_steps": 16, "steps": 8, "min_ratio": 0.5}, [], "the learning rate of step 9 is 0.0005, not 0.0001"),
    "rate too": ({"max_steps": 16, "lr": 0.1}, ["optim.lr"], "the learning rate of step 9 is 0.055, not 0.0001"),
    "rate not": ({"max_steps": 16, "lr": 0.1}, [], "the learning rate of step 9 is 0.00055, not 0.0001"),
}  # fmt: skip


@pytest.mark.parametrize("name", RATES)
def test_what_a_change_does_to_the_learning_rate_is_told(name: str) -> None:
    change, keys, expected = RATES[name]
    old = PLAIN | {"trainer": {"max_steps": 8}}
    new = {"optim": {"lr": change.get("lr", 0.001)}, "trainer": {"max_steps": change.get("max_steps", 8)}}
    new["schedule"] = PLAIN["schedule"] | {key: change[key] for key in ("decay", "steps", "min_ratio") if key in change}
    rate = lr_change(old, new, 8, keys)
    assert rate.startswith(expected) and bool(rate) == bool(expected)
    assert "keeps the old" not in rate or change.get("decay") is None  # another decay has another rate over any steps
    effects = {one.key: one.effect for one in changes(old, new, keys, rate)}
    if change.get("max_steps"):
        assert effects["trainer.max_steps"] == (f"new value; {rate}" if rate else "new value")


def test_another_course_later_is_told_too() -> None:
    old, new = (
        {**PLAIN, "schedule": PLAIN["schedule"] | {"warmup_steps": 6}, "trainer": {"max_steps": n}} for n in (20, 40)
    )
    assert (
        lr_change(old, new, 4)
        == "the learning rate follows a different curve from here on (schedule.steps=20 keeps the old curve)"
    )


@pytest.mark.parametrize("max_steps", [8, 16])
def test_after_a_load_the_next_step_has_the_rate_of_the_new_curve(max_steps: int) -> None:
    """And to the last bit the one that was saved, where the curve is the same."""

    def made(steps: int) -> tuple[Any, Any]:
        optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.ones(1))], "lr": rate} for rate in (0.1, 0.3)])
        return optimizer, make_scheduler(optimizer, ScheduleConfig(decay=Decay.cosine), steps)

    optimizer, scheduler = made(8)
    for _ in range(5):
        optimizer.step()
        scheduler.step()
    fresh, again = made(max_steps)
    again.load_state_dict(
        {k: v for k, v in scheduler.state_dict().items() if k != "lr_lambdas"} | {"lr_lambdas": [None] * 2}
    )
    for group, saved in zip(fresh.param_groups, optimizer.param_groups, strict=True):
        group.update({key: value for key, value in saved.items() if key != "params"})
    set_lr(again)
    expected = [rate * lr_factor(ScheduleConfig(decay=Decay.cosine), max_steps)(5) for rate in (0.1, 0.3)]
    assert [group["lr"] for group in fresh.param_groups] == again.get_last_lr() == expected
    assert (expected == [group["lr"] for group in optimizer.param_groups]) == (max_steps == 8)
