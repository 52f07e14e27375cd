"""A step that is not finite ends the run on all ranks before it changes anything, and nothing is saved from then on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from runs import TINY, run, steps
from where import SUPPORT

import dcp_runner.train.parallel.pipeline  # noqa: F401  imported once here, not in every fork
from dcp_runner.models.loss import next_token
from dcp_runner.train.callbacks import Callback, TrainerView

pytestmark = pytest.mark.timeout(120)
BAD = 6
"""The step that goes wrong; every second one is saved, and evaluated."""
poison: str | None = None


def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Poisoned: in its value, in its gradient alone, or by a gradient whose norm is too large for a number."""
    value = next_token(outputs, targets)
    if poison == "loss" or (poison == "evaluation" and not torch.is_grad_enabled()):
        return value * float("nan")
    if poison == "gradient":
        return value + (outputs.sum() * 0).sqrt()
    if poison == "norm":
        return value + 1e35 * (outputs - outputs.detach()).sum()
    return value


class Poison(Callback):
    """From step BAD on the loss of this rank is poisoned; `signum` reaches the rank during the same step."""

    def __init__(self, rank: int, what: str, signum: int | None = None) -> None:
        self.rank, self.what, self.signum = rank, what, signum

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        global poison
        rank = dist.get_rank() if dist.is_initialized() else 0
        if trainer.progress.step == BAD - 1 and rank == self.rank:
            poison = self.what
            if self.signum is not None:
                os.kill(os.getpid(), self.signum)
        if trainer.progress.step == BAD and poison == "weights":
            list(trainer.model.parameters())[-1].data.fill_(float("inf"))


DDP = {"strategy": "dcp_runner.train.parallel.ddp.DataParallel", "dp": 2}
PIPELINE = {"strategy": "dcp_runner.train.parallel.pipeline.Pipeline", "pp": 2}
FSDP = {"strategy": "dcp_runner.train.parallel.fsdp.FullyShard", "fsdp": 2}


def poisoned(folder: Path, what: str, parallel: dict[str, Any], **options: Any) -> list[int]:
    world = 2 if parallel else 1
    made: dict[str, Any] = {
        "model": TINY["model"] | {"tied": False},
        "loss": {"_target_": "test_nonfinite.loss"},
        "checkpoint__every_steps": 2,
        "callbacks": {
            "poison": {
                "_target_": "test_nonfinite.Poison",
                "rank": world - 1,
                "what": what,
                "signum": options.pop("signum", None),
            }
        },
    }
    return run(folder, world, parallel=parallel or None, **made | options)


def saved(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("what", "parallel", "expected"),
    [
        pytest.param("loss", {}, "loss nan (rank 0); gradient norm nan (rank 0); gradient of", id="loss"),
        pytest.param("gradient", {}, "6 is not finite: gradient norm nan (rank 0); gradient of", id="gradient"),
        pytest.param("norm", {}, "6 is not finite: gradient norm inf (rank 0). Nothing", id="norm"),
        pytest.param("loss", DDP, "loss nan (rank 1); ", marks=pytest.mark.slow, id="loss of one rank"),
        pytest.param("gradient", DDP, "gradient norm nan (ranks 0-1)", marks=pytest.mark.slow, id="gradients of all"),
        pytest.param("loss", FSDP, "loss nan (rank 1)", marks=pytest.mark.slow, id="shards"),
        pytest.param("loss", PIPELINE, "loss nan (rank 1)", marks=pytest.mark.slow, id="last stage"),
    ],
)
def test_it_stops_all_ranks_before_the_step(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], what: str, parallel: dict[str, Any], expected: str
) -> None:
    codes = poisoned(tmp_path, what, parallel, trainer__max_steps=BAD, trainer__eval_every=None)
    printed = capfd.readouterr().err
    assert codes == [1] * len(codes) and expected in printed
    assert printed.count("NonFiniteError: step 6 is not finite: ") == len(codes)
    assert "the last checkpoint is checkpoint-4 in " in printed and "trainer.nonfinite=warn" in printed
    assert list(steps(tmp_path)) == [1, 2, 3, 4, 5] and saved(tmp_path) == ["checkpoint-2", "checkpoint-4"]


def test_a_stop_signal_during_the_step_saves_nothing(tmp_path: Path) -> None:
    assert poisoned(tmp_path, "gradient", {}, signum=int(signal.SIGTERM)) == [1]
    assert saved(tmp_path) == ["checkpoint-2", "checkpoint-4"]


def test_weights_that_a_step_has_made_are_not_saved(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As of an optimizer that divides by 0: loss and gradients of the step were finite."""
    assert poisoned(tmp_path, "weights", {}, trainer__eval_every=None) == [1]
    assert "step 6 is not finite: weight head.weight (rank 0). Nothing" in capfd.readouterr().err
    assert saved(tmp_path) == ["checkpoint-2", "checkpoint-4"]


def test_an_evaluation_stops_the_run_before_the_save(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert poisoned(tmp_path, "evaluation", {}) == [1]
    assert "step 6 is not finite: eval_loss nan (rank 0)" in capfd.readouterr().err
    assert list(steps(tmp_path))[-1] == BAD and saved(tmp_path) == ["checkpoint-2", "checkpoint-4"]


def test_where_it_only_warns_the_run_goes_on_as_it_was(tmp_path: Path) -> None:
    assert poisoned(tmp_path, "loss", {}, trainer__nonfinite="warn") == [0]
    assert list(steps(tmp_path)) == list(range(1, 9)) and saved(tmp_path)[-1] == "checkpoint-8"
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line.get("event") == "nonfinite"] == [6, 6, 6, 7, 8, 8, 8]
    assert steps(tmp_path)[BAD][0] == "nan"


@pytest.mark.slow
def test_the_command_says_it_in_one_line(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "dcp_runner", "debug=tiny", "parallel=ddp", "parallel.dp=2", "name=a"]
    line += ["trainer.device=cpu", "checkpoint.every_steps=2", "loss._target_=test_nonfinite.loss"]
    line += ["+callbacks.poison={_target_: test_nonfinite.Poison, rank: 1, what: loss}"]
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{SUPPORT}"}
    ended = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
    last = ended.stderr.splitlines()[-1]
    assert ended.returncode == 1 and last.startswith("FAILED: step 6 is not finite: loss nan (rank 1); gradient norm")
    assert "Traceback" not in ended.stdout + ended.stderr and "DONE" not in ended.stdout
