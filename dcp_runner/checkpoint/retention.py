"""Which checkpoints no rule keeps. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from dcp_runner.checkpoint.config import Best, KeepConfig


def steps_to_delete(
    metrics_of: Mapping[int, Mapping[str, float]], keep: KeepConfig, protected: Collection[int] = ()
) -> list[int]:
    """Steps of the checkpoints that no rule keeps, ascending; `metrics_of` has all committed ones.

    The newest always stays, and so does what is protected (the source of the resume). Of equally good ones the
    newest is kept.
    """
    steps = sorted(metrics_of)
    if keep.last is None or not steps:
        return []
    stay = {steps[-1], *protected, *steps[-max(keep.last, 1) :]}
    sign = 1 if keep.mode is Best.min else -1
    finite = [
        step for step in steps if metrics_of[step].get(keep.metric, float("nan")) == metrics_of[step].get(keep.metric)
    ]
    stay.update(sorted(finite, key=lambda step: (sign * metrics_of[step][keep.metric], -step))[: keep.best])
    if keep.every:
        stay.update(step for step in steps if step % keep.every == 0)
    return [step for step in steps if step not in stay]
