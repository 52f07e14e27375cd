"""What ranks exchange in a step: with one rank, and among three."""

from __future__ import annotations

import math
import multiprocessing
import signal
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from dcp_runner.train.step_sync import StepOutcome, global_mean, sync_step


@pytest.mark.parametrize(
    ("loss", "norm", "finite"),
    [(2.0, 1.0, True), (math.nan, 1.0, False), (2.0, math.inf, False), (2.0, math.nan, False)],
)
def test_one_rank(loss: float, norm: float, finite: bool) -> None:
    outcome = sync_step(loss, norm, True, int(signal.SIGTERM))
    assert outcome.finite is finite and outcome.overdue and outcome.stop == signal.SIGTERM
    assert outcome.loss == pytest.approx(loss, nan_ok=True)
    assert global_mean(6.0, 4) == 1.5 and math.isnan(global_mean(0.0, 0))


def rank(number: int, folder: Path, results: Any) -> None:
    store = dist.FileStore(str(folder / "store"), 3)
    dist.init_process_group("gloo", store=store, rank=number, world_size=3)
    loss = [None, 2.0, 4.0][number]
    stop = [None, signal.SIGUSR1, signal.SIGINT][number]
    late = sync_step(loss, 1.0, number == 1, stop)
    broken = sync_step(1.0, math.nan if number == 2 else 1.0, number == 0, None)
    results.put((number, late, broken, global_mean([0.0, 6.0, 2.0][number], [0, 3, 1][number])))
    dist.destroy_process_group()


@pytest.mark.slow
def test_three_ranks(tmp_path: Path) -> None:
    """The loss is the mean over ranks that have one, the clock is rank 0's, and SIGINT wins over a preemption signal."""
    fork = multiprocessing.get_context("fork")
    results = fork.Queue()
    ranks = [fork.Process(target=rank, args=(number, tmp_path, results)) for number in range(3)]
    for process in ranks:
        process.start()
    found = sorted(results.get(timeout=60) for _ in ranks)
    for process in ranks:
        process.join(60)
    late, broken = StepOutcome(3.0, True, False, signal.SIGINT), StepOutcome(1.0, False, True, None)
    assert found == [(number, late, broken, 2.0) for number in range(3)]
