"""Ranks as people write them, and tasks as SLURM counts them."""

from __future__ import annotations

import re
from collections.abc import Iterable


def rank_text(ranks: Iterable[int]) -> str:
    """Ranks as people write them: `0-3,6`."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def ranks_of(text: str) -> tuple[int, ...]:
    """The inverse of `rank_text`."""
    ranks: list[int] = []
    for run in filter(None, text.split(",")):
        low, _, high = run.partition("-")
        ranks.extend(range(int(low), int(high or low) + 1))
    return tuple(ranks)


def tasks_per_node(text: str) -> tuple[int, ...]:
    """Tasks of each node, from SLURM's compressed list: `2(x3),1` is 2, 2, 2, 1."""
    runs = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return tuple(int(count) for count, times in runs for _ in range(int(times or 1)))
