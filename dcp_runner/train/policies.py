"""When to save and which checkpoints to keep. Pure: no torch, no files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from dcp_runner.checkpoint.config import CheckpointConfig, KeepConfig


@dataclass
class SavePolicy:
    """Save every `every_steps` steps, or when `every_minutes` minutes have passed since the last save."""

    every_steps: int | None
    every_minutes: float | None
    clock: Callable[[], float]
    """Seconds. Only rank 0's clock counts; the other ranks get its answer."""

    def __post_init__(self) -> None:
        self._last = self.clock()

    @classmethod
    def of(cls, config: CheckpointConfig, clock: Callable[[], float]) -> SavePolicy:
        return cls(config.every_steps, config.every_minutes, clock)

    def overdue(self) -> bool:
        """Whether a save is due by this rank's clock."""
        return self.every_minutes is not None and self.clock() - self._last >= 60 * self.every_minutes

    def due(self, step: int, overdue: bool) -> bool:
        """Whether to save after this step; `overdue` is rank 0's answer, equal on all ranks."""
        return overdue or (self.every_steps is not None and step % self.every_steps == 0)

    def saved(self) -> None:
        self._last = self.clock()


def recorded_metrics(evaluates: bool) -> tuple[str, ...]:
    """The metrics that a save records without a callback."""
    return ("loss", "eval_loss") if evaluates else ("loss",)


def effective_keep(keep: KeepConfig, evaluates: bool) -> KeepConfig:
    """The retention rules of a run: without an evaluation, only the loss can decide which checkpoints are the best."""
    return keep if evaluates or keep.metric in recorded_metrics(False) else replace(keep, best=0)


def needs_metric(checkpoint: CheckpointConfig) -> bool:
    """Whether a save evaluates first, because retention needs the metric of each checkpoint."""
    return checkpoint.eval_on_save and _chosen_by_evaluation(checkpoint.keep)


def best_caveat(checkpoint: CheckpointConfig, eval_every: int | None) -> str:
    """What users should know about checkpoint.keep.best in this run; empty: nothing. eval_every=None: no evaluation."""
    if not _chosen_by_evaluation(checkpoint.keep):
        return ""
    if eval_every is None:
        return f"checkpoint.keep.best has no effect: this run has no evaluation, hence no {checkpoint.keep.metric}"
    if checkpoint.every_minutes is None and (checkpoint.every_steps or 0) % eval_every == 0:
        return ""
    if checkpoint.eval_on_save:
        return "checkpoint.keep.best: a save between two evaluations evaluates first (checkpoint.eval_on_save)"
    return (
        "checkpoint.keep.best: a checkpoint saved between two evaluations is never one of the best "
        "(checkpoint.eval_on_save=false)"
    )


def _chosen_by_evaluation(keep: KeepConfig) -> bool:
    return keep.last is not None and keep.best > 0 and keep.metric not in recorded_metrics(False)
