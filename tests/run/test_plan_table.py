"""The plan's byte column: exact where torch's own optimizer can step without data, else unknown; it never ends a run."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from runs import config, run, steps
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dcp_runner.checkpoint.state.optim.optimizers import OptimizerState
from dcp_runner.launch.preflight.trial_build import show_plan
from dcp_runner.run.plan_table import state_sizes

TORCHS = {name: kind for name, kind in vars(torch.optim).items() if inspect.isclass(kind) and kind is not Optimizer}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"amsgrad": True},
    {"momentum": 0.9},
    {"foreach": True},
    {"lr": torch.tensor(0.1)},
    {"fused": True},
    {"capturable": True},
    {"differentiable": True},
]
UNTOLD = ("Adafactor", "ASGD", "LBFGS", "SparseAdam")
UNTOLD_OPTIONS = ("fused", "capturable", "differentiable")


def cases() -> list[tuple[str, dict[str, Any]]]:
    return [
        (name, options)
        for name, kind in TORCHS.items()
        for options in OPTIONS
        if set(options) <= set(inspect.signature(kind).parameters)
    ]


def parameters() -> list[torch.nn.Parameter]:
    """Matrices, for Muon; one gets no gradient."""
    return [torch.nn.Parameter(torch.ones(4, n), requires_grad=n != 3) for n in (2, 3, 5)]


@pytest.mark.parametrize(("name", "options"), cases(), ids=lambda case: str(case))
def test_torchs_optimizers(name: str, options: dict[str, Any]) -> None:
    held = parameters()
    optimizer: Optimizer = TORCHS[name](held, **options)
    if name != "LBFGS":
        LambdaLR(optimizer, lambda step: 1.0)
    told = state_sizes(OptimizerState(optimizer, []))
    at_once = bool(optimizer.state)  # Adagrad has its state from the beginning
    assert at_once == (name == "Adagrad")
    if not at_once and (name in UNTOLD or not options.keys().isdisjoint(UNTOLD_OPTIONS)):
        assert told is None
        return
    assert all(torch.equal(one, torch.ones_like(one)) and one.grad is None for one in held)
    for one in held:
        one.grad = torch.ones_like(one) if one.requires_grad else None
    if "differentiable" not in options:
        optimizer.step()
    assert told == state_sizes(OptimizerState(optimizer, []))


class Reads(Optimizer):
    """Looks at a value when it steps, and counts its steps outside of itself."""

    steps: ClassVar[list[int]] = []

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    def step(self, closure: Any = None) -> None:
        self.steps.append(1)
        for group in self.param_groups:
            for one in group["params"]:
                if one.grad is not None and one.grad.norm().item() > 0:
                    self.state[one]["mean"] = self.state[one].get("mean", 0) + one.grad
                    one.data.add_(one.grad, alpha=-group["lr"])


class ReadsUncopied(Reads):
    """One that cannot be copied either."""

    def __deepcopy__(self, memo: Any) -> Any:
        raise OSError("there is only one of it")

    def __getstate__(self) -> Any:
        raise KeyError("there is only one of it")


class Derived(torch.optim.AdamW):
    """Anybody's, though torch's is below it."""

    def step(self, closure: Any = None) -> Any:
        Reads.steps.append(1)
        raise ZeroDivisionError


@pytest.mark.parametrize("kind", [Reads, ReadsUncopied, Derived])
def test_anybody_elses_is_not_stepped(kind: type[Optimizer]) -> None:
    Reads.steps.clear()
    assert state_sizes(OptimizerState(kind(parameters()), [])) is None
    assert Reads.steps == []


def own(kind: str, **options: Any) -> dict[str, Any]:
    return {"_target_": f"{'torch.optim' if kind in TORCHS else 'test_plan_table'}.{kind}", "lr": 0.01, **options}


def test_the_plan_says_unknown_and_the_rest_is_told() -> None:
    table = show_plan(config(optim=own("AdamW", fused=True)))
    (row,) = (line for line in table.splitlines() if "optimizer" in line)
    assert [cell.strip() for cell in row.split("│")[-3:-1]] == ["unknown", "unknown"]
    assert table.count("unknown") == 2
    assert "unknown" not in show_plan(config(optim=own("AdamW")))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "optim"),
    [(2, own("SGD", fused=True, momentum=0.9)), (1, own("Adafactor")), (2, own("Reads"))],
    ids=["fused", "Adafactor", "own"],
)
def test_a_run_goes_on(ranks: int, optim: dict[str, Any], tmp_path: Path) -> None:
    assert run(tmp_path, ranks, optim=optim, trainer__max_steps=4) == [0] * ranks
    assert run(tmp_path, ranks, optim=optim, trainer__max_steps=6) == [0] * ranks
    assert max(steps(tmp_path)) == 6
    assert "resumed" in {
        json.loads(line).get("event") for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    }
