"""Ranks that are threads of one process, with a store in memory: for what needs several ranks, and no faults."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from torch.distributed import HashStore

from dcp_runner.checkpoint.sync.comm import Comm


def among(size: int, work: Callable[[Comm], Any]) -> list[Any]:
    """Do the work as so many ranks; what it gives or raises on each."""
    store, results = HashStore(), [None] * size

    def run(rank: int) -> None:
        try:
            results[rank] = work(Comm(store, rank, size, timeout_s=20))
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=[rank]) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
