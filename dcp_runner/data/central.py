"""One rank reads for all ranks: for data that only one process may open, or that should be cached only once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch.distributed as dist

from dcp_runner.data.feed import Feed
from dcp_runner.data.loader import Batch
from dcp_runner.data.scatter import Scatter


@final
@dataclass(kw_only=True, eq=False, repr=False)
class CentralFeed(Feed):
    """Rank 0 of a group reads the complete step and sends every rank its part.

    `next` is a collective call of the group. If reading fails, rank 0 raises the data set's error and every other
    rank a RuntimeError, in the same call. The batches are those of `IndependentFeed`, bit for bit.

    Raises:
        ValueError: besides those of `Feed`, `part_of_rank` does not fit the group or `part`.
    """

    group: dist.ProcessGroup | None
    """All ranks that take part, with a CPU backend; None: only this process, without a process group."""
    part_of_rank: Sequence[int]
    """The part of each rank of the group, in the group's order; several ranks may have the same part."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ranks = 1 if self.group is None else dist.get_world_size(self.group)
        rank = 0 if self.group is None else dist.get_rank(self.group)
        if len(self.part_of_rank) != ranks:
            raise ValueError(f"part_of_rank must have an entry for each of {ranks} ranks, found {self.part_of_rank}")
        if self.part_of_rank[rank] != self.part:
            raise ValueError(f"part_of_rank[{rank}] must be part={self.part}, found {self.part_of_rank[rank]}")
        self._scatter = None if self.group is None else Scatter(self.group, self.part_of_rank)

    def _microbatches_to_read(self) -> range:
        return range(self.parts * self.microbatches)

    def _read(self) -> list[Batch]:
        if self._scatter is None:
            return self._read_parts()[self.part]
        batches: list[Batch] = self._scatter(self._read_parts)
        return batches

    def _read_parts(self) -> list[list[Batch]]:
        batches = self._reader.read(self.consumed)
        return [batches[first : first + self.microbatches] for first in range(0, len(batches), self.microbatches)]
