"""Every mistake that a configuration can hold is told, with its remedy."""

from __future__ import annotations

from typing import Any

import pytest
from composing import changed, config

from dcp_runner.launch.preflight.build_checks import check_targets
from dcp_runner.launch.preflight.config_checks import check_config
from dcp_runner.train.callbacks import Callback

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
    ("resume_override", ["trainer.max_steps"], "a checkpoint holds no value of 'trainer.max_steps'"),
    ("resume_override", ["optim"], "expected options of the optimizer, as `optim.lr`"),
    ("resume_override", ["optim._target_"], "expected options of the optimizer, as `optim.lr`"),
    ("resume_override", ["model.width"], "a checkpoint holds no value of 'model.width'"),
    ("schedule.steps", 0, "schedule.steps: at least 1 (found 0)"),
    ("resume_override", ["optim.lrr"], "no key 'optim.lrr' in the configuration; did you mean `optim.lr`?"),
    ("resume", "lates", "a step, or an existing path; did you mean `latest`?"),
    ("resources.nodes", 3, "resources.nodes=3: 4 ranks do not divide"),
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
        "data.batch_size=30: it is the global one, and must divide by dp 4 x fsdp 1 x accumulate 2 = 8; try 24 or 32"
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
        ("val_loss", {}, "nothing records it; did you mean `eval_loss`?; this run has loss, eval_loss"),
        ("grad_norm", {}, "checkpoint.keep.metric=grad_norm: nothing records it; this run has loss, eval_loss"),
        ("accuracy", {"callbacks": {"ema": {"_target_": "test_problems.Ema"}}}, "nothing records it"),
        *(("accuracy", never | {"callbacks": {"a": {"_target_": "test_problems.Accuracy"}}}, "this run has loss, and")
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
        ("accuracy", {"callbacks": {"a": {"_target_": "test_problems.Accuracy"}}}),
        *(("eval_loss", never) for never in NEVER),  # the default, which counts as keep.best=0
    ],
)
def test_a_metric_that_is_or_may_be_recorded_is_taken(metric: str, more: dict[str, Any]) -> None:
    assert check_targets(changed({METRIC: metric} | more)) == []


def test_all_problems_at_once() -> None:
    wrong = {"trainer.max_steps": 0, "sharing.modl": "auto", "name": "../x", "resume": "lates", "data.workers": -1}
    assert len(check_config(changed(wrong))) == 5


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


def test_what_is_no_option_of_the_groups_cannot_be_overridden() -> None:
    optim = {"_target_": "pytorch_optimizer.Ranger21", "num_iterations": 9, "lr": 0.1}
    made = changed({"optim": optim, "resume_override": ["optim.lr", "optim.num_iterations"]})
    assert check_config(made) == []
    (found,) = check_targets(made)
    assert found.startswith("resume_override: optim.num_iterations is no option of the optimizer's groups; they are ['")


TOPOLOGIES: list[tuple[list[str], str]] = [
    (["parallel=ddp", "parallel.tp=2"], "parallel.tp=2: DataParallel uses the axes dp; take 1, or another topology"),
    (["parallel=single", "parallel.dp=2"], "parallel.dp=2: Single uses no axis"),
    (["parallel=pipeline", "parallel.dp=2"], "parallel.dp=2: Pipeline uses the axes pp; take 1"),
    (["parallel=fsdp", "parallel.dp=2", "parallel.fsdp=1"], "parallel.fsdp=1 with parallel.dp=2: nothing is sharded"),
    (["parallel.strategy=builtins.dict"], "parallel.strategy=builtins.dict: it is no"),
    (["parallel=tp", "parallel.tp=8"], "parallel.tp=8: must divide the 4 heads of GPT"),
    (["parallel=tp", "parallel.plan.rows=[blocks.*.out]"], "parallel.plan.rows: GPT has no module 'blocks.*.out'"),
    (["parallel=tp", "parallel.plan.rows=[embed]"], "embed is a Embedding; only nn.Linear can be split"),
    (["parallel=tp", "model.width=30"], "model: building it fails: width must be a multiple of heads=4"),
    (
        ["parallel=pipeline", "model.tied=true"],
        "embed.weight and head.weight are one tied parameter in different stages; untie them (model",
    ),
    (["parallel=pipeline", "parallel.pp=8"], "parallel.pp: 8 stages, but GPT has only 4 layers in 'blocks'"),
    (["parallel=pipeline", "parallel.options.schedule=2f2b"], "schedule=2f2b: must be one of gpipe, 1f1b, interleaved"),
    (
        ["parallel=pipeline", "parallel.options.stages_per_rank=2"],
        "stages_per_rank=2: more than 1 needs schedule=interleaved",
    ),
    (["parallel=pipeline", "parallel.pp=4", "parallel.options.microbatches=2"], "at least parallel.pp=4"),
    (["parallel=dp_pp", "parallel.dp=2", "data.batch_size=6"], "microbatches=2: must divide the 3 samples"),
    (
        ["parallel=pipeline", "parallel.options.stage=dcp_runner.train.parallel.tensor.Tensor"],
        "has no attribute 'Tensor'",
    ),
    (
        ["parallel=pipeline", "parallel.plan.last=[head]"],
        "norm.weight would be in every stage; name its module",
    ),
    (
        ["parallel=pipeline", "parallel.plan.first.embed=skip"],
        "parallel.plan.first.embed=skip: must be one of pass, zero",
    ),
]


@pytest.mark.parametrize(("overrides", "told"), TOPOLOGIES)
def test_topologies_that_do_not_fit(overrides: list[str], told: str) -> None:
    found = check_targets(config(*overrides))
    assert any(told in text for text in found), found


@pytest.mark.parametrize(
    "name", ["single", "ddp", "accelerate", "fsdp", "hsdp", "tp", "dp_tp", "fsdp_tp", "pipeline", "dp_pp", "dp_pp_tp"]
)
def test_topologies_as_they_are(name: str) -> None:
    assert check_targets(config(f"parallel={name}")) == []


def test_a_model_without_a_plan() -> None:
    model = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2}
    pipeline = {"parallel.strategy": "dcp_runner.train.parallel.pipeline.Pipeline", "parallel.pp": 2}
    (found,) = check_targets(changed(pipeline | {"model": model}))
    assert found == "parallel.plan.layers: no split points known for Linear; name its list of layers"
    split = {"parallel.strategy": "dcp_runner.train.parallel.tensor.TensorParallel", "parallel.tp": 2}
    (found,) = check_targets(changed(split | {"model": model}))
    assert found == "parallel.tp=2: no plan for splitting Linear; name its layers in parallel.plan"
