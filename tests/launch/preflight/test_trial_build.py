"""What only real objects show is found in a child process, and nothing of it stays in this one."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from composing import changed, config
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from dcp_runner.config.schema import RunConfig
from dcp_runner.launch.preflight.build_checks import check_targets
from dcp_runner.launch.preflight.checks import check
from dcp_runner.launch.preflight.config_checks import check_config
from dcp_runner.launch.preflight.resolve import resolve_config
from dcp_runner.launch.preflight.trial_build import show_plan, trial_build
from dcp_runner.models.gpt import GPT


def test_what_is_no_option_of_the_groups_cannot_be_overridden() -> None:
    optim = {"_target_": "pytorch_optimizer.Ranger21", "num_iterations": 9, "lr": 0.1}
    made = changed({"optim": optim, "resume_override": ["optim.lr", "optim.num_iterations"]})
    assert check_config(made) == []
    (found,) = trial_build(made).problems
    assert found.startswith("resume_override: optim.num_iterations is no option of the optimizer's groups; they are ['")


def problems(made: RunConfig) -> list[str]:
    return check_targets(made) or trial_build(made).problems


TOPOLOGIES: list[tuple[list[str], str]] = [
    (
        ["parallel=ddp", "parallel.tp=2"],
        "parallel.tp=2: DataParallel uses the axes dp; set 1, or choose another topology",
    ),
    (["parallel=single", "parallel.dp=2"], "parallel.dp=2: Single uses no axis"),
    (["parallel=pipeline", "parallel.dp=2"], "parallel.dp=2: Pipeline uses the axes pp; set 1"),
    (["parallel=fsdp", "parallel.dp=2", "parallel.fsdp=1"], "parallel.fsdp=1 with parallel.dp=2: nothing is sharded"),
    (["parallel.strategy=builtins.dict"], "parallel.strategy=builtins.dict: not a dcp_runner"),
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
    (["parallel=pipeline", "parallel.options.stages_per_rank=2"], "more than 1 needs schedule=interleaved"),
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
    found = problems(config(*overrides))
    assert any(told in text for text in found), found


@pytest.mark.parametrize(
    "name", ["single", "ddp", "accelerate", "fsdp", "hsdp", "tp", "dp_tp", "fsdp_tp", "pipeline", "dp_pp", "dp_pp_tp"]
)
def test_topologies_as_they_are(name: str) -> None:
    assert problems(config(f"parallel={name}")) == []


def test_a_model_without_a_plan() -> None:
    model = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2}
    pipeline = {"parallel.strategy": "dcp_runner.train.parallel.pipeline.Pipeline", "parallel.pp": 2}
    (found,) = problems(changed(pipeline | {"model": model}))
    assert found == "parallel.plan.layers: no split points known for Linear; name its list of layers"
    split = {"parallel.strategy": "dcp_runner.train.parallel.tensor.TensorParallel", "parallel.tp": 2}
    (found,) = problems(changed(split | {"model": model}))
    assert found == "parallel.tp=2: no plan for splitting Linear; name its layers in parallel.plan"


def composed(*overrides: str) -> DictConfig:
    with initialize_config_module("dcp_runner.conf", version_base="1.3"):
        return compose("config", ["name=run", "model=gpt_tiny", *overrides])


class Leaves(GPT):
    """A model whose building changes its process."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        with Path(os.environ["TEST_MARK"]).open("a") as file:
            file.write(f"{os.getpid()}\n")
        os.environ["LEFT_BY_A_MODEL"] = "1"
        torch.set_default_dtype(torch.float64)


def state() -> list[object]:
    torch_state = torch.get_rng_state().tolist()
    generators = [random.getstate(), np.random.get_state()[1].tolist(), torch_state]  # type: ignore[index]
    defaults = [torch.get_default_dtype(), torch.get_default_device(), os.environ.get("LEFT_BY_A_MODEL")]
    return [*generators, *defaults, dist.is_initialized(), torch.cuda.is_initialized(), torch.get_num_threads()]


@pytest.mark.parametrize(
    "overrides",
    [
        ["parallel=fsdp", "sharing.rng=per_rank"],
        *(
            pytest.param([text], marks=pytest.mark.slow)
            for text in ("parallel=pipeline", "parallel=tp", "sharing.model=global")
        ),
    ],
)
def test_checks_and_plans_build_nothing_here(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setenv("TEST_MARK", f"{tmp_path}/mark")
    cfg = composed("model._target_=test_trial_build.Leaves", *overrides)
    before = state()
    assert check(cfg) == []
    assert "optimizer" in show_plan(resolve_config(cfg, None))
    assert state() == before
    builders = {int(line) for line in (tmp_path / "mark").read_text().split()}
    assert builders and os.getpid() not in builders


class Ends(torch.nn.Module):
    """A model whose building ends the process, as a crash in a library does."""

    def __init__(self, **options: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_model_that_ends_the_process_is_a_problem_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    model = "model._target_=test_trial_build.Ends"
    assert check(composed(model, "data.batch_size=7", "parallel=tp", "trainer.accumulate=2")) == [
        "data.batch_size=7: the global batch size must be divisible by dp * fsdp * accumulate = 1 * 1 * 2 = 2; try 6 or 8",
        "building model, optimizer and plan without data: the child process was killed by SIGKILL",
    ]
    (told,) = check(composed(model, "sharing.model=global"))
    assert told == "building model, optimizer and plan without data: the child process was killed by SIGKILL"
