"""Which checkpoints to delete under the retention rules of a KeepConfig. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import isnan

from dcp_runner.checkpoint.config import Best, KeepConfig


def steps_to_delete(
    metrics_of: Mapping[int, Mapping[str, float]], keep: KeepConfig, protected: Collection[int] = ()
) -> list[int]:
    """The steps of the checkpoints that no rule keeps, ascending; `metrics_of` has the metrics of all committed ones.

    The newest is always kept, and so are the `protected` ones (the source of a resume). Of equally good ones the newest
    counts as the best.
    """
    steps = sorted(metrics_of)
    if keep.last is None or not steps:
        return []
    kept = {steps[-1], *protected, *steps[-max(keep.last, 1) :]}
    sign = 1 if keep.mode is Best.min else -1
    values = {step: metrics_of[step][keep.metric] for step in steps if keep.metric in metrics_of[step]}
    ranked = sorted((step for step in values if not isnan(values[step])), key=lambda step: (sign * values[step], -step))
    kept.update(ranked[: keep.best])
    if keep.every:
        kept.update(step for step in steps if step % keep.every == 0)
    return [step for step in steps if step not in kept]
