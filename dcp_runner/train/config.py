"""What a user may say about a training run. Plain data: nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from dcp_runner.common.device import Device
from dcp_runner.common.settings import setting


class Precision(StrEnum):
    """Arithmetic of the forward pass; weights and optimizer state stay in their own dtype."""

    fp32 = "fp32"
    bf16 = "bf16"


class NonFinite(StrEnum):
    """What a loss or a gradient norm that is not finite does to the run."""

    stop = "stop"
    warn = "warn"


class Decay(StrEnum):
    """Shape of the learning rate after the warm-up."""

    constant = "constant"
    cosine = "cosine"
    linear = "linear"


@dataclass(kw_only=True)
class ScheduleConfig:
    """Learning rate as a factor on the optimizer's own: linear warm-up, then the decay down to `min_ratio` at step
    `steps`, where it stays.
    """

    decay: Decay = Decay.cosine
    """constant, cosine or linear."""
    warmup_steps: int = setting(0, at_least=0)
    """Steps of linear warm-up from 0."""
    min_ratio: float = setting(0.1, at_least=0, at_most=1)
    """The factor that the decay ends with."""
    steps: int | None = setting(None, at_least=1)
    """Steps that the curve runs over, warm-up included; null: `trainer.max_steps`. A run that goes on to a larger
    `trainer.max_steps` keeps its learning rate where this holds the old one."""


@dataclass(kw_only=True)
class TrainerConfig:
    """The training loop."""

    max_steps: int = setting(300, at_least=1)
    """Optimizer steps of the whole run, resumed parts included."""
    eval_every: int | None = setting(100, at_least=1)
    """Evaluate after every so many optimizer steps (and after the last); null: never."""
    eval_samples: int | None = setting(None, at_least=1)
    """Samples of one evaluation, evenly spread over the evaluation set; null: all."""
    accumulate: int = setting(1, at_least=1)
    """Micro-batches of one optimizer step on each rank."""
    clip_norm: float | None = setting(1.0, above=0)
    """Largest 2-norm of all gradients together; null: no clipping."""
    precision: Precision = Precision.fp32
    """fp32, or bf16 autocast."""
    nonfinite: NonFinite = NonFinite.stop
    """What a loss or a gradient norm that is not finite does: stop ends the run with an error before the optimizer's
    step, and nothing is saved at or after that step; warn only says so. The same for an evaluation, and for weights
    that are to be saved."""
    device: Device = Device.auto
    """auto takes CUDA where there is a GPU for every rank."""


@dataclass(kw_only=True)
class LoggerConfig:
    """What is told about the run, and where."""

    every_steps: int = setting(10, at_least=1)
    """Log a line of metrics after every so many steps (metrics.jsonl has every step)."""
    progress: bool = True
    """A progress bar where the console is a terminal; plain lines elsewhere."""
    trackers: dict[str, Any] = setting(default_factory=dict, open=True)
    """Experiment trackers by name: `+logger.trackers.mine={_target_: my.Tracker}`. Each is called as (run_dir, run_id,
    its other arguments), in rank 0; one run of theirs holds all attempts of a run folder."""
