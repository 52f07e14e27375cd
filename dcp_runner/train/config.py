"""What a user can configure about the training loop. Plain data: nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from dcp_runner.common.device import Device
from dcp_runner.common.settings import setting


class Precision(StrEnum):
    """Arithmetic of the forward pass; weights and optimizer state keep their own dtype."""

    fp32 = "fp32"
    bf16 = "bf16"


class NonFinite(StrEnum):
    """What happens to the run if a loss or a gradient norm is not finite."""

    stop = "stop"
    warn = "warn"


class Decay(StrEnum):
    """Shape of the learning rate after the warm-up."""

    constant = "constant"
    cosine = "cosine"
    linear = "linear"


@dataclass(kw_only=True)
class ScheduleConfig:
    """Learning rate as a factor on the optimizer's own: linear warm-up, then the decay to `min_ratio` at step `steps`,
    where it stays.
    """

    decay: Decay = Decay.cosine
    """constant, cosine or linear."""
    warmup_steps: int = setting(0, at_least=0)
    """Steps of linear warm-up from 0."""
    min_ratio: float = setting(0.1, at_least=0, at_most=1)
    """The factor at the end of the decay."""
    steps: int | None = setting(None, at_least=1)
    """Steps that the schedule spans, warm-up included; null: `trainer.max_steps`. Set it to the old `trainer.max_steps`
    to keep the learning rate of a run that continues to a larger one."""


@dataclass(kw_only=True)
class TrainerConfig:
    """The training loop."""

    max_steps: int = setting(300, at_least=1)
    """Optimizer steps of the whole run, resumed parts included."""
    eval_every: int | None = setting(100, at_least=1)
    """Evaluate every this many optimizer steps, and after the last; null: never."""
    eval_samples: int | None = setting(None, at_least=1)
    """Samples of one evaluation, spread evenly over the evaluation set; null: all."""
    accumulate: int = setting(1, at_least=1)
    """Micro-batches per optimizer step on each rank (gradient accumulation)."""
    clip_norm: float | None = setting(1.0, above=0)
    """Maximum 2-norm of all gradients together; null: no clipping."""
    precision: Precision = Precision.fp32
    """fp32, or bf16 autocast."""
    nonfinite: NonFinite = NonFinite.stop
    """What to do if a loss or a gradient norm is not finite: stop ends the run with an error before the optimizer's
    step, and nothing is saved at or after that step; warn only logs a warning. The same applies to evaluations, and to
    weights before a save."""
    device: Device = Device.auto
    """auto, cpu or cuda; auto uses CUDA if there is a GPU for every rank of the node."""


@dataclass(kw_only=True)
class LoggerConfig:
    """Where and how often the run reports its metrics."""

    every_steps: int = setting(10, at_least=1)
    """Log a line of metrics every this many steps (metrics.jsonl has every step)."""
    progress: bool = True
    """Show a progress bar if the console is a terminal; plain lines otherwise."""
    trackers: dict[str, Any] = setting(default_factory=dict, open=True)
    """Experiment trackers by name: `+logger.trackers.mine={_target_: my.Tracker}`. Each is built on rank 0 as
    Tracker(run_dir, run_id, **its other arguments); all attempts of a run folder are one run of the tracker."""
