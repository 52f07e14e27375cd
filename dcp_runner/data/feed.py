"""Where the training loop gets its batches from, and the data position that a checkpoint stores.

Step k of a run is the same set of samples whatever the topology: the next `batch_size` samples of the run's order.
They are split into parts, one for each data-parallel rank, and each part into micro-batches, always in contiguous
slices. The position is one number, the samples consumed so far, equal on every rank. So a run that continues with
another number of parts neither repeats nor drops a sample.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, final

from dcp_runner.data.loader import Batch, Reader
from dcp_runner.data.order import Order
from dcp_runner.data.seeded import MapDataset


@dataclass(kw_only=True, eq=False, repr=False)
class Feed(ABC):
    """The micro-batches of one rank, step after step; with `state_dict` and `load_state_dict` for the checkpoint.

    Raises:
        ValueError: the data set is empty, the batch size is not divisible, or there is no such part.
    """

    dataset: MapDataset
    """Its items are pairs (inputs, targets)."""
    batch_size: int
    """Samples of one optimizer step over all parts."""
    parts: int
    """Data-parallel parts that a step is split into."""
    part: int
    """The part of this rank."""
    microbatches: int
    """Micro-batches of one step in each part."""
    seed: int
    """Determines the order of the samples and the randomness inside the items."""
    shuffle: bool
    """A new order for every epoch."""
    workers: int
    """Loader processes of a rank that reads; 0: the rank reads itself. They start at the first `next`."""
    consumed: int = field(default=0, init=False)
    """Samples returned by `next`, over all parts. Samples that were only read ahead do not count."""

    def __post_init__(self) -> None:
        slices = self.parts * self.microbatches
        if min(self.batch_size, slices) < 1 or self.batch_size % slices:
            raise ValueError(
                f"batch_size must be a multiple of data-parallel parts * micro-batches = "
                f"{self.parts} * {self.microbatches} = {slices}, found {self.batch_size}"
            )
        if self.part not in range(self.parts):
            raise ValueError(f"part must be one of 0 to {self.parts - 1}, found {self.part}")
        self._reader = Reader(
            self.dataset,
            Order(len(self.dataset), self.seed, self.shuffle),
            step=self.batch_size,
            size=self.batch_size // slices,
            numbers=self._microbatches_to_read(),
            workers=self.workers,
        )

    @final
    def next(self) -> list[Batch]:
        """The micro-batches of this rank for one optimizer step. If it raises, nothing is consumed."""
        batches = self._read()
        self.consumed += self.batch_size
        return batches

    @final
    def example(self) -> Batch:
        """A micro-batch of the usual shape, which repeats the first item of the data set; consumes nothing."""
        return self._reader.example()

    @final
    def state_dict(self) -> dict[str, Any]:
        """The position, and the order of samples that it refers to."""
        return {"consumed": self.consumed} | self._order_state()

    @final
    def mismatches(self, state: dict[str, Any]) -> list[str]:
        """Why a saved position does not apply to this feed, with the remedy; empty if it does."""
        found = [
            f"{key} {state.get(key)} in the checkpoint, {value} now"
            for key, value in self._order_state().items()
            if state.get(key) != value
        ]
        if not found:
            return []
        return [
            f"the data position of the checkpoint, consumed={state.get('consumed')}, refers to another order of "
            f"samples: {'; '.join(found)}. resume_skip=[dataset] starts the data from the first sample."
        ]

    @final
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to the saved position, at a cost that does not depend on the position.

        Raises:
            ValueError: the saved position refers to another data set or another order.
        """
        if problems := self.mismatches(state):
            raise ValueError("; ".join(problems))
        self.consumed = state["consumed"]

    @final
    def close(self) -> None:
        """Stop the loader processes. The position stays, and `next` starts them again."""
        self._reader.close()

    @abstractmethod
    def _microbatches_to_read(self) -> range:
        """The numbers of the micro-batches of a step that this rank reads; part p starts at p * microbatches."""

    @abstractmethod
    def _read(self) -> list[Batch]:
        """The micro-batches of this rank's part for the step that starts at `consumed`."""

    def _order_state(self) -> dict[str, Any]:
        return {"length": len(self.dataset), "seed": self.seed, "shuffle": self.shuffle}


@final
class IndependentFeed(Feed):
    """Each rank reads its own part."""

    def _microbatches_to_read(self) -> range:
        return range(self.part * self.microbatches, (self.part + 1) * self.microbatches)

    def _read(self) -> list[Batch]:
        return self._reader.read(self.consumed)
