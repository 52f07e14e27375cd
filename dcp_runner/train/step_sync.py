"""The single small all-reduce of each step, before the optimizer changes anything: all ranks agree on loss, finiteness,
stop signal and overdue saves (rank 0's clock decides).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist

from dcp_runner.common.signals import STOP_SIGNALS


@dataclass(frozen=True)
class StepOutcome:
    """Equal on all ranks."""

    loss: float
    """Mean over the global batch."""
    finite: bool
    """Whether the loss of every rank and the gradient norm are finite."""
    overdue: bool
    """Whether a save is due by rank 0's clock."""
    stop: int | None
    """The stop signal that reached any rank; of several the first one in STOP_SIGNALS."""


def sync_step(loss: float | None, norm: float, overdue: bool, stop: int | None) -> StepOutcome:
    """All-reduce this rank's mean loss (None: it computes none), whether loss and gradient norm are finite, whether a
    save is due by the clock (only rank 0's answer counts), and the stop signal that it received.

    The loss is averaged over the ranks that compute one; each of them stands for equally many samples.
    """
    is_rank_0 = not dist.is_initialized() or dist.get_rank() == 0
    own = torch.tensor(
        [
            0.0 if loss is None else loss,
            loss is not None,
            not (math.isfinite(norm) and (loss is None or math.isfinite(loss))),
            overdue and is_rank_0,
            *(stop == number for number in STOP_SIGNALS),
        ],
        dtype=torch.float64,
    )
    total, count, nonfinite, due, *signalled = _sum_over_ranks(own).tolist()
    signum = next((number for number, ranks in zip(STOP_SIGNALS, signalled, strict=True) if ranks), None)
    return StepOutcome(total / count, not nonfinite, due > 0, signum)


def global_mean(total: float, count: int) -> float:
    """The sum of all ranks' totals divided by the sum of their counts; NaN if nothing was counted."""
    totals, counts = _sum_over_ranks(torch.tensor([total, count], dtype=torch.float64)).tolist()
    return totals / counts if counts else math.nan


def _sum_over_ranks(own: torch.Tensor) -> torch.Tensor:
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(own)
    return own
