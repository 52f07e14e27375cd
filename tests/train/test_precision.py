"""Every precision and accumulation trains alike under every topology: gradient norms, and the weights in the end."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from runs import TINY, config, run_configs, steps
from torch import nn
from torch.distributed.tensor import DTensor

import dcp_runner.train.parallel.pipeline
import dcp_runner.train.parallel.tensor  # noqa: F401  imported once here, not in every fork
from dcp_runner.train.callbacks import Callback, TrainerView

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

TOLERANCE = {"fp32": 1e-4, "bf16": 1e-2}
KINDS = list(product(TOLERANCE, (1, 2, 3)))
DDP, FSDP, TP, PIPELINE = "ddp.DataParallel", "fsdp.FullyShard", "tensor.TensorParallel", "pipeline.Pipeline"


def topology(strategy: str, options: dict[str, Any] | None = None, **degrees: int) -> dict[str, Any]:
    return {"strategy": f"dcp_runner.train.parallel.{strategy}", "options": options or {}, **degrees}


def stage(strategy: str) -> dict[str, Any]:
    return {"stage": f"dcp_runner.train.parallel.{strategy}"}


TOPOLOGIES = {
    "ddp": topology(DDP, dp=2),
    "accelerate": topology("accelerate.Accelerate", dp=2),
    "fsdp": topology(FSDP, fsdp=2),
    "hsdp": topology(FSDP, dp=2, fsdp=2),
    "tp": topology(TP, tp=2),
    "gpipe": topology(PIPELINE, {"schedule": "gpipe"}, pp=2),
    "1f1b": topology(PIPELINE, {"schedule": "1f1b"}, pp=2),
    "interleaved": topology(PIPELINE, {"schedule": "interleaved"}, pp=2),
    "dp_tp": topology(TP, dp=2, tp=2),
    "fsdp_tp": topology(TP, fsdp=2, tp=2),
    "dp_pp": topology(PIPELINE, stage(DDP), dp=2, pp=2),
    "pp_fsdp": topology(PIPELINE, stage(FSDP), pp=2, fsdp=2),
    "dp_pp_tp": topology(PIPELINE, stage(TP), dp=2, pp=2, tp=2),
}


class Stack(nn.Module):
    """Without a residual stream: under bf16 its layers give bf16 to each other, and so do the stages of a pipeline."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(32, 16)
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        self.head = nn.Linear(16, 32)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x)

    def parallel_plan(self) -> dict[str, Any]:
        return {
            "columns": ["layers.0", "layers.2"],
            "rows": ["layers.1", "layers.3"],
            "layers": "layers",
            "first": {"embed": "pass"},
            "last": ["head"],
        }


class Weights(Callback):
    """Leaves the trained weights, whole, in the run folder: one file a rank, which has what the rank holds a part of."""

    def on_end(self, trainer: TrainerView) -> None:
        state = trainer.model.state_dict()
        whole = {n: t.full_tensor() if isinstance(t, DTensor) else t for n, t in state.items()}
        rank = dist.get_rank() if dist.is_initialized() else 0
        names = {name.removeprefix("module."): tensor for name, tensor in whole.items()}
        torch.save(names, trainer.coordinator.storage.root.parent / f"weights-{rank}.pt")


MODELS: dict[str, dict[str, Any]] = {
    "gpt": TINY["model"] | {"layers": 4, "dropout": 0.0, "tied": False},
    "stack": {"_target_": "test_precision.Stack"},
}
Trained = tuple[list[float], dict[str, torch.Tensor]]


def train_all(folder: Path, model: str, parallel: dict[str, Any]) -> dict[tuple[str, int], Trained]:
    """Gradient norms of three steps, with an evaluation after the second, and the weights after them, by kind.

    SGD, because Adam makes a whole step of the rounding error of a gradient that is 0.
    """
    world = 1
    for axis in ("pp", "dp", "fsdp", "tp"):
        world *= parallel.get(axis, 1)
    runs = {}
    for precision, accumulate in KINDS:
        runs[folder / f"{precision}-{accumulate}"] = config(
            model=MODELS[model],
            optim={"_target_": "torch.optim.SGD", "lr": 0.5, "momentum": 0.9},
            data__batch_size=24,
            trainer__max_steps=3,
            trainer__clip_norm=None,
            trainer__precision=precision,
            trainer__accumulate=accumulate,
            schedule__warmup_steps=0,
            checkpoint__every_steps=None,
            checkpoint__at_end=False,
            callbacks={"weights": {"_target_": "test_precision.Weights"}},
            **{f"parallel__{key}": value for key, value in parallel.items()},
        )
    assert run_configs(runs, world) == [0] * world
    trained = {}
    for kind, run_dir in zip(KINDS, runs, strict=True):
        weights: dict[str, torch.Tensor] = {}
        for file in run_dir.glob("weights-*.pt"):
            weights |= torch.load(file)
        trained[kind] = [norm for _, norm, _ in steps(run_dir).values()], weights
    return trained


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[tuple[str, int], Trained]]:
    @cache
    def trained(model: str) -> dict[tuple[str, int], Trained]:
        return train_all(tmp_path_factory.mktemp("single"), model, {})

    return trained


def apart(trained: Trained, expected: Trained) -> float:
    """The largest relative difference of a gradient norm, or of a tensor (as a vector; tiny ones count absolutely)."""
    (norms, weights), (expected_norms, expected_weights) = trained, expected
    assert weights.keys() == expected_weights.keys() and len(norms) == len(expected_norms) == 3
    found = [abs(norm - other) / other for norm, other in zip(norms, expected_norms, strict=True)]
    for name, tensor in expected_weights.items():
        found.append(float((weights[name] - tensor).norm() / max(float(tensor.norm()), 0.02)))
    return max(found)


@pytest.mark.parametrize("model", MODELS)
def test_micro_batches_of_one_rank(single: Any, model: str) -> None:
    """In fp32 nothing depends on their number; what bf16 rounds stays within its tolerance of fp32."""
    exact = single(model)["fp32", 1]
    for (precision, accumulate), trained in single(model).items():
        assert apart(trained, exact) < TOLERANCE[precision], (precision, accumulate)


@pytest.mark.parametrize(
    ("name", "model"), [*product(TOPOLOGIES, ["gpt"]), *product(["1f1b", "interleaved"], ["stack"])]
)
def test_as_on_one_rank(single: Any, tmp_path: Path, name: str, model: str) -> None:
    found = {
        kind: apart(trained, single(model)[kind])
        for kind, trained in train_all(tmp_path, model, TOPOLOGIES[name]).items()
    }
    assert {kind: value for kind, value in found.items() if not value < TOLERANCE[kind[0]]} == {}
