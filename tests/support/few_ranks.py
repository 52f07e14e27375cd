"""A Comm among a few real ranks, for what needs several of them and no faults.

They are forked: gloo in the process of the tests itself would hang every rank that is forked later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gloo_ranks import Rank, run

from dcp_runner.checkpoint.sync.comm import Comm


def among(size: int, work: Callable[[Comm], Any]) -> list[Any]:
    """Do the work as so many ranks; what it gives or raises on each."""

    def body(rank: Rank) -> Any:
        try:
            return work(rank.comm("few", timeout_s=20))
        except Exception as error:
            return error

    return run(body, size)
