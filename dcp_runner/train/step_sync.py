"""What the ranks agree on in every step, before the optimizer changes anything, in one small all-reduce."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist

from dcp_runner.common.signals import STOP_SIGNALS


@dataclass(frozen=True)
class StepOutcome:
    """The same on all ranks."""

    loss: float
    """Mean over the global batch."""
    finite: bool
    """Whether the loss of every rank and the gradient norm are finite."""
    overdue: bool
    """Rank 0 found that a save by time is due."""
    stop: int | None
    """A signal that reached any rank; the first of STOP_SIGNALS where several did."""


def agree(loss: float | None, norm: float, overdue: bool, stop: int | None) -> StepOutcome:
    """All-reduce a rank's mean loss (None: it computes none), whether that and the gradient norm are finite, whether
    a save is due (only rank 0's answer counts), and the signal it got.

    The loss is averaged over the ranks that have one, which stand for equally many samples each.
    """
    first = not dist.is_initialized() or dist.get_rank() == 0
    own = torch.tensor(
        [
            0.0 if loss is None else loss,
            loss is not None,
            not (math.isfinite(norm) and (loss is None or math.isfinite(loss))),
            overdue and first,
            *(stop == number for number in STOP_SIGNALS),
        ],
        dtype=torch.float64,
    )
    total, count, bad, due, *asked = _summed(own).tolist()
    signum = next((number for number, ranks in zip(STOP_SIGNALS, asked, strict=True) if ranks), None)
    return StepOutcome(total / count, not bad, due > 0, signum)


def mean(total: float, count: int) -> float:
    """Sum of all ranks' totals over the sum of their counts; NaN where nothing was counted."""
    totals, counts = _summed(torch.tensor([total, count], dtype=torch.float64)).tolist()
    return totals / counts if counts else math.nan


def _summed(own: torch.Tensor) -> torch.Tensor:
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(own)
    return own
