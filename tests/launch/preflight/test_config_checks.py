"""Every mistake that a configuration can hold is told, with its remedy."""

from __future__ import annotations

from typing import Any

import pytest
from composing import changed

from dcp_runner.launch.preflight.config_checks import check_config

CALLBACK = {"ema": {"_target_": "builtins.dict"}}
MISTAKES: list[tuple[str, Any, str]] = [
    ("trainer.max_steps", 0, "trainer.max_steps: must be at least 1 (found 0)"),
    ("trainer.accumulate", 0, "trainer.accumulate: must be at least 1"),
    ("checkpoint.every_steps", 0, "checkpoint.every_steps: must be at least 1"),
    ("checkpoint.keep.last", 0, "checkpoint.keep.last: must be at least 1"),
    ("checkpoint.timeout_s", 0, "checkpoint.timeout_s: must be more than 0"),
    ("checkpoint.every_minutes", -1, "checkpoint.every_minutes: must be more than 0"),
    ("schedule.min_ratio", 1.5, "schedule.min_ratio: must be at most 1"),
    ("schedule.warmup_steps", -1, "schedule.warmup_steps: must be at least 0"),
    ("data.batch_size", 0, "data.batch_size: must be at least 1"),
    ("seed", -1, "seed: must be at least 0"),
    ("name", "../x", "name: a relative path"),
    ("name", "/x", "name: a relative path"),
    ("name", "a=b", "name: a relative path"),
    ("sharing.modl", "auto", "sharing: no component 'modl'; did you mean `model`?"),
    ("sharing.ema", "per_rank", "sharing: no component 'ema'"),
    ("sharing.model", "replicatd", "sharing.model: unknown sharing 'replicatd'"),
    ("sharing.model", "per_group:dq", "no mesh axis 'dq'; did you mean `dp`?"),
    ("checkpoint.validation_for.optimiser", "quick", "did you mean `optimizer`?"),
    ("resume_skip", ["optim"], "resume_skip: no component 'optim'; did you mean `optimizer`?"),
    ("resume_override", ["trainer.max_steps"], "a checkpoint holds no value of 'trainer.max_steps'"),
    ("resume_override", ["optim"], "only options of the optimizer can be overridden, as `optim.lr`"),
    ("resume_override", ["optim._target_"], "only options of the optimizer can be overridden, as `optim.lr`"),
    ("resume_override", ["model.width"], "a checkpoint holds no value of 'model.width'"),
    ("schedule.steps", 0, "schedule.steps: must be at least 1 (found 0)"),
    ("resume_override", ["optim.lrr"], "no key 'optim.lrr' in the configuration; did you mean `optim.lr`?"),
    ("resume", "lates", "a step, or an existing path; did you mean `latest`?"),
    ("resources.nodes", 3, "resources.nodes=3: 4 ranks cannot be divided equally"),
]
DDP4 = {"parallel.dp": 4}


@pytest.mark.parametrize(("key", "value", "told"), MISTAKES)
def test_values_and_names(key: str, value: Any, told: str) -> None:
    (found,) = check_config(changed(DDP4 | {key: value}), exists=lambda _: False)
    assert told in found


def test_the_batch_size_is_global() -> None:
    many = DDP4 | {"trainer.accumulate": 2}
    assert check_config(changed(many | {"data.batch_size": 24})) == []
    assert check_config(changed(many | {"data.batch_size": 30})) == [
        "data.batch_size=30: the global batch size must be divisible by dp * fsdp * accumulate = 4 * 1 * 2 = 8; try 24 or 32"
    ]
    assert "try 8" in check_config(changed(many | {"data.batch_size": 3}))[0]


def test_correct_names_are_taken() -> None:
    names = {
        "callbacks": CALLBACK,
        "sharing.ema": "per_rank",
        "sharing.model": "per_group:dp+tp",
        "checkpoint.validation_for.ema": "quick",
        "resume_skip": ["ema"],
        "resume_override": ["optim.lr"],
        "resume": 500,
    }
    assert check_config(changed(names)) == []
    assert check_config(changed({"resume": "/some/run"}), exists=lambda path: path == "/some/run") == []


def test_all_problems_at_once() -> None:
    wrong = {"trainer.max_steps": 0, "sharing.modl": "auto", "name": "../x", "resume": "lates", "data.workers": -1}
    assert len(check_config(changed(wrong))) == 5
