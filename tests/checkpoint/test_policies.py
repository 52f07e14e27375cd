"""When to save, what to keep, what changed, how the learning rate goes, and callbacks as a component."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from signal import Signals
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from solo import alone
from torch import nn

from dcp_runner import StateComponent
from dcp_runner.checkpoint.config import Best, CheckpointConfig, KeepConfig
from dcp_runner.checkpoint.retention import steps_to_delete
from dcp_runner.common.run_context import RunContext
from dcp_runner.common.signals import StopFlag
from dcp_runner.config.diff import changes
from dcp_runner.run.train import tell_start
from dcp_runner.train.callbacks import Callback, Callbacks
from dcp_runner.train.config import Decay, ScheduleConfig
from dcp_runner.train.lr_schedule import built_options, factor, make_scheduler, override, rate_change, set_rate
from dcp_runner.train.metrics_log import Report
from dcp_runner.train.policies import SavePolicy

# -- when to save ------------------------------------------------------------------------------------------------------


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("every", "due"), [(1, [1, 2, 3, 4, 5, 6]), (3, [3, 6]), (7, []), (None, [])])
def test_saves_by_steps(every: int | None, due: list[int]) -> None:
    policy = SavePolicy(every, None, Clock())
    assert [step for step in range(1, 7) if policy.due(step, policy.overdue())] == due


def test_saves_by_minutes_count_from_the_last_save() -> None:
    clock = Clock()
    policy = SavePolicy.of(CheckpointConfig(every_steps=None, every_minutes=0.5), clock)
    told = []
    for seconds in (0, 29.9, 0.1, 100):
        clock.now += seconds
        told.append(policy.overdue())
    assert told == [False, False, True, True]
    policy.saved()
    clock.now += 29
    assert not policy.overdue()
    clock.now += 1
    assert policy.overdue()


def test_rank_0_decides_about_the_time() -> None:
    policy = SavePolicy(10, 1.0, Clock())
    assert policy.due(3, overdue=True) and not policy.due(3, overdue=False) and policy.due(10, overdue=False)


# -- what to keep ------------------------------------------------------------------------------------------------------


metric_values = st.one_of(st.none(), st.floats(), st.integers(0, 3).map(float))
histories = st.dictionaries(st.integers(0, 60), metric_values, max_size=12).map(
    lambda told: {step: {} if value is None else {"eval_loss": value} for step, value in told.items()}
)
keeps = st.builds(
    KeepConfig,
    last=st.none() | st.integers(0, 4),
    best=st.integers(0, 3),
    every=st.none() | st.integers(1, 9),
    mode=st.sampled_from(Best),
)


@given(histories, keeps, st.sets(st.integers(0, 60), max_size=3))
def test_what_any_rule_keeps_stays(
    history: dict[int, Mapping[str, float]], keep: KeepConfig, protected: set[int]
) -> None:
    gone = steps_to_delete(history, keep, protected)
    stay = sorted(set(history) - set(gone))
    assert gone == sorted(set(gone)) and set(gone) <= set(history)
    assert not set(gone) & protected
    if history:
        assert max(history) in stay
    if keep.last is None:
        return
    assert stay[-keep.last :] == sorted(history)[-keep.last :] or keep.last == 0
    assert not keep.every or not any(step % keep.every == 0 for step in gone)
    values = {
        step: told["eval_loss"] for step, told in history.items() if not math.isnan(told.get("eval_loss", math.nan))
    }
    better = (lambda a, b: a <= b) if keep.mode is Best.min else (lambda a, b: a >= b)
    best = [step for step in stay if step in values]
    for step in set(gone) & set(values):
        ahead = [other for other in best if better(values[other], values[step])]
        assert len(ahead) >= keep.best, "a deleted one has enough better ones that stay"
    rules = keep.best + max(keep.last, 1) + len(protected) + (len(history) if keep.every else 0)
    assert len(stay) <= rules, "and nothing stays without a rule"


@pytest.mark.parametrize(
    ("losses", "keep", "gone"),
    [
        ({}, KeepConfig(last=1), []),
        ({1: 5.0}, KeepConfig(last=0, best=0), []),
        ({1: 5.0, 2: 4.0, 3: 3.0}, KeepConfig(last=None, best=0), []),
        ({1: 1.0, 2: 4.0, 3: 3.0, 4: 2.0}, KeepConfig(last=2, best=0), [1, 2]),
        ({1: 1.0, 2: 4.0, 3: 3.0, 4: 2.0}, KeepConfig(last=2), [2]),
        ({1: 1.0, 2: 4.0, 3: 3.0, 4: 2.0}, KeepConfig(last=1, mode=Best.max), [1, 3]),
        ({1: 1.0, 2: 1.0, 3: 3.0}, KeepConfig(last=1), [1]),
        ({1: 1.0, 2: 1.0, 3: 0.0}, KeepConfig(last=1, mode=Best.max), [1]),
        ({1: math.nan, 2: 7.0, 3: math.nan}, KeepConfig(last=1), [1]),
        ({1: math.inf, 2: math.nan, 3: math.nan}, KeepConfig(last=1), [2]),
        ({5: 1.0, 10: 9.0, 11: 9.0, 20: 9.0, 21: 9.0}, KeepConfig(last=1, every=10), [11]),
        ({1: 3.0, 2: 2.0, 3: 1.0, 4: 5.0}, KeepConfig(last=1, best=2), [1]),
    ],
)
def test_cases_of_retention(losses: dict[int, float], keep: KeepConfig, gone: list[int]) -> None:
    assert steps_to_delete({step: {"eval_loss": loss} for step, loss in losses.items()}, keep) == gone


def test_another_metric_decides() -> None:
    history = {1: {"f1": 0.9}, 2: {"f1": 0.5}, 3: {"eval_loss": 0.0}, 4: {}}
    assert steps_to_delete(history, KeepConfig(last=1, metric="f1", mode=Best.max)) == [2, 3]


# -- what changed ------------------------------------------------------------------------------------------------------


OLD: Any = {
    "name": "a",
    "seed": 1,
    "optim": {"_target_": "SGD", "lr": 0.1, "betas": [0.9, 0.9]},
    "model": {"width": 8, "gone": True},
    "callbacks": {},
}


@pytest.mark.parametrize(
    ("change", "override", "expected"),
    [
        ({}, [], []),
        ({"name": "b", "dry_run": True, "resume": "best"}, [], []),
        ({"resume_override": ["optim.lr"], "resume_skip": ["x"], "resume_rng": "reseed"}, [], []),
        ({"seed": 2}, [], [("seed", 1, 2, "new value")]),
        ({"optim": OLD["optim"] | {"lr": 0.2}}, [], [("optim.lr", 0.1, 0.2, "old value, from the checkpoint")]),
        ({"optim": OLD["optim"] | {"lr": 0.2}}, ["optim.lr"], [("optim.lr", 0.1, 0.2, "new value (resume_override)")]),
        ({"optim": OLD["optim"] | {"_target_": "Adam"}}, [], [("optim._target_", "SGD", "Adam", "new value")]),
        ({"optim": OLD["optim"] | {"betas": [0.9, 0.8]}}, [], [("optim.betas", [0.9, 0.9], [0.9, 0.8], "old value")]),
        (
            {"model": {"width": 9, "new": {"deep": 1}}},
            [],
            [("model.width", 8, 9, "new"), ("model.new.deep", None, 1, "new"), ("model.gone", True, None, "new")],
        ),
        ({"callbacks": {"ema": {"decay": 0.9}}}, [], [("callbacks.ema.decay", None, 0.9, "new value")]),
    ],
)  # fmt: skip
def test_what_changed_and_what_comes_of_it(change: Any, override: list[str], expected: list[tuple[Any, ...]]) -> None:
    found = changes(OLD, OLD | change, override)
    assert [(one.key, one.old, one.new) for one in found] == [one[:3] for one in expected]
    assert all(one.effect.startswith(told[3]) for one, told in zip(found, expected, strict=True))


# -- the learning rate -------------------------------------------------------------------------------------------------


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
    at = factor(ScheduleConfig(decay=decay, warmup_steps=warmup, min_ratio=ratio), 100)
    assert {step: at(step) for step in expected} == pytest.approx(expected)


@given(st.sampled_from(Decay), st.integers(0, 50), st.floats(0, 1), st.integers(1, 100))
def test_the_factor_rises_while_warming_up_and_never_rises_again(
    decay: Decay, warmup: int, ratio: float, steps: int
) -> None:
    values = [
        factor(ScheduleConfig(decay=decay, warmup_steps=warmup, min_ratio=ratio), steps)(step)
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
    built = built_options(optimizer)
    old, its = two_groups(1.0, 4.0, 6.0)
    stepped(old, its, 5)
    optimizer.load_state_dict(two_groups(1.0, 4.0)[0].state_dict())
    scheduler.load_state_dict(its.state_dict())
    optimizer.add_param_group(old.param_groups[2])
    override(optimizer, scheduler, built, ["lr", "weight_decay"])
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
    short, held = factor(ScheduleConfig(), 8), factor(ScheduleConfig(steps=8), 16)
    assert [short(step) for step in range(20)] == [held(step) for step in range(20)]


PLAIN: Any = {"optim": {"lr": 0.001}, "schedule": {"decay": "cosine", "warmup_steps": 0, "min_ratio": 0.1}}
RATES: dict[str, tuple[Any, list[str], str]] = {
    "as before": ({}, [], ""),
    "longer": ({"max_steps": 16}, [], "the learning rate of step 9 is 0.00055, not 0.0001 (schedule.steps=8 keeps it)"),
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
    rate = rate_change(old, new, 8, keys)
    assert rate.startswith(expected) and bool(rate) == bool(expected)
    assert "keeps it" not in rate or change.get("decay") is None  # another decay has another rate over any steps
    effects = {one.key: one.effect for one in changes(old, new, keys, rate)}
    if change.get("max_steps"):
        assert effects["trainer.max_steps"] == (f"new value; {rate}" if rate else "new value")


def test_another_course_later_is_told_too() -> None:
    old, new = (
        {**PLAIN, "schedule": PLAIN["schedule"] | {"warmup_steps": 6}, "trainer": {"max_steps": n}} for n in (20, 40)
    )
    assert (
        rate_change(old, new, 4) == "the learning rate takes another course from here on (schedule.steps=20 keeps it)"
    )


# -- callbacks ---------------------------------------------------------------------------------------------------------


class Counting(Callback):
    def __init__(self) -> None:
        self.count = 0

    def on_start(self, trainer: Any) -> None:
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.count = state_dict["count"]


def named(**counts: Any) -> dict[str, Callback]:
    made: dict[str, Callback] = {"without state": Callback()}
    for name, count in counts.items():
        made[name] = Counting()
        made[name].count = count  # type: ignore[attr-defined]
    return made


def counts(callbacks: Callbacks) -> dict[str, int]:
    return {name: one.count for name, one in callbacks.by_name.items() if isinstance(one, Counting)}


def test_callbacks_are_restored_by_name_whatever_their_order(tmp_path: Path) -> None:
    alone(tmp_path, StateComponent("callbacks", Callbacks(named(a=1, b=2)))).save(1)
    live = Callbacks(named(b=0, a=0))
    alone(tmp_path, StateComponent("callbacks", live)).load(1)
    assert counts(live) == {"a": 1, "b": 2}


def test_a_callback_that_is_added_or_removed_is_reported_and_the_others_keep_their_state(tmp_path: Path) -> None:
    """The removed one's state is not looked into: an enum in it would need a live one."""
    saved = Callbacks(named(a=1, old=2, gone=Signals.SIGTERM, tensor=torch.ones(2)))
    alone(tmp_path, StateComponent("callbacks", saved)).save(1)
    live = Callbacks(named(new=7, a=0))
    report = alone(tmp_path, StateComponent("callbacks", live)).load(1)
    assert counts(live) == {"new": 7, "a": 1}
    dropped = "has a state in the checkpoint and is not here: its state is dropped"
    assert report.accepted == (
        "callbacks: new has no state in the checkpoint: it starts afresh",
        *(f"callbacks: {name} {dropped}" for name in ("old", "gone", "tensor")),
    )


def test_a_callback_of_its_own_may_be_added_and_removed_too(tmp_path: Path) -> None:
    """As the runner declares those for which a sharing is given."""
    saved = StateComponent("old", named(old=1)["old"], required=False)
    alone(tmp_path, StateComponent("callbacks", Callbacks(named(a=1))), saved).save(1)
    live, new = Callbacks(named(a=0)), named(new=7)["new"]
    report = alone(tmp_path, StateComponent("callbacks", live), StateComponent("new", new, required=False)).load(1)
    assert counts(live) == {"a": 1} and report.accepted == ("old is not here: its state is dropped",)
    assert ("new", "unchanged (not in the checkpoint)") in [(row.component, row.action) for row in report.rows]


def test_the_start_reports_it(tmp_path: Path) -> None:
    alone(tmp_path, StateComponent("callbacks", Callbacks(named(old=1, kept=2)))).save(3)
    coordinator = alone(tmp_path, StateComponent("callbacks", Callbacks(named(new=1, kept=2))))
    texts: list[str] = []
    report = Report()
    report.event = lambda step, event, text, **more: texts.append(text)  # type: ignore[method-assign]
    context = RunContext(tmp_path, 1, 0, 1, 0, 1, "abc", {}, StopFlag())
    tell_start(report, context, coordinator, coordinator.load(3), [])
    assert texts[0].splitlines()[-2:] == [
        "callbacks: new has no state in the checkpoint: it starts afresh",
        "callbacks: old has a state in the checkpoint and is not here: its state is dropped",
    ]


def test_callbacks_that_are_components_of_their_own_are_left_to_themselves() -> None:
    callbacks = Callbacks(named(a=1, b=2), apart=["b"])
    assert callbacks.state_dict() == {"a": {"count": 1}} and list(callbacks.apart) == ["b"]
    callbacks.load_state_dict({"a": {"count": 5}, "b": {"count": 6}})
    assert counts(callbacks) == {"a": 5, "b": 2}
    callbacks.call("on_start", None)
    assert counts(callbacks) == {"a": 6, "b": 3}


def test_a_callback_need_not_have_every_hook() -> None:
    class Old:
        saved = 0

        def on_save(self, trainer: Any, path: Path) -> None:
            self.saved += 1

    callbacks = Callbacks({"old": Old()})  # type: ignore[dict-item]
    for hook in ("on_start", "add_files", "on_save"):
        callbacks.call(hook, None, Path())
    assert callbacks.by_name["old"].saved == 1  # type: ignore[attr-defined]


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
    set_rate(again)
    expected = [rate * factor(ScheduleConfig(decay=Decay.cosine), max_steps)(5) for rate in (0.1, 0.3)]
    assert [group["lr"] for group in fresh.param_groups] == again.get_last_lr() == expected
    assert (expected == [group["lr"] for group in optimizer.param_groups]) == (max_steps == 8)
