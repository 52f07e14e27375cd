"""The configuration of checkpoints. Plain data: nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from dcp_runner.common.settings import setting


class Validation(StrEnum):
    """How the holders of a copy are compared before it is written. Every level above `none` detects every difference;
    they differ in how much of it the error names.
    """

    none = "none"
    quick = "quick"
    tensor = "tensor"
    full = "full"


class Check(StrEnum):
    """Which bytes a load checks against their digests."""

    all = "all"
    read = "read"


class Best(StrEnum):
    """Whether a smaller or a larger value of the metric is better."""

    min = "min"
    max = "max"


@dataclass(kw_only=True)
class KeepConfig:
    """Which checkpoints are kept: those that any rule keeps, and always the newest. Retired checkpoints have a rule of
    their own; the other rules do not count them.
    """

    last: int | None = setting(None, at_least=1)
    """Keep this many of the newest; null keeps all."""
    best: int = setting(1, at_least=0)
    """Keep this many of the best by `metric`, whatever their age. Counts as 0 if `metric` is eval_loss and the run has
    no evaluation."""
    every: int | None = setting(None, at_least=1)
    """Keep every checkpoint whose step is a multiple of this."""
    metric: str = "eval_loss"
    """The metric that decides which is best, as the manifest recorded it at the save: loss (of that step's batch),
    eval_loss, or a metric that a callback adds in `on_evaluate`."""
    mode: Best = Best.min
    """Whether smaller (min) or larger (max) is better."""
    retired: int | None = setting(1, at_least=0)
    """Of the checkpoints that were retired by resuming from an earlier step, keep this many of those saved last; the
    next save deletes the others. null keeps all."""


@dataclass(kw_only=True)
class CheckpointConfig:
    """When to save, what to verify, what to keep."""

    root: str | None = None
    """The checkpoint root; null means `checkpoints` in the run folder."""
    every_steps: int | None = setting(100, at_least=1)
    """Save each time this many optimizer steps are done; null: not by steps."""
    every_minutes: float | None = setting(None, above=0)
    """Save when this many minutes have passed since the last save, by rank 0's clock; null: not by time."""
    at_end: bool = True
    """Save after the last step."""
    eval_on_save: bool = True
    """Evaluate before a save if `keep.last` and `keep.best` need the metric; not after a stop signal, when time is
    short."""
    validation: Validation = Validation.tensor
    """How the holders of a copy are compared before a save: none, quick, tensor or full."""
    validation_for: dict[str, Validation] = setting(default_factory=dict, open=True)
    """The same for individual components: `+checkpoint.validation_for.optimizer=quick`."""
    check: Check = Check.all
    """A load checks the digests of all files (divided among the ranks), or only of what it reads."""
    timeout_s: float = setting(600.0, above=0)
    """Seconds after which a rank that does not respond counts as failed, in any phase of a save or a load."""
    keep: KeepConfig = field(default_factory=KeepConfig)
    """Which checkpoints to keep."""

    @property
    def saves(self) -> bool:
        """Whether a save is planned; a stop signal causes one in any case."""
        return self.every_steps is not None or self.every_minutes is not None or self.at_end
