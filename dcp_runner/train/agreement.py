"""What the ranks tell each other at every step boundary, in one small all-reduce."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist

from dcp_runner.train.signals import STOP_SIGNALS


@dataclass(frozen=True)
class StepOutcome:
    """The same on all ranks."""

    loss: float
    """Mean over the global batch."""
    overdue: bool
    """Rank 0 found that a save by time is due."""
    stop: int | None
    """A signal that reached any rank; the first of STOP_SIGNALS where several did."""


def agree(loss: torch.Tensor | None, overdue: bool, stop: int | None) -> StepOutcome:
    """All-reduce a rank's mean loss (None: it computes none), its wish to save (only rank 0's counts), and the signal
    it got.

    The loss is averaged over the ranks that have one, which stand for equally many samples each.
    """
    first = not dist.is_initialized() or dist.get_rank() == 0
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    told = torch.tensor(
        [
            0.0 if loss is None else float(loss),
            loss is not None,
            overdue and first,
            *(stop == number for number in STOP_SIGNALS),
        ],
        dtype=torch.float64,
    )
    if ranks > 1:
        dist.all_reduce(told)
    total, count, wished, *asked = told.tolist()
    signum = next((number for number, ranks in zip(STOP_SIGNALS, asked, strict=True) if ranks), None)
    return StepOutcome(total / count, wished > 0, signum)


def mean(total: float, count: int) -> float:
    """Sum of all ranks' totals over the sum of their counts; NaN where nothing was counted."""
    told = torch.tensor([total, count], dtype=torch.float64)
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(told)
    return float(told[0] / told[1])
