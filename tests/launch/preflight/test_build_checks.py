"""Every mistake in what a configuration builds is reported, without building it."""

from __future__ import annotations

from typing import Any

import pytest
from composing import changed

from dcp_runner.launch.preflight.build_checks import check_targets
from dcp_runner.train.callbacks import Callback


class Accuracy(Callback):
    """Adds a metric to those of an evaluation."""

    def on_evaluate(self, trainer: Any, metrics: Any) -> None:
        metrics["accuracy"] = 1.0


class Ema(Callback):
    """Adds none."""


METRIC = "checkpoint.keep.metric"
NEVER: list[dict[str, Any]] = [{"data.eval": None}, {"trainer.eval_every": None}]


@pytest.mark.parametrize(
    ("metric", "more", "told"),
    [
        ("val_loss", {}, "no such metric is recorded; did you mean `eval_loss`?; this run records loss, eval_loss"),
        ("grad_norm", {}, "checkpoint.keep.metric=grad_norm: no such metric is recorded; this run records loss, eval_loss"),
        ("accuracy", {"callbacks": {"ema": {"_target_": "test_build_checks.Ema"}}}, "no such metric is recorded"),
        *(("accuracy", never | {"callbacks": {"a": {"_target_": "test_build_checks.Accuracy"}}}, "this run records loss; a")
          for never in NEVER),
    ],
)  # fmt: skip
def test_a_metric_that_nothing_records_is_refused(metric: str, more: dict[str, Any], told: str) -> None:
    (found,) = check_targets(changed({METRIC: metric} | more))
    assert told in found


@pytest.mark.parametrize(
    ("metric", "more"),
    [
        ("loss", NEVER[0]),
        ("accuracy", {"callbacks": {"a": {"_target_": "test_build_checks.Accuracy"}}}),
        *(("eval_loss", never) for never in NEVER),  # the default, which counts as keep.best=0
    ],
)
def test_a_metric_that_is_or_may_be_recorded_is_taken(metric: str, more: dict[str, Any]) -> None:
    assert check_targets(changed({METRIC: metric} | more)) == []


TARGETS: list[tuple[str, Any, str]] = [
    ("model._target_", "no_such_package.Model", "no module named 'no_such_package'"),
    ("model._target_", "dcp_runner.models.gpt.Gpt", "gpt has no 'Gpt'; did you mean `dcp_runner.models.gpt.GPT`?"),
    ("model._target_", "dcp_runner.models.gpt.Banana", "dcp_runner.models.gpt has no 'Banana'"),
    ("optim._target_", "torch.optim.adamW", "did you mean `torch.optim.AdamW`?"),
    ("optim._target_", "torch.__version__", "which is not callable"),
    ("optim._target_", "not a path", "not an import path"),
    ("optim", {"lr": 1}, "optim: missing `_target_`"),
    ("optim.wieght_decay", 1, "AdamW takes no 'wieght_decay'; did you mean `optim.weight_decay`?"),
    ("optim.params", 1, "AdamW takes no 'params'"),
    (
        "data.train",
        {"_target_": "dcp_runner.data.stdlib.StdlibBytes"},
        "data.train.context: missing; StdlibBytes requires it",
    ),
    ("model.inner", {"_target_": "torch.optim.Adamm"}, "model.inner._target_=torch.optim.Adamm"),
    ("model.inner", [{"_target_": "builtins.no_such"}], "model.inner[0]._target_=builtins.no_such"),
    ("loss._target_", "torch.nn.CrossEntropyLoss", "is a class; expected a function of (outputs, targets)"),
    ("loss._target_", "no_such_module.f", "loss._target_=no_such_module.f"),
    ("callbacks.a", {"_target_": "no_such_module.X"}, "callbacks.a._target_=no_such_module.X"),
    ("logger.trackers.a", {"_target_": "dcp_runner.train.trackers.Wandbb"}, "`dcp_runner.train.trackers.Wandb`?"),
    (
        "logger.trackers.a",
        {"_target_": "dcp_runner.train.trackers.TensorBoard", "foldr": "x"},
        "TensorBoard takes no 'foldr'; did you mean `logger.trackers.a.folder`?",
    ),
    (
        "parallel.strategy",
        "dcp_runner.train.parallel.single.Singel",
        "did you mean `dcp_runner.train.parallel.single.Single`?",
    ),
    ("parallel.options.bucket", 1, "parallel.options.bucket: Single takes no 'bucket'"),
]


@pytest.mark.parametrize(("key", "value", "told"), TARGETS)
def test_targets_and_their_keys(key: str, value: Any, told: str) -> None:
    found = check_targets(changed({key: value}))
    assert any(told in text for text in found), found


def test_hints_are_given_only_where_a_name_is_near() -> None:
    (found,) = check_targets(changed({"model._target_": "dcp_runner.models.gpt.Banana"}))
    assert "did you mean" not in found


def test_good_targets() -> None:
    loss = {"_target_": "torch.nn.functional.cross_entropy", "label_smoothing": 0.1}
    optim = {"_target_": "torch.optim.SGD", "lr": 0.1, "nesterov": True}
    callbacks = {"a": {"_target_": "builtins.dict", "anything": 1}}
    assert check_targets(changed({"loss": loss, "optim": optim, "callbacks": callbacks})) == []
