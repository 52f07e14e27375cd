"""Every mistake that a configuration can hold is told, with its remedy."""

from __future__ import annotations

from typing import Any

import pytest
from composing import changed

from dcp_runner.launch.problems import problems, target_problems

CALLBACK = {"ema": {"_target_": "builtins.dict"}}
MISTAKES: list[tuple[str, Any, str]] = [
    ("trainer.max_steps", 0, "trainer.max_steps: at least 1 (found 0)"),
    ("trainer.accumulate", 0, "trainer.accumulate: at least 1"),
    ("checkpoint.every_steps", 0, "checkpoint.every_steps: at least 1"),
    ("checkpoint.keep.last", 0, "checkpoint.keep.last: at least 1"),
    ("checkpoint.timeout_s", 0, "checkpoint.timeout_s: more than 0"),
    ("checkpoint.every_minutes", -1, "checkpoint.every_minutes: more than 0"),
    ("schedule.min_ratio", 1.5, "schedule.min_ratio: at most 1"),
    ("schedule.warmup_steps", -1, "schedule.warmup_steps: at least 0"),
    ("data.batch_size", 0, "data.batch_size: at least 1"),
    ("seed", -1, "seed: at least 0"),
    ("name", "../x", "name: a relative path"),
    ("name", "/x", "name: a relative path"),
    ("name", "a=b", "name: a relative path"),
    ("sharing.modl", "auto", "sharing: no component 'modl'; did you mean `model`?"),
    ("sharing.ema", "per_rank", "sharing: no component 'ema'"),
    ("sharing.model", "replicatd", "sharing.model: unknown sharing 'replicatd'"),
    ("sharing.model", "per_group:dq", "no mesh axis 'dq'; did you mean `dp`?"),
    ("checkpoint.validation_for.optimiser", "quick", "did you mean `optimizer`?"),
    ("resume_skip", ["optim"], "resume_skip: no component 'optim'; did you mean `optimizer`?"),
    ("resume_override", ["optim.lrr"], "no key 'optim.lrr' in the configuration; did you mean `optim.lr`?"),
    ("resume", "lates", "a step, or an existing path; did you mean `latest`?"),
    ("resources.nodes", 3, "resources.nodes=3: 4 ranks do not divide"),
]
DDP4 = {"parallel.dp": 4}


@pytest.mark.parametrize(("key", "value", "told"), MISTAKES)
def test_values_and_names(key: str, value: Any, told: str) -> None:
    (found,) = problems(changed(DDP4 | {key: value}), exists=lambda _: False)
    assert told in found


def test_the_batch_size_is_global() -> None:
    many = DDP4 | {"trainer.accumulate": 2}
    assert problems(changed(many | {"data.batch_size": 24})) == []
    assert problems(changed(many | {"data.batch_size": 30})) == [
        "data.batch_size=30: it is the global one, and must divide by dp 4 x fsdp 1 x accumulate 2 = 8; try 24 or 32"
    ]
    assert "try 8" in problems(changed(many | {"data.batch_size": 3}))[0]


def test_correct_names_are_taken() -> None:
    names = {
        "callbacks": CALLBACK,
        "sharing.ema": "per_rank",
        "sharing.model": "per_group:dp+tp",
        "checkpoint.validation_for.ema": "quick",
        "resume_skip": ["ema"],
        "resume_override": ["optim.lr", "trainer"],
        "resume": 500,
    }
    assert problems(changed(names)) == []
    assert problems(changed({"resume": "/some/run"}), exists=lambda path: path == "/some/run") == []


def test_all_problems_at_once() -> None:
    wrong = {"trainer.max_steps": 0, "sharing.modl": "auto", "name": "../x", "resume": "lates", "data.workers": -1}
    assert len(problems(changed(wrong))) == 5


TARGETS: list[tuple[str, Any, str]] = [
    ("model._target_", "no_such_package.Model", "no module named 'no_such_package'"),
    ("model._target_", "dcp_runner.models.gpt.Gpt", "gpt has no 'Gpt'; did you mean `dcp_runner.models.gpt.GPT`?"),
    ("model._target_", "dcp_runner.models.gpt.Banana", "dcp_runner.models.gpt has no 'Banana'"),
    ("optim._target_", "torch.optim.adamW", "did you mean `torch.optim.AdamW`?"),
    ("optim._target_", "torch.__version__", "nothing that can be called"),
    ("optim._target_", "not a path", "not an import path"),
    ("optim", {"lr": 1}, "optim: no `_target_`"),
    ("optim.wieght_decay", 1, "AdamW takes no 'wieght_decay'; did you mean `optim.weight_decay`?"),
    ("optim.params", 1, "AdamW takes no 'params'"),
    ("data.train", {"_target_": "dcp_runner.data.stdlib.StdlibBytes"}, "data.train.context: StdlibBytes needs it"),
    ("model.inner", {"_target_": "torch.optim.Adamm"}, "model.inner._target_=torch.optim.Adamm"),
    ("model.inner", [{"_target_": "builtins.no_such"}], "model.inner[0]._target_=builtins.no_such"),
    ("loss._target_", "torch.nn.CrossEntropyLoss", "a class; a function of (outputs, targets) is needed"),
    ("loss._target_", "no_such_module.f", "loss._target_=no_such_module.f"),
    ("callbacks.a", {"_target_": "no_such_module.X"}, "callbacks.a._target_=no_such_module.X"),
    ("parallel.strategy", "dcp_runner.train.single.Singel", "did you mean `dcp_runner.train.single.Single`?"),
    ("parallel.options.bucket", 1, "parallel.options.bucket: Single takes no 'bucket'"),
]


@pytest.mark.parametrize(("key", "value", "told"), TARGETS)
def test_targets_and_their_keys(key: str, value: Any, told: str) -> None:
    found = target_problems(changed({key: value}))
    assert any(told in text for text in found), found


def test_hints_are_given_only_where_a_name_is_near() -> None:
    (found,) = target_problems(changed({"model._target_": "dcp_runner.models.gpt.Banana"}))
    assert "did you mean" not in found


def test_good_targets() -> None:
    loss = {"_target_": "torch.nn.functional.cross_entropy", "label_smoothing": 0.1}
    optim = {"_target_": "torch.optim.SGD", "lr": 0.1, "nesterov": True}
    callbacks = {"a": {"_target_": "builtins.dict", "anything": 1}}
    assert target_problems(changed({"loss": loss, "optim": optim, "callbacks": callbacks})) == []
