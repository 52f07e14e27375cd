"""Optimizers with train() and eval(): steps are taken in the one mode, and everything between them sees the other."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import TINY, config, contents, evaluations, run, run_config, steps

import dcp_runner.train.parallel.pipeline  # noqa: F401  imported once here, not in every fork
from dcp_runner.launch.preflight.build_checks import check_targets
from dcp_runner.run.verify_resume import verify_resume
from dcp_runner.train.callbacks import Callback, TrainerView

pytestmark = pytest.mark.timeout(120)


class ScheduleFree(torch.optim.Optimizer):
    """Schedule-free SGD (Defazio et al.: The Road Less Scheduled, 2024). In train mode the model has y, in eval mode the
    average x; both ways are made of z by an interpolation, which rounds.
    """

    def __init__(self, params: Any, lr: float = 0.3, beta: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "beta": beta, "train_mode": True, "k": 0})

    @torch.no_grad()
    def _switch(self, train_mode: bool, weight: Callable[[float], float]) -> None:
        for group in self.param_groups:
            for p in group["params"] if group["train_mode"] is not train_mode else ():
                if "z" in self.state[p]:
                    p.lerp_(self.state[p]["z"], weight(group["beta"]))
            group["train_mode"] = train_mode

    def eval(self) -> None:
        self._switch(False, lambda beta: 1 - 1 / beta)

    def train(self) -> None:
        self._switch(True, lambda beta: 1 - beta)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            if not group["train_mode"]:
                raise RuntimeError("a step in eval mode")
            group["k"] += 1
            for p in (p for p in group["params"] if p.grad is not None):
                z = self.state[p].setdefault("z", p.clone())
                p.lerp_(z, 1 / group["k"])
                p.add_(p.grad, alpha=group["lr"] * (group["beta"] * (1 - 1 / group["k"]) - 1))
                z.sub_(p.grad, alpha=group["lr"])


class Swapping(torch.optim.SGD):
    """Keeps what it takes out of the model in its state while the average is there; cannot be evaluated before a step."""

    def __init__(self, params: Any, lr: float = 0.3) -> None:
        super().__init__(params, lr=lr)
        self.param_groups[0]["train_mode"] = True

    @torch.no_grad()
    def eval(self) -> None:
        for group in self.param_groups:
            for p in group["params"] if group["train_mode"] else ():
                self.state[p]["trained"] = p.clone()
                p.copy_(self.state[p]["average"])
            group["train_mode"] = False

    @torch.no_grad()
    def train(self) -> None:
        for group in self.param_groups:
            for p in () if group["train_mode"] else group["params"]:
                p.copy_(self.state[p].pop("trained"))
            group["train_mode"] = True

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        super().step()
        for p in self.param_groups[0]["params"]:
            self.state[p].setdefault("average", p.clone()).lerp_(p, 0.1)


class InEvalMode(Callback):
    """Whoever looks between two steps finds the weights to use."""

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        assert trainer.optimizer.param_groups[0]["train_mode"] is False

    def on_evaluate(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        assert trainer.optimizer.param_groups[0]["train_mode"] is False

    def on_save(self, trainer: TrainerView, path: Path) -> None:
        assert trainer.optimizer.param_groups[0]["train_mode"] is False


def of(kind: str, **more: Any) -> dict[str, Any]:
    callbacks = {"mode": {"_target_": "test_optimizer_modes.InEvalMode"}}
    return {"optim": {"_target_": f"test_optimizer_modes.{kind}"}, "callbacks": callbacks | more}


@pytest.mark.parametrize("kind", ["ScheduleFree", "Swapping"])
def test_a_resume_is_bit_for_bit(tmp_path: Path, kind: str) -> None:
    """Also where the run was stopped at a step at which an uninterrupted one neither evaluates nor saves."""
    whole, parted, never = tmp_path / "whole", tmp_path / "parted", {"checkpoint__every_steps": None}
    assert run(whole, 1, **of(kind), **never) == [0]
    kill = {"_target_": "runs.KillAt", "step": 4, "ranks": [0], "mark": str(tmp_path / "mark"), "signum": 15}
    assert run(parted, 1, **of(kind, kill=kill), **never) == [128 + signal.SIGTERM]
    assert run(parted, 1, **of(kind), **never) == [0]
    assert steps(whole) == steps(parted) and evaluations(whole) == evaluations(parted)
    one, other = (contents(folder / "checkpoints" / "checkpoint-8") for folder in (whole, parted))
    assert one == other


def test_verify_resume(tmp_path: Path) -> None:
    made = config(verify_resume=3, **of("ScheduleFree"))
    code, lines = verify_resume(made, tmp_path, lambda config, run_dir: max(run_config(config, run_dir, 1)))
    assert code == 0, lines


@pytest.mark.slow
@pytest.mark.parametrize(
    "parallel",
    [
        {"strategy": "dcp_runner.train.parallel.ddp.DataParallel", "dp": 2},
        {"strategy": "dcp_runner.train.parallel.accelerate.Accelerate", "dp": 2},
        {"strategy": "dcp_runner.train.parallel.fsdp.FullyShard", "fsdp": 2},
        {"strategy": "dcp_runner.train.parallel.tensor.TensorParallel", "dp": 2, "tp": 2},
        {
            "strategy": "dcp_runner.train.parallel.pipeline.Pipeline",
            "options": {"stage": "dcp_runner.train.parallel.fsdp.FullyShard"},
            "pp": 2,
            "fsdp": 2,
        },
    ],
)
def test_after_an_evaluation_no_rank_trains_on_its_weights(tmp_path: Path, parallel: dict[str, Any]) -> None:
    """Evaluations after every second step, with weights that the next step must not see."""
    options = of("ScheduleFree") | {"model": TINY["model"] | {"dropout": 0.0, "tied": False}}
    world = 4 if len(parallel) > 2 else 2
    assert run(tmp_path / "single", 1, **options) == [0]
    assert run(tmp_path / "ranks", world, parallel=parallel, **options) == [0] * world
    for look in (steps, evaluations):
        expected = torch.tensor([*look(tmp_path / "single").values()])
        assert torch.allclose(torch.tensor([*look(tmp_path / "ranks").values()]), expected, rtol=2e-5)


def test_an_optimizer_that_needs_a_closure_is_refused() -> None:
    def found(kind: str) -> list[str]:
        made = config(optim={"_target_": f"torch.optim.{kind}", "lr": 1.0})
        return [problem for problem in check_targets(made) if problem.startswith("optim")]

    assert [kind for kind in ("LBFGS", "SGD", "AdamW", "Rprop") if found(kind)] == ["LBFGS"]
    assert "optim._target_=torch.optim.LBFGS: its step needs a closure" in found("LBFGS")[0]
