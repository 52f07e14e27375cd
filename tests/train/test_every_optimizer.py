"""Optimizers in a run: kinds that keep their state in a place of their own, groups that join later, options that are overridden."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytorch_optimizer as more
import torch
from runs import contents, run, steps
from torch import nn

from dcp_runner.train.callbacks import Callback, TrainerView

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
SHORT: dict[str, Any] = {"trainer__max_steps": 4, "checkpoint__every_steps": 2, "trainer__eval_every": None}


def lookahead(params: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return more.Lookahead(torch.optim.AdamW(params, lr), k=2)


def trac(params: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return more.TRAC(torch.optim.AdamW(params, lr))


def two_groups(params: Iterable[nn.Parameter], lr: float, other: float) -> torch.optim.Optimizer:
    params = list(params)
    return torch.optim.AdamW([{"params": params[:3]}, {"params": params[3:], "lr": other}], lr)


KINDS: dict[str, dict[str, Any]] = {
    "fused": {"_target_": "torch.optim.AdamW", "lr": 0.01, "fused": True},
    "Adafactor": {"_target_": "torch.optim.Adafactor", "lr": 0.01},
    "ASGD": {"_target_": "torch.optim.ASGD", "lr": 0.01, "t0": 2},
    "Lion": {"_target_": "pytorch_optimizer.Lion", "lr": 0.001},
    "Prodigy": {"_target_": "pytorch_optimizer.Prodigy", "lr": 1.0},
    "Lookahead": {"_target_": "test_every_optimizer.lookahead", "lr": 0.01},
    "TRAC": {"_target_": "test_every_optimizer.trac", "lr": 0.01},
}


@pytest.mark.parametrize("name", KINDS)
def test_trained_and_resumed_bit_for_bit(name: str, tmp_path: Path) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert run(whole, 1, optim=KINDS[name], **SHORT) == [0]
    middle = str(whole / "checkpoints" / "checkpoint-2")
    assert run(resumed, 1, optim=KINDS[name], resume=middle, **SHORT) == [0]
    assert steps(resumed) == {step: told for step, told in steps(whole).items() if step > 2}
    assert contents(resumed / "checkpoints" / "checkpoint-4") == contents(whole / "checkpoints" / "checkpoint-4")


# -- groups that join later ------------------------------------------------------------------------------------------


class Frozen(nn.Module):
    """Its embedding and its middle are not trained at first."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(32, 16)
        self.middle = nn.Linear(16, 16)
        self.head = nn.Linear(16, 32)
        self.embed.requires_grad_(False)
        self.middle.requires_grad_(False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return 2 * self.head(torch.tanh(self.middle(self.embed(tokens))))


class Unfreezes(Callback):
    """Trains the middle from step 2 on in a group of its own, and the embedding from step 3 on in the first group."""

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        model: Any = trainer.model
        if trainer.progress.step == 2:
            new = [*model.middle.requires_grad_().parameters()]
            trainer.optimizer.add_param_group({"params": new, "lr": 0.03, "weight_decay": 0.0})
        if trainer.progress.step == 3:
            trainer.optimizer.param_groups[0]["params"] += [*model.embed.requires_grad_().parameters()]


@pytest.mark.parametrize(
    ("world", "parallel"), [(1, {}), (2, {"strategy": "dcp_runner.train.parallel.fsdp.FullyShard", "fsdp": 2})]
)
def test_layers_that_join_later_are_saved_and_join_again_on_a_resume(
    world: int, parallel: dict[str, Any], tmp_path: Path
) -> None:
    more: dict[str, Any] = {
        "model": {"_target_": "test_every_optimizer.Frozen"},
        "callbacks": {"unfreezes": {"_target_": "test_every_optimizer.Unfreezes"}},
        "parallel": parallel,
    }
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    assert run(whole, world, **more) == [0] * world
    for last in (2, 5, 8):
        assert run(parted, world, trainer__max_steps=last, schedule__steps=8, **more) == [0] * world
    assert steps(parted) == steps(whole)
    assert contents(parted / "checkpoints" / "checkpoint-8") == contents(whole / "checkpoints" / "checkpoint-8")


# -- resume_override ---------------------------------------------------------------------------------------------------


class Rates(Callback):
    """Writes down the rates and decays that a step was made with, and that the next one will be made with."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def on_start(self, trainer: TrainerView) -> None:
        told = [[group["lr"], group["weight_decay"]] for group in trainer.optimizer.param_groups]
        self.file.write_text(json.dumps([*told, trainer.scheduler.get_last_lr()]))


def test_the_overridden_rate_of_each_group_is_its_own(tmp_path: Path) -> None:
    more: dict[str, Any] = SHORT | {
        "schedule__decay": "linear",
        "schedule__min_ratio": 0.0,
        "schedule__warmup_steps": 0,
    }
    more |= {
        "schedule__steps": 8,
        "callbacks": {"rates": {"_target_": "test_every_optimizer.Rates", "file": str(tmp_path / "r")}},
    }
    optim = {"_target_": "test_every_optimizer.two_groups", "lr": 0.01, "other": 0.02}
    assert run(tmp_path / "a", 1, optim=optim, **more) == [0]
    changed = {"optim": optim | {"lr": 0.1, "other": 0.4}, "trainer__max_steps": 6, "checkpoint__every_steps": None}
    for keys, rates in ([], [0.005, 0.01]), (["optim.lr"], [0.05, 0.2]):
        assert run(tmp_path / "a", 1, **more | changed, checkpoint__at_end=False, resume_override=keys) == [0]
        *groups, told = json.loads((tmp_path / "r").read_text())
        assert [group[0] for group in groups] == pytest.approx(rates) and told == pytest.approx(rates)
        assert [group[1] for group in groups] == [0.01, 0.01]
