"""A function on forked gloo ranks, and what it returned on each."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

Body = Callable[[Any, int], Any]
"""What a rank does: (its group, its number) -> a value for the test."""


def run_ranks(body: Body, world: int, folder: Path, deadline_s: float = 40) -> list[Any]:
    """The values of `body` on `world` gloo ranks; an assertion where one fails or is not done in time."""
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_rank, args=(body, rank, world, folder)) for rank in range(world)]
    end = time.monotonic() + deadline_s
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(max(0.0, end - time.monotonic()))
    for process in ranks:
        process.kill()  # those that are not done; no effect on the others
        process.join()
    assert [process.exitcode for process in ranks] == [0] * world
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]


def _rank(body: Body, rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=20))
    torch.save(body(dist.group.WORLD, rank), folder / f"{rank}.pt")
    dist.destroy_process_group()
