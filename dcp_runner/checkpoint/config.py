"""What a user may say about checkpoints. Plain data: nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from dcp_runner.common.settings import setting


class Validation(StrEnum):
    """How the holders of one copy are compared before it is written. Every level above `none` finds every
    difference.
    """

    none = "none"
    quick = "quick"
    tensor = "tensor"
    full = "full"


class Check(StrEnum):
    """Which bytes are checked against their digests while a checkpoint is loaded."""

    all = "all"
    read = "read"


class Best(StrEnum):
    """Whether a smaller or a larger value of the metric is better."""

    min = "min"
    max = "max"


@dataclass(kw_only=True)
class KeepConfig:
    """Which checkpoints stay. A checkpoint stays if any rule keeps it; the newest always stays. Retired ones have a
    rule of their own, and are none of those that the other rules count.
    """

    last: int | None = setting(None, at_least=1)
    """Keep this many of the newest ones; null keeps all."""
    best: int = setting(1, at_least=0)
    """Keep this many of the best ones by `metric`, whatever their age. Counts as 0 where `metric` is eval_loss and the
    run has no evaluation."""
    every: int | None = setting(None, at_least=1)
    """Keep every checkpoint whose step is a multiple of this."""
    metric: str = "eval_loss"
    """The metric that decides which is best, as recorded in the manifest at the save: loss (of the step's batch),
    eval_loss, or what a callback adds in `on_evaluate`."""
    mode: Best = Best.min
    """Whether smaller (min) or larger (max) is better."""
    retired: int | None = setting(1, at_least=0)
    """Of the checkpoints that were retired by going back to an earlier step, keep this many of those saved last; the
    others are deleted at the next save. null keeps all.
    """


@dataclass(kw_only=True)
class CheckpointConfig:
    """When to save, how well to check, what to keep."""

    root: str | None = None
    """Folder of the checkpoints; null means `checkpoints` in the run folder."""
    every_steps: int | None = setting(100, at_least=1)
    """Save after every so many optimizer steps; null: not by steps."""
    every_minutes: float | None = setting(None, above=0)
    """Save when this many minutes have passed since the last save, by rank 0's clock; null: not by time."""
    at_end: bool = True
    """Save after the last step."""
    eval_on_save: bool = True
    """Evaluate before a save, where `keep.last` and `keep.best` need the metric; not where a signal asked to stop,
    because then time is short."""
    validation: Validation = Validation.tensor
    """How holders of one copy are compared before a save: none, quick, tensor or full."""
    validation_for: dict[str, Validation] = setting(default_factory=dict, open=True)
    """The same for single components: `+checkpoint.validation_for.optimizer=quick`."""
    check: Check = Check.all
    """On loading, check the digests of all files (shared out between the ranks) or only of what is read."""
    timeout_s: float = setting(600.0, above=0)
    """Seconds after which a silent rank counts as failed in any phase of a save or a load."""
    keep: KeepConfig = field(default_factory=KeepConfig)
    """Retention."""

    @property
    def saves(self) -> bool:
        """Whether a save is planned; a signal makes one in any case."""
        return self.every_steps is not None or self.every_minutes is not None or self.at_end
